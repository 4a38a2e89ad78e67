"""Describing a SavedModel to people: sentences, and the README.md beside it."""

import contextlib

_CELLS = {"gru": "GRU", "lstm": "LSTM", "simple_rnn": "Simple RNN"}
_UNKNOWN = "Of the tokens, {:.1%} are not in its vocabulary."
_TRAINED = (
    "Trained on {corpus}: {characters:,} characters, {epochs:g} epoch(s)."
)
# The front matter is that of model cards on the Hugging Face Hub.
_README = """\
---
library_name: stacked_rnn
pipeline_tag: {pipeline_tag}
tags:
- tensorflow
- savedmodel
- {cell}
---

# {name}

{sentences}

This directory is complete in itself. It loads wherever TensorFlow runs:

```python
import tensorflow as tf

model = tf.saved_model.load(".")
print(model.signatures["serving_default"](tf.constant(["some text"])))
```

With stacked_rnn, {use}.
"""


def readme(name, description, num_parameters) -> str:
    """Writes the README.md of a model.

    Args:
        name: the name of the model.
        description: a `saved_models.Description`.
        num_parameters: number of its weights.
    """
    return _README.format(
        name=name,
        pipeline_tag=description.info.pipeline_tag,
        cell=description.model_config.cell.replace("_", "-"),
        sentences="\n".join(sentences(description, num_parameters)),
        use=description.info.use,
    )


def sentences(description, num_parameters) -> list[str]:
    """Describes a model in sentences: architecture, training, quality.

    Args:
        description: a `saved_models.Description`.
        num_parameters: number of its weights.
    """
    config, training = description.model_config, description.training
    layers = description.info.layers.format(
        num_layers=config.num_layers,
        decoder_layers=config.decoder_layers or config.num_layers,
    )
    found = [
        f"{'Bidirectional ' * config.bidirectional}{_CELLS[config.cell]} "
        f"{description.task.replace('_', ' ')} of {config.units} units, "
        f"{layers}: {num_parameters:,} parameters, "
        f"{config.vocabulary_size:,} tokens ({description.tokenizer.kind})."
    ]
    if labels := description.entries.get("labels"):
        found.append(f"Its classes: {', '.join(labels)}.")
    # The record of another program or version may lack any of these entries:
    # then the sentence is left out.
    is_record = isinstance(training, dict)
    validation = training.get("validation") if is_record else None
    for text, values in (
        (_TRAINED, training),
        (description.info.quality_text, validation),
    ):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            found.append(text.format(**values))
    share = training.get("unknown_share") if is_record else None
    if isinstance(share, float) and share > 0.0005:
        found.append(_UNKNOWN.format(share))
    if is_record and training.get("learned_all"):
        found.append("After that, it learned the validation text, too.")
    return found

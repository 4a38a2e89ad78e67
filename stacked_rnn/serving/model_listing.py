"""The entry of a model in the list of models: its task and a short card."""

import contextlib
import dataclasses

from stacked_rnn import saved_models

_TRAINED = (
    "Trained on {corpus}: {characters:,} characters, {epochs:g} epoch(s)."
)


@dataclasses.dataclass(frozen=True, eq=False)
class ListedModel:
    """A version of a model that is ready, or is loaded on the first request.

    Attributes:
        name, version: what it is served as.
        task: a name in `configs.TASKS`.
        created: modification time of its graph, in seconds since 1970.
        card: sentences that describe it.
    """

    name: str
    version: int
    task: str
    created: int
    card: list[str]

    @classmethod
    def from_description(cls, name, version, description, *others):
        """Makes an entry from a `saved_models.Description`.

        Args:
            name, version: what it is served as.
            description: the metadata of the version.
            *others: the fields that a subclass adds.
        """
        path = description.path
        return cls(
            name,
            version,
            description.task,
            int((path / saved_models.GRAPH_FILE).stat().st_mtime),
            model_card(description, saved_models.num_parameters(path)),
            *others,
        )


def model_card(description, num_parameters) -> list[str]:
    """Describes a model in sentences: architecture, training, quality."""
    config, training = description.model_config, description.training
    cell = {"gru": "GRU", "lstm": "LSTM", "simple_rnn": "Simple RNN"}
    layers = description.info.layers.format(
        num_layers=config.num_layers,
        decoder_layers=config.decoder_layers or config.num_layers,
    )
    sentences = [
        f"{'Bidirectional ' * config.bidirectional}{cell[config.cell]} "
        f"{description.task.replace('_', ' ')} of {config.units} units, "
        f"{layers}: {num_parameters:,} parameters, "
        f"{config.vocabulary_size:,} tokens ({description.tokenizer.kind})."
    ]
    if labels := description.entries.get("labels"):
        sentences.append(f"Its classes: {', '.join(labels)}.")
    # The record of another program or version may lack any of these entries:
    # then the sentence is left out.
    is_record = isinstance(training, dict)
    validation = training.get("validation") if is_record else None
    for text, values in (
        (_TRAINED, training),
        (description.info.quality_text, validation),
    ):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            sentences.append(text.format(**values))
    if is_record and training.get("learned_all"):
        sentences.append("After that, it learned the validation text, too.")
    return sentences

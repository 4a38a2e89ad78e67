"""Writes an exported model as one file for another runtime.

  python export.py                              the newest model, as NAME.onnx
  python export.py --saved_model=saved_models/pydoc --format=litert
  python export.py --format=litert --weights=int8 --text=held_out.txt
  python export.py --format=pytorch             the weights, for PyTorch
  python export.py --format=html                a page that generates, NAME.html

For ONNX Runtime or LiteRT, on phones, in browsers, in other languages, the file
holds one step of the model, (token_ids, states) -> (logits, states). The file
NAME.vocabulary.json beside it says what the token ids mean. docs/runtimes.md
has a program for each runtime that generates without TensorFlow. With
--format=html the file is such a program, too: any browser opens it, offline.

With --format=pytorch, the file holds the weights for PyTorch's own layers, and
its header the vocabulary; train.py --init_from reads such a file. With
--format=keras, it holds the Keras model, for keras.saving.load_model.
"""

import pathlib

from stacked_rnn import configs
from stacked_rnn.cli import flags
from stacked_rnn.configs import UserError


def main(saved_model_config, config):
    """Writes the file, and measures its loss on --text."""
    from stacked_rnn import datasets, inference, saved_models
    from stacked_rnn.export import runtimes

    description = saved_models.find_description(
        saved_model_config.saved_model, "language_model"
    )
    format = runtimes.FORMATS[config.format]
    name = saved_models.model_name(description.path)
    path = output_path(config, name, format)
    runtimes.check(path, description)
    text = b""
    if config.text:
        text = datasets.read_text(config.text, description.tokenizer)
    model = inference.from_description(description)
    before = model.evaluate(text)["nats_per_token"] if text else None

    runtimes.write(model, path, config.weights)
    wrote = f"Wrote {path} ({path.stat().st_size:,} bytes)"
    if format.has_vocabulary:
        wrote += f" and {runtimes.vocabulary_path(path)}"
    print(f"{wrote} from {model.path}")
    if text:
        after = runtimes.nats_per_token(model, path, text)
        print(
            f"{config.text}: {after:.4f} nats per token, the SavedModel "
            f"{before:.4f}: {after - before:+.4f}"
        )
    print(f"Next: {format.next_step.format(path=path)}")
    if format.load and not text:
        print("Add --text=FILE to measure its loss on a text.")


def output_path(config, name, format):
    """Returns the path to write to.

    Args:
        config: the `ExportConfig`.
        name: of the model.
        format: the `runtimes.Format`.

    Raises:
        UserError: --output has another ending than the format.
    """
    if config.weights not in ("auto", format.weights):
        name += f"-{config.weights}"
    path = pathlib.Path(config.output or name + format.suffix)
    if path.suffix != format.suffix:
        raise UserError(
            f"--output={path}: with --format={config.format} the name must end "
            f"in {format.suffix}"
        )
    return path


def run():
    """Console entry point."""
    flags.run(main, configs.SavedModelConfig, configs.ExportConfig)

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
from stacked_rnn.utils import terminal


def main(saved_model_config, config):
    """Writes the file, and measures its loss on --text."""
    from stacked_rnn import datasets, inference, saved_models
    from stacked_rnn.export import runtimes

    if config.format in ("pytorch", "keras"):
        export_weights(saved_model_config, config)
        return
    runtimes.require(config.format)
    format = runtimes.FORMATS[config.format]
    text = b""
    if config.text:
        description = saved_models.find_description(
            saved_model_config.saved_model, "language_model"
        )
        text = datasets.read_text(config.text, description.tokenizer)
    model = inference.load(saved_model_config.saved_model, "language_model")
    path = output_path(config, model.path, format.suffix, format.weights)
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
    if format.has_vocabulary:
        print("Next: docs/runtimes.md says how to generate without TensorFlow.")
    else:
        print(f"Next: open {path} in a browser; it needs no network.")
    if not text:
        print("Add --text=FILE to measure its loss on a text.")


def export_weights(saved_model_config, config):
    """Writes the weights, for PyTorch or Keras."""
    from stacked_rnn import saved_models, training
    from stacked_rnn.models import keras_file, torch_weights

    description = saved_models.find_description(
        saved_model_config.saved_model, "language_model"
    )
    suffix, page = keras_file.SUFFIX, "docs/python.md"
    if config.format == "pytorch":
        suffix, page = torch_weights.SUFFIX, "docs/runtimes.md"
        torch_weights.require("--format=pytorch")
        torch_weights.check_layers(description.model_config)
    path = output_path(config, description.path, suffix)
    model = training.read_saved_model(description)
    if config.format == "pytorch":
        torch_weights.write(model, description.tokenizer, path)
    else:
        keras_file.write(model, path)
    print(
        f"Wrote {path} ({path.stat().st_size:,} bytes) from {description.path}"
        f"\nNext: {page} says how to load it."
    )


def output_path(config, version, suffix, weights="float32"):
    """Returns the path to write to, and makes its directory.

    Args:
        config: the `ExportConfig`.
        version: directory of the model.
        suffix: of the file's name.
        weights: the type of the weights that needs no mention in the name.
    """
    from stacked_rnn import saved_models

    name = saved_models.model_name(version)
    if config.weights not in ("auto", weights):
        name += f"-{config.weights}"
    path = pathlib.Path(config.output or name + suffix)
    if path.suffix != suffix:
        raise UserError(
            f"--output={path}: with --format={config.format} the name must end "
            f"in {suffix}"
        )
    terminal.writable_directory("output", path.parent)
    return path


def run():
    """Console entry point."""
    flags.run(main, configs.SavedModelConfig, configs.ExportConfig)

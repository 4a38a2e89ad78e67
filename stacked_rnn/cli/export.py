"""Writes an exported model as one file for another runtime.

  python export.py                              the newest model, as NAME.onnx
  python export.py --saved_model=saved_models/pydoc --format=litert
  python export.py --format=litert --weights=int8 --text=held_out.txt
  python export.py --format=html                a page that generates, NAME.html

For ONNX Runtime or LiteRT, on phones, in browsers, in other languages, the file
holds one step of the model, (token_ids, states) -> (logits, states). The file
NAME.vocabulary.json beside it says what the token ids mean. docs/runtimes.md
has a program for each runtime that generates without TensorFlow. With
--format=html the file is such a program, too: any browser opens it, offline.
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

    runtimes.require(config.format)
    format = runtimes.FORMATS[config.format]
    text = b""
    if config.text:
        description = saved_models.find_description(
            saved_model_config.saved_model, "language_model"
        )
        text = datasets.read_text(config.text, description.tokenizer)
    model = inference.load(saved_model_config.saved_model, "language_model")
    path = output_path(config, model, format)
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


def output_path(config, model, format):
    """Returns the path to write to, and makes its directory."""
    name = model.name
    if config.weights not in ("auto", format.weights):
        name += f"-{config.weights}"
    path = pathlib.Path(config.output or name + format.suffix)
    if path.suffix != format.suffix:
        raise UserError(
            f"--output={path}: with --format={config.format} the name must end "
            f"in {format.suffix}"
        )
    terminal.writable_directory("output", path.parent)
    return path


def run():
    """Console entry point."""
    flags.run(main, configs.SavedModelConfig, configs.ExportConfig)

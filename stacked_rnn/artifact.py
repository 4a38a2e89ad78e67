"""The directory of a SavedModel: where it is, and what it says of itself.

saved_models/NAME/VERSION/   saved_model.pb, variables/
    assets/tokenizer.json            the tokenizer
    assets.extra/config.json         the architecture, the defaults, and how
                                     it was trained
    assets.extra/tf_serving_warmup_requests  see `warmup`
"""

import json
import os
import pathlib

import tensorflow as tf

from stacked_rnn import tokenizers
from stacked_rnn.configs import ModelConfig, SamplingConfig, UserError

TOKENIZER_FILE = "assets/tokenizer.json"
CONFIG_FILE = "assets.extra/config.json"


def read_description(path, flag="saved_model"):
    """What a SavedModel says of itself besides its graph and its weights.

    Args:
        path: the directory of a version.
        flag: what a `UserError` calls it.

    Returns:
        Its `ModelConfig`, the `SamplingConfig` it was exported with, and its
        tokenizer.
    """
    try:
        config = json.loads((path / CONFIG_FILE).read_text())
        tokenizer = json.loads(
            (path / TOKENIZER_FILE).read_text(encoding="utf-8")
        )
        return (
            ModelConfig.from_dict(config["model"]),
            SamplingConfig.from_dict(config["sampling"]),
            tokenizers.from_dict(tokenizer),
        )
    except FileNotFoundError as error:
        raise UserError(
            f"--{flag}={path}: not a SavedModel of stacked_rnn: it has no "
            f"{os.path.relpath(error.filename, path)}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--{flag}={path}: damaged: {error}; export it again"
        ) from error


def read_task(path) -> str:
    """What a SavedModel is for, as `--task` has it."""
    try:
        config = json.loads((path / CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return "language_model"  # who reads it says what is wrong
    return config.get("task", "language_model")


def read_classes(path) -> tuple[tuple[str, ...], bool]:
    """Of a classifier the names of its classes, and whether texts have several.

    Raises:
        UserError: it is none.
    """
    if read_task(path) != "classifier":
        raise UserError(
            f"--saved_model={path}: no classifier, but a language model: "
            "generate.py continues texts with it, and evaluate.py scores them"
        )
    config = json.loads((path / CONFIG_FILE).read_text())
    return tuple(config["labels"]), config["several_labels"]


def load_functions(path):
    """What `tf.saved_model.load` gives.

    Switches TensorFlow's graph optimizer off, for all that the process does
    afterwards.

    Raises:
        UserError: the SavedModel is damaged.
    """
    # It takes 0.4 s before the first token, and makes nothing faster after.
    tf.config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": True}
    )
    try:
        return tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow has many types for a damaged file
        raise UserError(
            f"--saved_model={path}: damaged or cut short "
            f"({type(error).__name__}): copy or export it again"
        ) from error


def read_training(path) -> dict | None:
    """What a SavedModel says of how it was trained: see `Trainer.summary`."""
    return json.loads((path / CONFIG_FILE).read_text()).get("training")


def find(saved_model) -> pathlib.Path:
    """The version directory that `--saved_model` means.

    Args:
        saved_model: a version directory, or its parent: the highest version;
            empty: the newest under saved_models/.
    """
    if not saved_model:
        found = pathlib.Path("saved_models").glob("*/[0-9]*/saved_model.pb")
        newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            raise UserError(
                "no SavedModel under saved_models/: run train.py first, or "
                "name one with --saved_model=DIR"
            )
        return newest.parent
    path = pathlib.Path(saved_model)
    if not path.is_dir():
        raise UserError(f"--saved_model={path}: no such directory")
    version = find_version(path)
    if version is None:
        raise UserError(
            f"--saved_model={path}: neither a SavedModel nor a directory of "
            "its versions: there is no saved_model.pb in it"
        )
    return version


def find_version(path) -> pathlib.Path | None:
    """The SavedModel that a directory is, or the highest version in it."""
    if (path / "saved_model.pb").exists():
        return path
    complete = [
        version
        for version in versions(path)
        if (path / str(version) / "saved_model.pb").exists()
    ]
    return path / str(max(complete)) if complete else None


def versions(export_dir) -> list[int]:
    """The versions in a directory: its entries whose names are numbers."""
    return [
        int(path.name) for path in export_dir.iterdir() if path.name.isdigit()
    ]

"""Locating a SavedModel and reading its metadata.

saved_models/NAME/VERSION/   saved_model.pb, variables/
    assets/tokenizer.json            the tokenizer
    assets.extra/config.json         the architecture, the defaults, and how
                                     it was trained
    assets.extra/tf_serving_warmup_requests  see `warmup_requests`
"""

import dataclasses
import json
import math
import os
import pathlib
import sys

import tensorflow as tf

from stacked_rnn import tokenizers
from stacked_rnn.configs import TASKS, ModelConfig, TaskInfo, UserError

TOKENIZER_FILE = "assets/tokenizer.json"
CONFIG_FILE = "assets.extra/config.json"
GRAPH_FILE = "saved_model.pb"


@dataclasses.dataclass(frozen=True)
class Description:
    """The metadata of a SavedModel: all but its graph and its weights.

    Attributes:
        path: the directory of its version.
        task: a name in `configs.TASKS`.
        model_config, tokenizer: the architecture and the tokenizer.
        training: how it was trained (`Trainer.summary`), or None.
        entries: what models of its task have besides: JSON values by name.
    """

    path: pathlib.Path
    task: str
    model_config: ModelConfig
    tokenizer: tokenizers.Tokenizer
    training: dict | None
    entries: dict

    @property
    def info(self) -> TaskInfo:
        """What is known about its task."""
        return TASKS[self.task]


def read_description(path, flag="saved_model") -> Description:
    """Reads the metadata of a SavedModel.

    Args:
        path: the directory of a version.
        flag: what a `UserError` calls it.
    """
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        tokenizer = json.loads(
            (path / TOKENIZER_FILE).read_text(encoding="utf-8")
        )
        model_config = ModelConfig.from_dict(config["model"])
        task = config.get("task", "language_model")  # once there was no other
        return Description(
            path,
            task,
            model_config,
            tokenizers.from_dict(tokenizer),
            config.get("training"),
            {name: config[name] for name in TASKS[task].entries},
        )
    except FileNotFoundError as error:
        raise UserError(
            f"--{flag}={path}: not a SavedModel of stacked_rnn: it has no "
            f"{os.path.relpath(error.filename, path)}"
        ) from error
    except PermissionError as error:
        raise _unreadable(path, flag, error) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--{flag}={path}: damaged: {error}; export it again"
        ) from error


def _unreadable(path, flag, error) -> UserError:
    return UserError(
        f"--{flag}={path}: cannot be read ({error.strerror}): check its "
        "permissions"
    )


def find_description(saved_model, *tasks) -> Description:
    """Finds a model and reads its metadata.

    Args:
        saved_model: see `find`.
        *tasks: names in `configs.TASKS`: what it may be for; none: anything.

    Raises:
        UserError: there is none, or it is for another task.
    """
    tasks = tasks or tuple(TASKS)
    description = read_description(find(saved_model, tasks))
    if description.task not in tasks:
        info = description.info
        raise UserError(
            f"--saved_model={description.path}: {info.title}: {info.use}, and "
            "evaluate.py scores it"
        )
    return description


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


def find(saved_model, tasks=tuple(TASKS)) -> pathlib.Path:
    """The version directory that `--saved_model` means.

    Args:
        saved_model: a version directory, or its parent: the highest version;
            empty: the newest of a task under saved_models/, which is named on
            standard error.
        tasks: those that the caller has a use for.
    """
    if not saved_model:
        path = _newest(tasks)
        if path is None:
            names = " or ".join(TASKS[task].title for task in tasks)
            raise UserError(
                f"nothing under saved_models/ is {names}: run train.py first, "
                "or name one with --saved_model=DIR"
            )
        print(f"the newest model: --saved_model={path}", file=sys.stderr)
        return path
    path = pathlib.Path(saved_model)
    if not os.path.isdir(path):
        raise UserError(f"--saved_model={path}: no such directory")
    version = find_version(path)
    if version is None:
        raise UserError(
            f"--saved_model={path}: neither a SavedModel nor a directory of "
            "its versions: there is no saved_model.pb in it"
        )
    return version


def _newest(tasks) -> pathlib.Path | None:
    """The version that was exported last, of the models of some tasks."""
    found = [
        path
        for path in pathlib.Path("saved_models").glob(f"*/*/{GRAPH_FILE}")
        if version_number(path.parent) is not None
    ]
    for path in sorted(found, key=_modified, reverse=True):
        if read_description(path.parent).task in tasks:
            return path.parent
    return None


def _modified(path) -> float:
    """When a file was; 0 where it is gone meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def find_version(path, flag="saved_model") -> pathlib.Path | None:
    """The SavedModel that a directory is, or the highest version in it.

    Args:
        path: the directory.
        flag: what a `UserError` calls it.

    Raises:
        UserError: the directory cannot be read.
    """
    try:
        return next(iter(find_versions(path)), None)
    except OSError as error:
        raise _unreadable(path, flag, error) from error


def find_versions(path) -> list[pathlib.Path]:
    """The SavedModel that a directory is, or those of its versions.

    Returns:
        Directories, the highest version first: those with a saved_model.pb,
        and those that cannot be looked into. Reading one says what is wrong.

    Raises:
        OSError: the directory itself cannot be read.
    """
    if (path / GRAPH_FILE).exists():
        return [path]
    return [
        version
        for _, version in sorted(versions(path).items(), reverse=True)
        if _may_have_graph(version)
    ]


def _may_have_graph(version) -> bool:
    try:
        (version / GRAPH_FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def versions(export_dir) -> dict[int, pathlib.Path]:
    """number -> directory of the versions in a directory.

    Of two names for one number, such as 7 and 007, the shorter one counts.
    """
    found = {}
    for path in sorted(export_dir.iterdir()):  # 007 comes before 7
        number = version_number(path)
        if number is not None:
            found[number] = path
    return found


def version_number(path) -> int | None:
    """The version that a directory is by its name; None: it is no version.

    A name of digits alone, as TensorFlow Serving has it: 3 and 0003, but not
    what a copy or an export that was killed has left, such as 3.bak.
    """
    is_number = path.name.isascii() and path.name.isdecimal()
    number = int(path.name) if is_number else 2**63
    return number if number < 2**63 else None


def num_parameters(path) -> int:
    """How many weights the SavedModel of a version has: reads no weight.

    Raises:
        OSError, tf.errors.OpError: the variables are missing or damaged.
    """
    shapes = tf.train.list_variables(str(path / "variables" / "variables"))
    return sum(
        math.prod(shape)
        for name, shape in shapes
        if name.endswith("/.ATTRIBUTES/VARIABLE_VALUE")
    )

"""Locating a SavedModel and reading its metadata.

saved_models/NAME/VERSION/
    saved_model.pb, variables/       the graph and the weights
    README.md                        a model card
    assets/tokenizer.json            the tokenizer
    assets.extra/config.json         the architecture, the default options, and
                                     how the model was trained
    assets.extra/chat_template.jinja  how a chat becomes a text; optional
    assets.extra/tf_serving_warmup_requests  see `export.warmup_requests`
"""

import atexit
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile
import zlib

import tensorflow as tf

from stacked_rnn import hub, model_cards, tokenizers
from stacked_rnn.configs import TASKS, ModelConfig, TaskInfo, UserError

TOKENIZER_FILE = "assets/tokenizer.json"
CONFIG_FILE = "assets.extra/config.json"
GRAPH_FILE = "saved_model.pb"
EXPORTED_FILE = "checkpoints/exported.json"  # of a run: what it exported last
ARCHIVE = ".zip"  # how the name of a model in an archive ends
_CHAT_TEMPLATE_FILE = "assets.extra/chat_template.jinja"


@dataclasses.dataclass(frozen=True)
class Description:
    """The metadata of a SavedModel: all but its graph and its weights.

    Attributes:
        path: the directory of its version.
        task: the model's task, a name in `configs.TASKS`.
        model_config: the architecture.
        tokenizer: the tokenizer.
        fingerprint: see `fingerprint`, as it was before anything was loaded.
        training: how the model was trained (`Trainer.summary`), or None.
        entries: the entries of config.json that only models of this task have
            (`TaskInfo.entries`), by name.
    """

    path: pathlib.Path
    task: str
    model_config: ModelConfig
    tokenizer: tokenizers.Tokenizer
    fingerprint: str | None
    training: dict | None
    entries: dict

    @property
    def info(self) -> TaskInfo:
        """The properties of the model's task."""
        return TASKS[self.task]

    def sentences(self) -> list[str]:
        """Describes the model in sentences: architecture, training, quality.

        Raises:
            OSError, tf.errors.OpError: the variables are missing or damaged.
        """
        return model_cards.sentences(self, num_parameters(self.path))


def read_description(path, flag="saved_model") -> Description:
    """Reads the metadata of a SavedModel.

    Args:
        path: the directory of a version.
        flag: name of the flag that the messages of errors mention.

    Raises:
        UserError: it is not a SavedModel of this project, cannot be read, or is
            damaged.
    """
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        tokenizer = json.loads(
            (path / TOKENIZER_FILE).read_text(encoding="utf-8")
        )
        model_config = ModelConfig.from_dict(config["model"])
        task = config.get("task", "language_model")  # once the only task
        return Description(
            path,
            task,
            model_config,
            tokenizers.from_dict(tokenizer),
            fingerprint(path),
            config.get("training"),
            {
                name: make(config[name])
                for name, make in TASKS[task].entries.items()
            },
        )
    except FileNotFoundError as error:
        raise UserError(
            f"--{flag}={path}: not a SavedModel of stacked_rnn, because it has "
            f"no {os.path.relpath(error.filename, path)}"
        ) from error
    except PermissionError as error:
        raise _unreadable(path, flag, error) from error
    except Exception as error:  # a damaged file raises anything
        raise UserError(
            f"--{flag}={path}: damaged: {error}; export it again"
        ) from error


def num_units(path) -> int:
    """Reads the width of a model's layers; 0 if its metadata are damaged.

    Unlike `read_description`, it makes no tokenizer, whose tables would
    initialize TensorFlow.

    Args:
        path: the directory of a version.
    """
    try:
        config = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        return int(config["model"]["units"])
    except Exception:  # a damaged file raises anything
        return 0


def _unreadable(path, flag, error) -> UserError:
    return UserError(
        f"--{flag}={path}: cannot be read ({error.strerror}): check its "
        "permissions"
    )


def find_description(saved_model, *tasks) -> Description:
    """Finds a SavedModel and reads its metadata.

    Args:
        saved_model: a directory or "", see `find`.
        *tasks: the tasks to accept, names in `configs.TASKS`; none: all tasks.

    Raises:
        UserError: the model does not exist, is damaged, or is for another task.
    """
    tasks = tasks or tuple(TASKS)
    description = read_description(find(saved_model, tasks))
    if description.task not in tasks:
        info = description.info
        raise UserError(
            f"--saved_model={description.path} is {info.title}: {info.use}, "
            "and evaluate.py scores it"
        )
    return description


def chat_template(path) -> str | None:
    """Reads the template of chats of a version, or returns None.

    Args:
        path: the directory of the version.
    """
    file = pathlib.Path(path, _CHAT_TEMPLATE_FILE)
    if not file.is_file():
        return None
    return file.read_text(encoding="utf-8-sig", errors="replace")


def write_chat_template(path, template) -> None:
    """Writes what `chat_template` reads."""
    file = pathlib.Path(path, _CHAT_TEMPLATE_FILE)
    file.write_text(template, encoding="utf-8")


def load_functions(path):
    """Loads a SavedModel with `tf.saved_model.load`.

    Side effect: switches off TensorFlow's graph optimizer for the rest of the
    process.

    Args:
        path: the directory of a version.

    Returns:
        What `tf.saved_model.load` returns.

    Raises:
        UserError: the SavedModel is damaged.
    """
    # The optimizer delays the first token by 0.4 s and speeds up none.
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


def find(saved_model, tasks=TASKS) -> pathlib.Path:
    """Finds the version directory that `--saved_model` stands for.

    Args:
        saved_model: the directory of a version, or its parent, which stands for
            its highest version; the directory of a run, which stands for what
            it exported; an archive (`LoadedModel.save`), or hf://USER/NAME on
            the Hugging Face Hub. Empty: the newest model under saved_models/,
            whose name is printed to standard error.
        tasks: tasks among which to choose the newest model.

    Raises:
        UserError: there is no such model.
    """
    if not saved_model:
        path = _newest(tasks)
        if path is None:
            names = " or ".join(TASKS[task].title for task in tasks)
            raise UserError(
                f"saved_models/ does not contain {names}: run train.py first, "
                "or name a model with --saved_model=DIR"
            )
        print(f"the newest model: --saved_model={path}", file=sys.stderr)
        return path
    version = find_version(find_directory(saved_model))
    if version is None:
        raise UserError(
            f"--saved_model={saved_model}: neither a SavedModel nor a "
            "directory of versions of one: no saved_model.pb found"
        )
    return version


def find_directory(saved_model) -> pathlib.Path:
    """Finds the directory that `--saved_model` stands for.

    Args:
        saved_model: see `find`; not empty.

    Returns:
        The directory itself, or that of a model from elsewhere; for a run, that
        of the version that it exported last.

    Raises:
        UserError: there is no such directory.
    """
    path = _local(saved_model)
    if os.path.isfile(path):
        raise UserError(
            f"--saved_model={saved_model}: a file: expected the directory of a "
            "model, or its .zip archive"
        )
    if not os.path.isdir(path):
        raise UserError(
            f"--saved_model={saved_model}: no such directory: train.py exports "
            "models"
        )
    return _exported_version(path) or path


def _local(saved_model) -> pathlib.Path:
    """The path of a model, which is downloaded or unpacked if need be."""
    if hub.is_name(saved_model):
        return hub.download(saved_model)
    path = pathlib.Path(saved_model)
    if path.suffix.lower() != ARCHIVE or not path.is_file():
        return path
    scratch = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    directory = pathlib.Path(scratch, path.stem)  # the model's name
    directory.mkdir()
    try:
        shutil.unpack_archive(path, directory, "zip")
    except (zipfile.BadZipFile, OSError, zlib.error) as error:
        raise UserError(
            f"--saved_model={path}: not an archive, or damaged ({error})"
        ) from error
    entries = [*directory.iterdir()]
    if len(entries) == 1 and entries[0].is_dir():
        return entries[0]  # packed with its name
    return directory


def _exported_version(run) -> pathlib.Path | None:
    """The version that a run was exported as last; None for what is no run.

    Raises:
        UserError: the version does not exist any more.
    """
    try:
        noted = json.loads((run / EXPORTED_FILE).read_text(encoding="utf-8"))
        paths = [noted.get("path", noted["version"]), noted["version"]]
        paths = [os.path.normpath(run.resolve() / path) for path in paths]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    for path in map(pathlib.Path, paths):
        if is_noted(path, noted):
            return path
    raise UserError(
        f"--saved_model={run}: the version that this run was exported as is "
        f"gone: {paths[0]}: to export it again, run train.py --flagfile="
        f"{run / 'config.flags'} --model_dir={run}"
    )


def is_noted(version, noted) -> bool:
    """Whether a version is the one that a run has noted in `EXPORTED_FILE`.

    Another model may have its number, once it has been deleted.
    """
    known = noted.get("fingerprint")  # old notes lack it
    return (version / GRAPH_FILE).is_file() and (
        known is None or known == fingerprint(version)
    )


def fingerprint(version) -> str | None:
    """Identifies the weights of a version; None where they are missing.

    It is a digest of the index of the variables, which has the checksum of
    each.
    """
    try:
        index = (version / "variables/variables.index").read_bytes()
    except OSError:
        return None
    return hashlib.sha256(index).hexdigest()


def _newest(tasks) -> pathlib.Path | None:
    """Returns the version that was exported last, of models for `tasks`.

    SavedModels of other programs, which have no `CONFIG_FILE`, are left out.
    """
    paths = [
        path
        for path in pathlib.Path("saved_models").glob(f"*/*/{GRAPH_FILE}")
        if version_number(path.parent) is not None
        and os.path.exists(path.parent / CONFIG_FILE)
    ]
    for path in sorted(paths, key=_modification_time, reverse=True):
        if read_description(path.parent).task in tasks:
            return path.parent
    return None


def _modification_time(path) -> float:
    """Returns the time of a file's last change; 0 if it no longer exists."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def find_version(path, flag="saved_model") -> pathlib.Path | None:
    """Returns a directory if it is a SavedModel, else its highest version.

    Args:
        path: the directory.
        flag: name of the flag that the messages of errors mention.

    Returns:
        The directory of a version, or None if there is none.

    Raises:
        UserError: the directory cannot be read.
    """
    try:
        return next(iter(find_versions(path)), None)
    except OSError as error:
        raise _unreadable(path, flag, error) from error


def find_versions(path) -> list[pathlib.Path]:
    """Lists the versions in a directory, or only itself if it is a SavedModel.

    Args:
        path: the directory.

    Returns:
        The directories with a saved_model.pb, the highest version first.
        Directories that cannot be searched are included: reading them raises an
        error that tells why.

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
    """Returns the version directories in a directory by number.

    Of two names for one number, such as 7 and 007, the shorter one counts.
    """
    paths = {}
    for path in sorted(export_dir.iterdir()):  # 007 comes before 7
        number = version_number(path)
        if number is not None:
            paths[number] = path
    return paths


def take_next_number(partial, export_dir) -> pathlib.Path:
    """Renames a directory to the next version; others may do so meanwhile."""
    while True:
        version = max(versions(export_dir), default=0) + 1
        path = export_dir / str(version)
        try:
            return partial.rename(path)
        except OSError:
            if not path.exists():
                raise


def version_number(path) -> int | None:
    """Returns the version number that a directory's name is, or None.

    As in TensorFlow Serving, the name consists of digits only: 3 and 0003 are
    versions, 3.bak or the rest of an interrupted export is not.
    """
    is_number = path.name.isascii() and path.name.isdecimal()
    number = int(path.name) if is_number else 2**63
    return number if number < 2**63 else None


def model_name(path) -> str:
    """Returns the name of a model: that of the directory of its versions.

    Args:
        path: the directory of a version; one from the Hugging Face Hub has the
            name of its repository.
    """
    directory = path.resolve()
    if version_number(directory) is not None:
        directory = directory.parent
    return hub.model_name(directory) or directory.name


def num_parameters(path) -> int:
    """Counts the parameters of a SavedModel without reading their values.

    Args:
        path: the directory of a version.

    Raises:
        OSError, tf.errors.OpError: the variables are missing or damaged.
    """
    shapes = tf.train.list_variables(str(path / "variables" / "variables"))
    return sum(
        math.prod(shape)
        for name, shape in shapes
        if name.endswith("/.ATTRIBUTES/VARIABLE_VALUE")
    )

"""Models on the Hugging Face Hub: hf://USER/NAME.

A repository there holds the files of one version of a SavedModel. Each commit
is a version of its own on the Hub.
"""

import contextlib
import os
import pathlib
import re

from stacked_rnn.configs import UserError

PREFIX = "hf://"
_CACHED = re.compile(r"models--(?:.+?--)?(.+)")


def is_name(path) -> bool:
    """Whether a path is a name on the Hub; a `pathlib.Path` has one slash."""
    return re.match(r"hf:[/\\]", os.fspath(path)) is not None


def model_name(directory) -> str | None:
    """Returns the name of the repository that a directory was downloaded from.

    Args:
        directory: what `download` returns: in the cache of huggingface_hub,
            it is models--USER--NAME/snapshots/COMMIT (some have no USER).

    Returns:
        NAME, or None if it is another directory.
    """
    snapshots = directory.parent
    found = _CACHED.fullmatch(snapshots.parent.name)
    return found[1] if found and snapshots.name == "snapshots" else None


def download(name) -> pathlib.Path:
    """Downloads a model, or finds it in the cache of huggingface_hub.

    Args:
        name: "hf://USER/NAME", or "hf://USER/NAME@REVISION".

    Returns:
        The directory of its files.

    Raises:
        UserError: huggingface_hub is missing, or the Hub does not have it.
    """
    hub = _hub(name)
    repository, _, revision = _repository(name).partition("@")
    with _errors_in_a_line(hub, name):
        path = hub.snapshot_download(repository, revision=revision or None)
    return pathlib.Path(path)


def upload(directory, name) -> str:
    """Uploads the files of a directory; returns the repository's address.

    Args:
        directory: the directory of a version.
        name: "hf://USER/NAME"; the repository is made if it does not exist.

    Raises:
        UserError: huggingface_hub is missing, or the Hub refuses.
    """
    hub = _hub(name)
    repository = _repository(name)
    with _errors_in_a_line(hub, name):
        address = hub.create_repo(repository, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            folder_path=str(directory),
            delete_patterns="*",  # of the version before
            commit_message="Upload a model of stacked_rnn",
        )
    return str(address)


def _repository(name) -> str:
    found = re.fullmatch(r"hf:[/\\]+([^/\\]+)[/\\]([^/\\]+)", os.fspath(name))
    if not found:
        raise UserError(f"{name}: expected {PREFIX}USER/NAME")
    return "/".join(found.groups())


def _hub(name):
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{name}: huggingface_hub is missing: pip install huggingface_hub"
        ) from None
    return huggingface_hub


@contextlib.contextmanager
def _errors_in_a_line(hub, name):
    """Turns errors of the Hub and of the network into a `UserError`."""
    # HTTPError: a lost connection, for one; older versions have another client.
    lost = getattr(hub.errors, "HTTPError", OSError)
    try:
        yield
    except (OSError, ValueError, hub.errors.HfHubHTTPError, lost) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{name}: {reason[0]}") from error

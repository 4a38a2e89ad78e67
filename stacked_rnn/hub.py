"""Models on the Hugging Face Hub: hf://USER/NAME.

A repository there holds the files of one version of a SavedModel. Each commit
is a version of its own on the Hub.
"""

import contextlib
import pathlib

from stacked_rnn.configs import UserError

PREFIX = "hf://"


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
    repository = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or repository.count("/") != 1:
        raise UserError(f"{name}: expected {PREFIX}USER/NAME")
    return repository


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
    try:
        yield
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{name}: {reason[0]}") from error

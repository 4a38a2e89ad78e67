"""Finding models and their versions below a directory."""

import contextlib
import logging
import os
import pathlib

from stacked_rnn import hub, saved_models
from stacked_rnn.configs import UserError

_log = logging.getLogger(__name__)


class ModelDirectory:
    """The models below a directory, or the single model that it holds.

    A directory that cannot be read is named in the log once, and the models in
    the others are found.

    Args:
        saved_model: a directory of several models, or what `saved_models.find`
            takes; empty: saved_models/.
        model_name: the name of a single model; empty: that of its directory.

    Attributes:
        versions: dict of model name -> directories of its versions, the highest
            first. Never changed in place, so any thread may read it.

    Raises:
        UserError: there is no model, or there are several and `model_name`.
    """

    def __init__(self, saved_model, model_name):
        saved_model = saved_model or "saved_models"
        self._root = saved_models.find_directory(saved_model)
        self._model_name = model_name
        self.versions = {}
        self._logged = {}  # path -> the error that was logged
        errors = {}
        try:
            self._is_single = bool(saved_models.find_versions(self._root))
            found = self._find(errors)
        except OSError as error:
            raise UserError(
                f"--saved_model={saved_model}: cannot be read "
                f"({error.strerror}): check its permissions"
            ) from error
        self._log_new(errors)
        if not found:
            raise UserError(
                f"--saved_model={saved_model}: neither a SavedModel nor a "
                "directory of SavedModels: there is no saved_model.pb below it"
            )
        if model_name and len(found) > 1:
            raise UserError(
                f"--model_name={model_name}: there are several models in "
                f"{saved_model}, named after their directories: "
                + ", ".join(sorted(found))
            )
        if model_name and not self._is_single:
            (name,) = found
            self._root, self._is_single = self._root / name, True
            found = self._find(errors)
        self.versions = found

    def scan(self) -> None:
        """Updates `versions`; keeps what was found where a scan fails."""
        errors = {}
        try:
            self.versions = self._find(errors)
        except OSError as error:
            errors[self._root] = error
        self._log_new(errors)

    def _find(self, errors) -> dict:
        """Looks for versions and returns them as `versions` has them.

        Args:
            errors: a dict; gets path -> error for each model whose directory
                cannot be read.

        Raises:
            OSError: the root cannot be read.
        """
        if self._is_single:
            paths = saved_models.find_versions(self._root)
            if not paths:
                return {}
            is_version = paths == [self._root] and (
                saved_models.version_number(self._root) is not None
            )
            directory = pathlib.Path(os.path.abspath(self._root))
            directory = directory.parent if is_version else directory
            name = hub.model_name(directory) or directory.name
            return {self._model_name or name: paths}
        found = {}
        for directory in sorted(self._root.iterdir()):
            # A .partial is an export or a copy that has not been renamed yet.
            if directory.name.startswith(".") or directory.suffix == ".partial":
                continue
            try:
                paths = directory.is_dir() and saved_models.find_versions(
                    directory
                )
            except FileNotFoundError:  # it was deleted just now
                continue
            except OSError as error:
                errors[directory] = error
                paths = self.versions.get(directory.name)
            if paths:
                found[directory.name] = paths
        return found

    def _log_new(self, errors) -> None:
        """Logs errors that the last scan did not have.

        Args:
            errors: dict of path -> error, all errors of this scan.
        """
        for path, error in errors.items():
            if str(error) != self._logged.get(path):
                _log.warning("%s: %s", path, error)
        self._logged = {path: str(error) for path, error in errors.items()}


def version_of(path) -> int:
    """The version number of a directory; 1 for a SavedModel without one."""
    number = saved_models.version_number(path)
    return 1 if number is None else number


def file_stamps(path) -> frozenset:
    """Sizes and times of the files of a version: differs once one changes."""

    def entries():
        for name in ("", "variables", "assets", "assets.extra"):
            directory = path / name
            with contextlib.suppress(OSError):  # it does not exist (yet)
                for file in (directory, *directory.iterdir()):
                    stat = file.stat()
                    yield (
                        file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns,
                    )  # fmt: skip

    return frozenset(entries())

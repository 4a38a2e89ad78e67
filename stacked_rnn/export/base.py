"""Writing a version of a SavedModel, whole or not at all."""

import json
import pathlib
import shutil
import tempfile

import tensorflow as tf

from stacked_rnn import saved_models
from stacked_rnn.configs import UserError
from stacked_rnn.export import warmup_requests


def save(module, export_dir, signatures, description, requests) -> pathlib.Path:
    """Writes the next version.

    Args:
        module: a `tf.Module` with a `tokenizer`.
        export_dir: directory of the versions.
        signatures: functions by name.
        description: what the model says of itself, JSON values.
        requests: (signature, inputs) each, to warm a server up with.

    Returns:
        The directory of the version, export_dir/VERSION.

    Raises:
        UserError: it cannot be written.
    """
    export_dir = pathlib.Path(export_dir)
    export_dir.mkdir(parents=True, exist_ok=True)
    # A name that is not a number is no version to any reader.
    partial = pathlib.Path(tempfile.mkdtemp(".partial", "export-", export_dir))
    try:
        _write(module, partial, signatures, description)
        warmup_requests.write(partial / warmup_requests.FILE, requests)
        partial.chmod(0o755)
        path = _take_next_number(partial, export_dir)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError | tf.errors.OpError):
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--export_dir={export_dir}: cannot write there ({reason}): "
                "free some space, and the same command exports the run"
            ) from error
        raise
    return path


def _take_next_number(partial, export_dir) -> pathlib.Path:
    """Renames a directory to the next version; others may do so meanwhile."""
    while True:
        version = max(saved_models.versions(export_dir), default=0) + 1
        path = export_dir / str(version)
        try:
            return partial.rename(path)
        except OSError:
            if not path.exists():
                raise


def _write(module, directory, signatures, description):
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer_json = pathlib.Path(
            scratch, pathlib.Path(saved_models.TOKENIZER_FILE).name
        )
        tokenizer_json.write_text(
            json.dumps(module.tokenizer.to_dict(), ensure_ascii=False),
            encoding="utf-8",
        )
        module.tokenizer_json = tf.saved_model.Asset(str(tokenizer_json))
        tf.saved_model.save(module, str(directory), signatures=signatures)
    config_json = directory / saved_models.CONFIG_FILE
    config_json.parent.mkdir()
    config_json.write_text(
        json.dumps(description, indent=2) + "\n", encoding="utf-8"
    )

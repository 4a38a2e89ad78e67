"""A model as a .keras file, which Keras loads with its layers and weights.

import keras
from stacked_rnn import models  # whose layers it needs

model = keras.saving.load_model("pydoc.keras")
"""

import pathlib
import tempfile

from stacked_rnn.configs import UserError

SUFFIX = ".keras"


def write(model, path) -> None:
    """Writes a model, whole or not at all.

    Args:
        model: a Keras model, one of `models`.
        path: the file.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(".partial", "", path.parent) as part:
            file = pathlib.Path(part, path.name)
            model.save(file)
            file.replace(path)
    except OSError as error:
        raise UserError(
            f"--output={path}: cannot write it: {error.strerror}"
        ) from error

"""Language models with the weights that a run or an export has saved."""

import tensorflow as tf

from stacked_rnn.configs import UserError
from stacked_rnn.models.language_model import (
    LanguageModel,
    build_language_model,
)


def read_saved_model(description, flag="saved_model") -> LanguageModel:
    """Builds the Keras model of an exported language model.

    Args:
        description: a `saved_models.Description`.
        flag: name of the flag that the messages of errors mention.

    Raises:
        UserError: the weights are damaged.
    """
    model = build_language_model(description.model_config)
    read_checkpoint(
        tf.train.Checkpoint(weights=[weight.value for weight in model.weights]),
        description.path / "variables" / "variables",
        f"--{flag}={description.path}",
    )
    return model


def read_checkpoint(root, path, named) -> None:
    """Reads the weights that a checkpoint has into variables.

    Args:
        root: a `tf.train.Checkpoint` of the variables, all of which must be in
            the file.
        path: of the files, without their endings.
        named: the flag and its value, for the message.

    Raises:
        UserError: the files are damaged, or those of another model.
    """
    try:
        # Not `restore`, which needs a save counter that a SavedModel lacks.
        status = root.read(str(path))
        status.assert_existing_objects_matched().expect_partial()
    except Exception as error:  # TensorFlow has many types for this
        raise UserError(
            f"{named}: the weights are damaged or not of this model "
            f"({type(error).__name__}): copy them again, or name another model"
        ) from error

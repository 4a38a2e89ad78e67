"""Importing TensorFlow, for the backend of Keras, without its notices."""

import contextlib
import os
import sys
import tempfile

from stacked_rnn.configs import UserError


def import_tensorflow() -> None:
    """Imports TensorFlow without its native start-up notices.

    They are written before any log level takes effect; if the import fails,
    they are shown. TensorFlow then takes only as much of a GPU's memory as it
    needs, since another process may use the same GPU.

    Raises:
        UserError: Keras has been imported for another backend.
    """
    if keras := sys.modules.get("keras"):
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise UserError(
                f"Keras runs on {backend} here: begin the program with "
                'os.environ["KERAS_BACKEND"] = "tensorflow"'
            )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # The account may have set Keras to another backend, for other work.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    with tempfile.TemporaryFile() as notices, contextlib.ExitStack() as stack:
        stderr = os.dup(2)
        stack.callback(os.close, stderr)
        os.dup2(notices.fileno(), 2)
        try:
            import tensorflow as tf

            # Notebooks would see where each export writes its files.
            tf.get_logger().setLevel("WARNING")
            tf.config.list_physical_devices()  # looks for a CUDA driver
        except BaseException:
            os.dup2(stderr, 2)
            notices.seek(0)
            sys.stderr.write(notices.read().decode("utf-8", "replace"))
            raise
        finally:
            os.dup2(stderr, 2)

"""Importing TensorFlow, for the backend of Keras, without its notices."""

import contextlib
import gc
import os
import sys
import tempfile

from stacked_rnn.configs import UserError

# What TensorFlow and Keras import wherever it is installed, for converters,
# wrappers and plots.
_EXTRAS = ("jax", "matplotlib", "matplotlib.pyplot", "sklearn")


def import_tensorflow(with_extras=True) -> None:
    """Imports TensorFlow without its native start-up notices.

    They are written before any log level takes effect; if the import fails,
    they are shown. TensorFlow then takes only as much of a GPU's memory as it
    needs, since another process may use the same GPU.

    Args:
        with_extras: whether TensorFlow and Keras may import JAX, Matplotlib and
            scikit-learn, which takes a third of the time. Without, what Keras
            does with them fails in this process; other code can import them.

    Raises:
        UserError: Keras has been imported for another backend.
    """
    if loaded := sys.modules.get("keras"):
        backend = loaded.backend.backend()
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
            with _quick_imports(() if with_extras else _EXTRAS):
                import keras  # noqa: F401
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


@contextlib.contextmanager
def _quick_imports(absent):
    """Imports without garbage collection, a quarter of the time.

    Args:
        absent: names of modules that seem not to be installed.
    """
    absent = [name for name in absent if name not in sys.modules]
    is_collecting = gc.isenabled()
    gc.disable()
    sys.modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        if is_collecting:
            gc.enable()

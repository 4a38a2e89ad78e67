"""The cores and GPUs that a process may use: asked here alone."""

import contextlib
import ctypes
import dataclasses
import glob
import math
import os
import pathlib

import tensorflow as tf

from stacked_rnn.configs import UserError

# What TensorFlow 2.21 opens; without one of them it leaves the cards alone.
_LIBRARIES = (
    "libcudart.so.12",
    "libcublas.so.12",
    "libcublasLt.so.12",
    "libcufft.so.11",
    "libcusolver.so.11",
    "libcusparse.so.12",
    "libcudnn.so.9",
)
# Of a container (Linux): microseconds of all cores, in so many of the clock.
_CPU_LIMIT = pathlib.Path("/sys/fs/cgroup/cpu.max")


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU of this process.

    Attributes:
        name: as its maker calls it.
        compute_capability: major and minor number.
    """

    name: str
    compute_capability: tuple[int, int]


def cores() -> int:
    """The CPU cores that this process may use, at least one.

    Those of the machine, but for its affinity (taskset, Slurm) and the limit
    of its container, rounded up, where the platform has these.
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    try:
        limit, period = map(float, _CPU_LIMIT.read_text("utf-8").split())
    except (OSError, ValueError):  # none, or "max"
        return count
    return max(1, min(count, math.ceil(limit / period)))


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that TensorFlow uses in this process."""
    if not tf.config.list_logical_devices("GPU"):
        return ()
    details = map(
        tf.config.experimental.get_device_details,
        tf.config.get_visible_devices("GPU"),
    )
    return tuple(
        Gpu(
            one.get("device_name", "a GPU"),
            one.get("compute_capability", (0, 0)),
        )
        for one in details
    )


def missing_libraries() -> list[str]:
    """Libraries for want of which TensorFlow does not use a card (Linux).

    Returns:
        Their names; none where no card was found, where it is in use, or where
        `CUDA_VISIBLE_DEVICES` hides it.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    if hidden or not glob.glob("/dev/nvidia[0-9]*") or gpus():
        return []
    return [name for name in _LIBRARIES if not _can_load(name)]


def _can_load(name) -> bool:
    """Whether a library is loaded, as TensorFlow's are by now, or found."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def errors_explained():
    """Turns TensorFlow's errors about memory and the like into one line."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if "No space left on device" in str(error):
            raise UserError(
                "--model_dir: the disk is full: free some space, and the same "
                "command goes on from the last checkpoint"
            ) from error
        raise UserError(
            "the memory is too small for a step: take a smaller --batch_size, "
            "or compute it in parts, --accumulate_steps=2 or more"
        ) from error
    except tf.errors.OpError as error:
        if "libdevice" not in str(error) and "ptxas" not in str(error):
            raise
        raise UserError(
            "XLA finds no compiler for this GPU (libdevice or ptxas of CUDA): "
            "pip install 'tensorflow[and-cuda]', or add --nojit_compile"
        ) from error

"""The CPU cores and GPUs that this process may use, and their errors."""

import contextlib
import ctypes
import dataclasses
import glob
import math
import os
import pathlib

import tensorflow as tf

from stacked_rnn.configs import DiskError, UserError

# Libraries that TensorFlow 2.21 loads; if one is missing, it uses no GPU.
_LIBRARIES = (
    "libcudart.so.12",
    "libcublas.so.12",
    "libcublasLt.so.12",
    "libcufft.so.11",
    "libcusolver.so.11",
    "libcusparse.so.12",
    "libcudnn.so.9",
)
# A container's limit (Linux): CPU microseconds, and the period they are per.
_CPU_LIMIT = pathlib.Path("/sys/fs/cgroup/cpu.max")


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU of this process.

    Attributes:
        name: the name of the model.
        compute_capability: major and minor version.
    """

    name: str
    compute_capability: tuple[int, int]


def cores() -> int:
    """Returns the number of CPU cores that this process may use, at least 1.

    That is the machine's number, reduced by the CPU affinity (taskset, Slurm)
    and by the limit of the container, rounded up, on platforms that have them.
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    try:
        limit, period = map(float, _CPU_LIMIT.read_text("utf-8").split())
    except (OSError, ValueError):  # no file, or no limit ("max")
        return count
    return max(1, min(count, math.ceil(limit / period)))


def gpus() -> tuple[Gpu, ...]:
    """Returns the GPUs that TensorFlow uses in this process."""
    if not tf.config.list_logical_devices("GPU"):
        return ()
    details = map(
        tf.config.experimental.get_device_details,
        tf.config.get_visible_devices("GPU"),
    )
    return tuple(
        Gpu(
            gpu.get("device_name", "a GPU"),
            gpu.get("compute_capability", (0, 0)),
        )
        for gpu in details
    )


def gpus_among(names) -> tuple[Gpu, ...]:
    """Returns the GPUs among devices of this process.

    Args:
        names: of TensorFlow's logical devices. If they name none, or parts of
            GPUs that a program has cut, all GPUs are returned.
    """
    all_gpus, specs = gpus(), map(tf.DeviceSpec.from_string, names)
    used = [spec.device_index for spec in specs if spec.device_type == "GPU"]
    if not used or max(used) >= len(all_gpus):
        return all_gpus
    return tuple(all_gpus[index] for index in used)


def missing_libraries() -> list[str]:
    """Returns the libraries that TensorFlow lacks to use a GPU (Linux).

    Returns:
        A list of file names; empty if there is no GPU, if it is in use, or if
        `CUDA_VISIBLE_DEVICES` hides it.
    """
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    if is_hidden or not glob.glob("/dev/nvidia[0-9]*") or gpus():
        return []
    return [name for name in _LIBRARIES if not _can_load(name)]


def _can_load(name) -> bool:
    """Returns whether a library is already loaded, or can be loaded."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def errors_explained():
    """Turns TensorFlow's errors of disk, memory or XLA into a `UserError`."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if "No space left on device" in str(error):
            raise DiskError(
                "--model_dir: the disk is full: free some space and repeat the "
                "command, which resumes from the last checkpoint"
            ) from error
        raise UserError(
            "out of memory: use a smaller --batch_size, or compute each step "
            "in parts with --accumulate_steps=2 or more"
        ) from error
    except tf.errors.OpError as error:
        if "libdevice" not in str(error) and "ptxas" not in str(error):
            raise
        raise UserError(
            "XLA needs libdevice and ptxas of CUDA for this GPU: "
            "pip install 'tensorflow[and-cuda]', or add --nojit_compile"
        ) from error

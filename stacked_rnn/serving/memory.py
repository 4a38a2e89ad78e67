"""The memory of this process, where the system tells (Linux)."""

import contextlib
import ctypes
import os
import pathlib

_STATM = pathlib.Path("/proc/self/statm")


def resident_bytes() -> int | None:
    """The memory that the process has in RAM; None where nobody tells."""
    try:
        pages = int(_STATM.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def trim() -> None:
    """Gives memory that was freed back to the system: glibc keeps it."""
    # Another C library has no such function.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)

"""The memory of this process, where the system tells (Linux)."""

import contextlib
import ctypes
import pathlib
import re

_STATUS = pathlib.Path("/proc/self/status")


def resident_bytes() -> int | None:
    """The memory that the process has in RAM; None where nobody tells."""
    try:
        status = _STATUS.read_text("utf-8")
    except OSError:
        return None
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def trim() -> None:
    """Gives memory that was freed back to the system: glibc keeps it."""
    # Another C library has no such function.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)

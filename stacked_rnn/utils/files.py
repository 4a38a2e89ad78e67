"""Atomic file writes, and locks between processes."""

import contextlib
import errno
import os
import pathlib
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None  # type: ignore[assignment]


@contextlib.contextmanager
def whole_file(path):
    """Opens a binary file to write that gets its name when the block succeeds.

    Args:
        path: path of the file. An existing file is replaced at the end of the
            block, and kept if the block fails.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)  # unset by write()
        raise


@contextlib.contextmanager
def locked(path, blocking=False):
    """Holds a lock, which the system releases if the process dies.

    If the file cannot be written, or the file system has no locks, the block
    runs without a lock.

    Args:
        path: path of the lock file, which is created, and removed at the end.
        blocking: wait while another process holds the lock.

    Raises:
        BlockingIOError: not blocking, and another process holds the lock.
    """
    is_held = False
    while not is_held:
        try:
            file = open(path, "wb")  # noqa: SIM115
        except OSError:
            yield
            return
        with file:
            _lock(file, blocking)
            with contextlib.suppress(FileNotFoundError):
                # False if the last holder has removed the file in between.
                is_held = os.path.samestat(
                    os.fstat(file.fileno()), os.stat(path)
                )
            if is_held:
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):  # open, on Windows
                        os.unlink(path)


def _lock(file, blocking) -> None:
    while True:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif msvcrt:
                mode = msvcrt.LK_NBLCK  # type: ignore[attr-defined]
                msvcrt.locking(  # type: ignore[attr-defined]
                    file.fileno(), mode, 1
                )
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                return  # a file system without locks
            if not blocking:
                raise BlockingIOError(*error.args) from error
        time.sleep(0.1)

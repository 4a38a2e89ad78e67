"""Files that are there whole, or not at all; locks between processes."""

import contextlib
import errno
import os
import pathlib
import time

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None


@contextlib.contextmanager
def whole_file(path):
    """Opens a file of bytes that takes its name once the block is done.

    Args:
        path: of the file; what was there before stays until then, and for good
            where the block fails.
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
            error.filename = error.filename or str(path)  # a write has none
        raise


@contextlib.contextmanager
def locked(path, waits=False):
    """Holds a lock that the system takes back from a process that dies.

    The file is removed at the end. Where none can be written, or the file
    system has no locks, nothing is locked.

    Args:
        path: of a file that is made for it.
        waits: until no other process holds it.

    Raises:
        BlockingIOError: another process holds it.
    """
    is_held = False
    while not is_held:
        try:
            file = open(path, "wb")  # noqa: SIM115
        except OSError:
            yield
            return
        with file:
            _lock(file, waits)
            with contextlib.suppress(FileNotFoundError):
                # Or its last holder has removed it in between.
                is_held = os.path.samestat(
                    os.fstat(file.fileno()), os.stat(path)
                )
            if is_held:
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):  # Windows: it is open
                        os.unlink(path)


def _lock(file, waits) -> None:
    while True:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif msvcrt:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                return  # a file system without locks
            if not waits:
                raise BlockingIOError(*error.args) from error
        time.sleep(0.1)

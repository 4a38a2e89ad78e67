"""Differences of other systems, simulated on this one.

Windows has neither `fcntl` nor most signals, and opens text in an encoding of
the country; macOS and Windows know no affinity (tests/devices_test.py).
"""

import ast
import errno
import os
import signal
import threading
import types

import pytest

from stacked_rnn.training import runs
from stacked_rnn.utils import files
from tests.helpers import ROOT

SOURCES = sorted([*ROOT.glob("*.py"), *(ROOT / "stacked_rnn").rglob("*.py")])
# Names that some systems lack, by module.
NOT_EVERYWHERE = {
    "os": {
        "fork", "forkpty", "getgid", "getloadavg", "getpgid", "getuid",
        "geteuid", "killpg", "mkfifo", "nice", "pread", "pwrite",
        "sched_getaffinity", "sched_setaffinity", "sendfile", "setpgid",
        "setsid", "statvfs", "sysconf", "uname", "wait3", "wait4",
        "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG",
    },
    "signal": {
        "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT",
        "SIGUSR1", "SIGUSR2", "SIGXFSZ", "alarm", "pause", "setitimer",
        "pthread_sigmask", "sigwait",
    },
}  # fmt: skip
MODULES_NOT_EVERYWHERE = {
    "curses", "fcntl", "grp", "msvcrt", "pty", "pwd", "readline", "resource",
    "syslog", "termios", "tty", "uvloop", "winreg",
}  # fmt: skip


def opened_without_encoding(source):
    """Yields lines that read or write text in the system's encoding."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        owner = getattr(getattr(call.func, "value", None), "id", "")
        named = {key.arg: ast.unparse(key.value) for key in call.keywords}
        given = [ast.unparse(argument) for argument in call.args]
        mode = named.get("mode", "".join(given[:2]))
        # Not of a path: os.open, gzip.open, datasets.read_text and the like.
        opens_text = (
            name in ("read_text", "write_text")
            and owner not in ("datasets", "text_files")
        ) or (name in ("open", "fdopen") and owner not in ("os", "gzip"))
        is_text = (opens_text and "b'" not in mode) or "True" in (
            named.get("text"), named.get("universal_newlines")
        )  # fmt: skip
        if is_text and "encoding" not in named and "'utf-8'" not in given:
            yield call.lineno


def unguarded(source):
    """Yields lines that use what some systems lack."""
    tree, guarded = ast.parse(source), set()
    for node in ast.walk(tree):
        is_guard = (
            isinstance(node, ast.If) and "hasattr(" in ast.unparse(node.test)
        ) or (
            isinstance(node, ast.Try)
            and any("ImportError" in ast.unparse(h) for h in node.handlers)
        )
        if is_guard:
            guarded.update(
                inner for part in node.body for inner in ast.walk(part)
            )
    for node in set(ast.walk(tree)) - guarded:
        if isinstance(node, ast.Attribute):
            owner = getattr(node.value, "id", "")
            if node.attr in NOT_EVERYWHERE.get(owner, ()):
                yield node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if (names | {getattr(node, "module", "")}) & MODULES_NOT_EVERYWHERE:
                yield node.lineno


@pytest.mark.parametrize("find", [opened_without_encoding, unguarded])
def test_sources_use_nothing_that_some_systems_lack(find):
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in find(path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    "find, source, is_found",
    [
        (opened_without_encoding, "open(path)", True),
        (opened_without_encoding, "path.open('w')", True),
        (opened_without_encoding, "(a / b).read_text()", True),
        (opened_without_encoding, "subprocess.run(x, text=True)", True),
        (opened_without_encoding, "open(path, mode='rb')", False),
        (opened_without_encoding, "a.write_text(b, encoding='utf-8')", False),
        (opened_without_encoding, "text_files.read_text(file)", False),
        (unguarded, "import fcntl", True),
        (unguarded, "from pwd import getpwnam", True),
        (unguarded, "os.kill(0, signal.SIGHUP)", True),
        (unguarded, "if hasattr(os, 'fork'):\n  os.fork()", False),
        (unguarded, "try:\n  import fcntl\nexcept ImportError:\n  0", False),
    ],
)
def test_planted_dependencies_on_the_system_are_found(find, source, is_found):
    assert bool(list(find(source))) == is_found


class Msvcrt(types.SimpleNamespace):
    """A lock as on Windows: on one byte, refused with EACCES."""

    LK_NBLCK = 2

    def __init__(self):
        self.holder = None

    def locking(self, descriptor, mode, length):
        assert (mode, length) == (self.LK_NBLCK, 1)
        if self.holder is not None and self._is_open(self.holder):
            raise OSError(errno.EACCES, "Permission denied")
        self.holder = (descriptor, os.fstat(descriptor).st_ino)

    def _is_open(self, holder):
        descriptor, inode = holder
        try:
            return os.fstat(descriptor).st_ino == inode
        except OSError:
            return False


@pytest.mark.parametrize("system", ["here", "windows", "no locks"])
def test_a_lock_is_held_waited_for_and_given_back(
    system, tmp_path, monkeypatch
):
    if system != "here":
        monkeypatch.setattr(files, "fcntl", None)
        msvcrt = Msvcrt() if system == "windows" else None
        monkeypatch.setattr(files, "msvcrt", msvcrt)
    path = tmp_path / "lock"
    came_in = threading.Event()

    def wait():
        with files.locked(path, blocking=True):
            came_in.set()

    waiting = threading.Thread(target=wait)
    with files.locked(path):
        if system == "no locks":
            with files.locked(path):
                pass
            return
        with pytest.raises(BlockingIOError), files.locked(path):
            pass
        waiting.start()
        assert not came_in.wait(0.2)
    assert came_in.wait(10)
    waiting.join()
    assert not path.exists()


def test_missing_signals_are_skipped(monkeypatch):
    """Windows has only SIGINT and SIGTERM."""
    for name in ("SIGHUP", "SIGUSR1"):
        monkeypatch.delattr(signal, name)
    before = signal.getsignal(signal.SIGTERM)
    with runs.StopRequest() as stop_request:
        assert not stop_request
        signal.raise_signal(signal.SIGTERM)
        assert stop_request
    assert signal.getsignal(signal.SIGTERM) is before

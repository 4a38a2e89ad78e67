"""Runs the project's scripts, each in a directory.

`run` and `Script` fork a process that has imported TensorFlow, other packages
and this one already: that takes seconds, and the tests start hundreds of
scripts. Only `stacked_rnn.cli` is imported anew, which notes when it begins.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile

from stacked_rnn import cli
from tests.helpers import ROOT, exports
from tests.helpers.waiting import wait_until

# A script that runs another one in a new Python.
IN_MEMORY = ROOT / "tests/helpers/in_memory.py"
_forks = multiprocessing.get_context("forkserver")
# Imported without garbage collection, a quarter of the time.
_forks.set_forkserver_preload(
    [
        "tests.helpers.gc_disabled",
        "tensorflow", "keras", "fastapi", "jinja2", "keras_tuner",
        "matplotlib.backends.backend_agg", "matplotlib.figure",
        "prometheus_client", "tensorboard.plugins.hparams.api", "uvicorn",
        "stacked_rnn.pipeline", "stacked_rnn.inference",
        "stacked_rnn.export.runtimes", "stacked_rnn.serving.server",
        "stacked_rnn.training.search",
        "tests.helpers.gc_frozen",
    ]
)  # fmt: skip


class Script:
    """A script at work in a fork.

    Args:
        directory: to work in, with a Keras cache of its own.
        script: a file of the project, or a command of the console, such as
            `stacked-rnn inspect`.
        *arguments: strings.
        stdin: bytes to read from standard input.
        in_memory: whether it exports as in `exports.in_memory`, much faster:
            then its exports cannot be used by other processes.
        **environment: more variables.
    """

    def __init__(
        self, directory, script, *arguments,
        stdin=b"", in_memory=False, **environment,
    ):  # fmt: skip
        self.arguments, self._written = [script, *arguments], None
        with tempfile.TemporaryFile() as entered:
            entered.write(stdin)
            entered.seek(0)
            # Written at their ends, and read here without moving these.
            self._files = [
                tempfile.TemporaryFile("ab+")  # noqa: SIM115
                for _ in range(2)
            ]
            self._process = _forks.Process(
                target=_run,
                args=(
                    [*_program(script), *map(str, arguments)],
                    str(directory),
                    environment,
                    in_memory,
                    [
                        _forks.reducer.DupFd(file.fileno())
                        for file in (entered, *self._files)
                    ],
                ),
                daemon=True,  # it ends with the tests, whatever happens
            )
            self._process.start()

    @property
    def output(self) -> str:
        """What it wrote to standard output so far."""
        return self._read(0)

    @property
    def errors(self) -> str:
        """What it wrote to standard error so far."""
        return self._read(1)

    def poll(self):
        """Its exit code, or None while it runs."""
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def wait_for(self, words, seconds=120):
        """Waits until it has written some words; fails where it ends before."""

        def are_there():
            has_ended = self.poll() is not None
            written = self.output + self.errors
            assert words in written or not has_ended, written
            return words in written

        wait_until(are_there, seconds)

    def finish(self, seconds=120) -> subprocess.CompletedProcess:
        """Waits for the end; fails, and kills it, when the time is up."""
        self._process.join(seconds)
        if self.poll() is None:
            self.kill()
            raise AssertionError(f"no end in {seconds} seconds: {self.errors}")
        self._close()
        return subprocess.CompletedProcess(
            self.arguments, self.poll(), self.output, self.errors
        )

    def kill(self):
        self.send_signal(signal.SIGKILL)
        self._process.join()
        self._close()

    def _close(self):
        """Keeps what was written, and closes the files."""
        self._written = [self._read(index) for index in range(2)]
        for file in self._files:
            file.close()

    def _read(self, index):
        if self._written:
            return self._written[index]
        descriptor = self._files[index].fileno()
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, size, 0).decode()


def run(directory, script, *arguments, **options):
    """Runs a script to its end in a fork; see `Script`.

    Returns:
        As `subprocess.run` does, the output captured as text.
    """
    return Script(directory, script, *arguments, **options).finish(300)


def run_anew(directory, script, *arguments, **options):
    """Runs a script as a person does, in a new Python."""
    options = {"timeout": 300} | options
    return subprocess.run(
        [sys.executable, ROOT / script, *arguments],
        cwd=directory, capture_output=True, text=True, check=False,
        env=os.environ | {"KERAS_HOME": str(directory / "keras")}, **options,
    )  # fmt: skip


def assert_flags_are_parsed(script, arguments):
    """Has a script parse flags, names and values, and do nothing else.

    It fails at the last argument, which is no flag.
    """
    ended = run(ROOT, script, *arguments, "the end")
    assert "'the end' is not a flag" in ended.stderr, ended.stderr


def _program(script):
    """The beginning of `sys.argv`."""
    if str(script).startswith("stacked-rnn "):
        return script.split()
    return [str(ROOT / script)]


def _run(arguments, directory, environment, in_memory, files):
    for number, file in enumerate(files):
        os.dup2(file.detach(), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.chdir(directory)
    os.environ["KERAS_HOME"] = os.path.join(directory, "keras")
    os.environ.update(environment)
    sys.argv = arguments
    sys.path.insert(0, str(ROOT))
    with exports.in_memory() if in_memory else contextlib.nullcontext():
        if arguments[0] == "stacked-rnn":
            cli.main()
        else:
            runpy.run_path(arguments[0], run_name="__main__")

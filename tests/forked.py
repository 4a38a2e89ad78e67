"""Commands in forks of a process that has imported TensorFlow already.

The import takes seconds, and the tests run some forty commands.
"""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tensorflow", "keras"])


def run(directory, script, *arguments) -> subprocess.CompletedProcess:
    """What `python script arguments` does in a directory.

    Args:
        directory: to work in, with a Keras cache of its own.
        script: a file of the project.
        *arguments: strings.

    Returns:
        As `subprocess.run` does, the output captured as text.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start(directory, script, arguments, stdout, stderr)
        process.join()
        output, errors = (
            (file.seek(0), file.read().decode())[1] for file in (stdout, stderr)
        )
    return subprocess.CompletedProcess(
        [script, *arguments], process.exitcode, output, errors
    )


def start(directory, script, arguments, stdout, stderr):
    """The same, at work; a `multiprocessing.Process`.

    Args:
        directory, script, arguments: see `run`.
        stdout, stderr: files that get the output.
    """
    process = _forks.Process(
        target=_run,
        args=(
            [str(ROOT / script), *arguments],
            str(directory),
            _forks.reducer.DupFd(stdout.fileno()),
            _forks.reducer.DupFd(stderr.fileno()),
        ),
    )
    process.start()
    return process


def assert_flags_are_parsed(script, arguments):
    """By the script itself: names and values, and nothing else happens.

    It reaches the last argument, which is no flag.
    """
    ended = run(ROOT, script, *arguments, "the end")
    assert "'the end' is not a flag" in ended.stderr, ended.stderr


def _run(arguments, directory, stdout, stderr):
    for number, duplicate in ((1, stdout), (2, stderr)):
        os.dup2(duplicate.detach(), number)
    os.chdir(directory)
    os.environ["KERAS_HOME"] = os.path.join(directory, "keras")
    sys.argv = arguments
    sys.path.insert(0, str(ROOT))
    runpy.run_path(arguments[0], run_name="__main__")

"""Measures contenders in separate processes, of which one runs at a time.

A library's threads may spin while they wait (OMP_WAIT_POLICY=ACTIVE), and two
libraries in one process disturb each other. So each contender is a process that
is stopped after each answer and continued for the next request. Its settings
are environment variables, which libraries read when they load: `settings` lists
those that a trial tries, `fastest` is the trial, and `compare_at_best` measures
contenders beside rivals that had one.

`python benchmarks/contenders.py LIBRARY` is such a process: it reads requests
from standard input, one line of JSON each.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

from common import last_line, percentages, steps_for, table, timed

from stacked_rnn.configs import UserError

TRIAL_TURNS = 2


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a contender runs, and with which settings.

    Attributes:
        library: "tensorflow", "torch", "jax.numpy", "mxnet.ndarray" or "numpy".
        maker: a function in a module of this directory. It returns a function
            that runs a number of steps.
        arguments: of the maker; they travel as JSON.
        setting: environment variables; None removes one.
        python: the interpreter of its process.
    """

    library: str
    maker: Callable
    arguments: dict
    setting: dict = dataclasses.field(default_factory=dict)
    python: str = sys.executable


def thread_counts():
    """The numbers of threads that a trial tries, by name: 1, and all cores."""
    return {
        f"{count} thread" + "s" * (count > 1): count
        for count in sorted({1, os.cpu_count() or 1})
    }


def settings(library):
    """The settings of a library that a trial tries: name -> variables.

    One thread or one per core; for PyTorch and MXNet, whose threads are
    OpenMP's, also whether they spin while they wait.
    """
    counts = {name: str(count) for name, count in thread_counts().items()}
    # XLA asks NPROC, not the machine, for the number of cores.
    variable = {"tensorflow": "TF_NUM_INTRAOP_THREADS", "jax.numpy": "NPROC"}
    if library in variable:
        return {n: {variable[library]: c} for n, c in counts.items()}
    return {
        f"{name}, {policy.lower()}": {
            "OMP_NUM_THREADS": count,
            "OMP_WAIT_POLICY": policy,
        }
        for name, count in counts.items()
        for policy in ("ACTIVE", "PASSIVE")
    }


def leave_out(name, reason):
    """Prints that a rival is not measured, and why."""
    print(f"{name} is left out: {reason}", file=sys.stderr)


def has(name, *packages):
    """Whether the packages of a rival are installed; prints what is missing."""
    missing = [p for p in packages if not importlib.util.find_spec(p)]
    if missing:
        leave_out(
            name,
            f"{', '.join(missing)} missing (pip install --editable '.[bench]')",
        )
    return not missing


def check_mxnet(python):
    """Checks that an interpreter has MXNet and what a contender needs.

    Raises:
        UserError: it does not, or cannot be started.
    """
    try:
        subprocess.run(
            [python, "-c", "import absl, mxnet"],
            capture_output=True,
            check=True,
            text=True,
        )
    except OSError as error:
        reason = error.strerror
    except subprocess.CalledProcessError as error:
        reason = last_line(error.stderr)
    else:
        return
    raise UserError(
        f"--mxnet_python={python}: {reason}: benchmarks/README.md says how to "
        "make its environment"
    )


class ContenderError(RuntimeError):
    """A contender raised an exception, or its process has ended."""


class Contender:
    """A process that builds functions and times them, else it is stopped."""

    def __init__(self, library, setting, python=sys.executable):
        if not hasattr(signal, "SIGSTOP"):
            raise UserError("this benchmark needs Linux or macOS (SIGSTOP)")
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | setting
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  see close
        # In its own process group Ctrl-C does not reach it; and when this
        # process is killed, the system continues and ends the stopped group.
        self._process = subprocess.Popen(
            [python, __file__, library],
            env={k: v for k, v in environment.items() if v is not None},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            text=True, process_group=0,
        )  # fmt: skip
        self._asked = 1  # the first answer says that the library is loaded

    def wait_until_loaded(self):
        """Waits for the library; a failure shows with the next answer."""
        with contextlib.suppress(ContenderError):
            self.answer()

    def build(self, place, maker, arguments):
        """Asks it to build a function, which replaces the one at `place`.

        The answer has the seconds of the `first_step`, and the `memory_mib`
        that building and three steps added to the process (Linux).
        """
        module = pathlib.Path(maker.__code__.co_filename).stem
        self._ask(place, build=[module, maker.__name__, arguments])

    def calibrate(self, place, seconds):
        """Asks for the number of `steps` that take about `seconds`."""
        self._ask(place, calibrate=seconds)

    def run(self, place, steps):
        """Asks for the `seconds_a_step` of a number of steps."""
        self._ask(place, steps=steps)

    def _ask(self, place, **request):
        request["place"] = str(place)
        self._asked += 1
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # `answer` says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def answer(self):
        """The answer to the oldest request; stops the process after the last.

        Raises:
            ContenderError: with the reason.
        """
        line = self._process.stdout.readline()
        if not line:
            reason = f"its process ended with {self._process.wait()}"
            raise ContenderError(f"{reason}: {self.last_words()}".rstrip(": "))
        self._asked -= 1
        if not self._asked:
            self._process.send_signal(signal.SIGSTOP)
            with contextlib.suppress(ChildProcessError):  # has ended
                os.waitpid(self._process.pid, os.WUNTRACED)  # until stopped
        answer = json.loads(line)
        if "failed" in answer:
            raise ContenderError(answer["failed"])
        return answer

    def last_words(self):
        """The last line of its standard error, or ""."""
        self._log.seek(0)
        return last_line(self._log.read())

    def close(self):
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


def answer(name, contender):
    """A contender's answer; {} and a line on standard error if it failed."""
    try:
        return contender.answer()
    except ContenderError as error:
        print(f"{name} failed: {error}", file=sys.stderr)
        return {}


def in_turn(entries, repetitions, seconds, shared=False, alone=()):
    """Measures entries in turn, while the others are stopped.

    Names an entry that fails on standard error, and leaves it out.

    Args:
        entries: name -> `Entry`.
        repetitions: turns of each.
        seconds: approximate length of a turn.
        shared: whether entries of one library and setting share a process.
        alone: names of entries that are built one at a time, before the others.

    Returns:
        name -> {"seconds_a_step": seconds per step in each turn, "first_step":
        its seconds, "memory_mib": by how much the process grew}.
    """
    contenders, processes, results, steps = {}, {}, {}, {}
    with contextlib.ExitStack() as stack:
        for name, entry in entries.items():
            key = (entry.library, *entry.setting.items()) if shared else name
            if key not in processes:
                processes[key] = Contender(
                    entry.library, entry.setting, entry.python
                )
                stack.callback(processes[key].close)
            contenders[name] = processes[key]
        for process in processes.values():
            process.wait_until_loaded()

        together = [name for name in entries if name not in alone]
        for names in (*([name] for name in alone), together):
            for name in names:
                entry = entries[name]
                contenders[name].build(name, entry.maker, entry.arguments)
            for name in names:
                if built := answer(name, contenders[name]):
                    results[name] = built | {"seconds_a_step": []}
        for name in list(results):
            contenders[name].calibrate(name, seconds)
            if calibrated := answer(name, contenders[name]):
                steps[name] = calibrated["steps"]
        for _ in range(repetitions):
            for name in list(steps):
                contenders[name].run(name, steps[name])
                if ran := answer(name, contenders[name]):
                    results[name]["seconds_a_step"].append(
                        ran["seconds_a_step"]
                    )
                else:
                    del steps[name]
    return {name: results[name] for name in entries if name in steps}


def fastest(contender, entries, seconds):
    """Finds a contender's fastest setting in a short trial.

    Args:
        contender: its name.
        entries: name of a setting -> `Entry`.
        seconds: approximate length of a turn.

    Returns:
        The name of the setting, None if all failed; and name -> seconds per
        step of all.
    """
    results = in_turn(
        {f"{contender}, {name}": entry for name, entry in entries.items()},
        TRIAL_TURNS,
        seconds,
        shared=True,
    )
    tried = {
        name.removeprefix(f"{contender}, "): min(result["seconds_a_step"])
        for name, result in results.items()
    }
    return min(tried, key=tried.get, default=None), tried


def compare_at_best(entries, rivals, config, alone=()):
    """Measures entries beside rivals at the fastest of their settings.

    Args:
        entries: name -> `Entry`, to be measured as they are.
        rivals: name -> name of a setting -> `Entry`, to be tried before.
        config: its `repetitions` and `seconds` count.
        alone: see `in_turn`.

    Returns:
        What `in_turn` returns, and a dict for the report: by name the "chosen"
        setting, all "trials", the "spread" (the slowest turn minus the fastest,
        divided by the median) and "seconds_a_step" of each turn.
    """
    entries, chosen, trials = dict(entries), {}, {}
    for name, candidates in rivals.items():
        chosen[name], trials[name] = fastest(
            name, candidates, config.seconds / 3
        )
        if chosen[name]:
            entries[name] = candidates[chosen[name]]
    results = in_turn(entries, config.repetitions, config.seconds, alone=alone)
    times = {name: result["seconds_a_step"] for name, result in results.items()}
    return results, {
        "chosen": chosen,
        "trials": trials,
        "spread": {
            name: (max(turns) - min(turns)) / statistics.median(turns)
            for name, turns in times.items()
        },
        "seconds_a_step": times,
    }


def median(result):
    """Seconds per step, the median of the turns."""
    return statistics.median(result["seconds_a_step"])


def settings_table(title, results, ours, rivals):
    """The lines of a table of the rivals' settings, and of all spreads.

    Args:
        title: of the first column.
        results: name of a row -> a dict from `compare_at_best`.
        ours: the name of this project.
        rivals: names of those that had a trial.
    """
    return table(
        [title, *rivals, "spread"],
        [
            [
                name,
                *map(result["chosen"].get, rivals),
                percentages(map(result["spread"].get, (ours, *rivals))),
            ]
            for name, result in results.items()
        ],
    )


# The process ------------------------------------------------------------------


def _memory(field):
    """MiB; 0 except on Linux. getrusage would tell the parent's peak."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(status.read_text().split(f"{field}:")[1].split()[0]) / 1024


def _work(library):
    """The contender's process: answers requests until its input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where libraries print
    str(importlib.import_module(library).ones((1,)))  # loads it
    print("{}", file=answers, flush=True)
    before, runs = _memory("VmRSS"), {}

    def respond(place, build=None, calibrate=None, steps=None):
        if build:
            module, maker, arguments = build
            runs.pop(place, None)
            run = getattr(importlib.import_module(module), maker)(**arguments)
            first_step = timed(run, 1)
            run(2)
            runs[place] = run
            grown = _memory("VmHWM") - before
            return {"first_step": first_step, "memory_mib": grown}
        if calibrate is not None:
            return {"steps": steps_for(runs[place], calibrate)}
        return {"seconds_a_step": timed(runs[place], steps) / steps}

    for line in sys.stdin:
        try:
            answered = respond(**json.loads(line))
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            answered = {"failed": f"{type(error).__name__}: {reason}"}
        print(json.dumps(answered), file=answers, flush=True)


if __name__ == "__main__":
    _work(sys.argv[1])

"""Contenders in processes of their own, of which one is awake at a time.

A library's threads may spin while they wait (OMP_WAIT_POLICY=ACTIVE), and two
libraries in one process disturb each other. So each contender is a process,
stopped as soon as it has answered and until it is asked again. Its settings are
variables of the environment, which libraries read when they load: `settings`
has those that a trial tries, and `fastest` is the trial.

`python benchmarks/contenders.py LIBRARY` is such a process: it takes requests
from standard input, a line of JSON each.
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

from measuring import steps_for, timed

from stacked_rnn.configs import UserError

TRIAL_TURNS = 2


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a contender runs, and how.

    Attributes:
        library: "tensorflow" or "torch".
        maker: a function of a module of this directory; what it returns runs
            a number of steps.
        arguments: of the maker, such as JSON can say.
        setting: variables of the environment; None: without that one.
    """

    library: str
    maker: Callable
    arguments: dict
    setting: dict = dataclasses.field(default_factory=dict)


def settings(library):
    """Name -> variables of the environment: what a trial tries of a library.

    One thread or one for each core, and for PyTorch, whose threads are those of
    OpenMP, whether they spin while they wait.
    """
    counts = {
        f"{count} thread" + "s" * (count > 1): str(count)
        for count in sorted({1, os.cpu_count() or 1})
    }
    if library == "tensorflow":
        return {n: {"TF_NUM_INTRAOP_THREADS": c} for n, c in counts.items()}
    return {
        f"{name}, {policy.lower()}": {
            "OMP_NUM_THREADS": count,
            "OMP_WAIT_POLICY": policy,
        }
        for name, count in counts.items()
        for policy in ("ACTIVE", "PASSIVE")
    }


def has_pytorch():
    """Whether PyTorch is installed; says so where it is not."""
    if importlib.util.find_spec("torch"):
        return True
    print(
        "PyTorch is missing: measured without it "
        "(pip install --editable '.[bench]')",
        file=sys.stderr,
    )
    return False


class ContenderError(RuntimeError):
    """A contender raised an exception, or its process has ended."""


class Contender:
    """A process that builds functions and times them, and sleeps in between."""

    def __init__(self, library, setting):
        if not hasattr(signal, "SIGSTOP"):
            raise UserError("this benchmark needs Linux or macOS (SIGSTOP)")
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | setting
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  see close
        # In a group of its own Ctrl-C does not reach it, and where this process
        # is killed, the system wakes and ends the stopped group.
        self._process = subprocess.Popen(
            [sys.executable, __file__, library],
            env={k: v for k, v in environment.items() if v is not None},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            text=True, process_group=0,
        )  # fmt: skip
        self._asked = 1  # to load the library

    def wait_until_loaded(self):
        """Sleeps from there on; a failure shows with the next answer."""
        with contextlib.suppress(ContenderError):
            self.answer()

    def build(self, place, maker, arguments):
        """Asks it to build something, instead of what has the place.

        The answer has the seconds of the `first_step`, and the `memory_mib`
        that building and three steps have added to the process (Linux).
        """
        module = pathlib.Path(maker.__code__.co_filename).stem
        self._ask(place, build=[module, maker.__name__, arguments])

    def calibrate(self, place, seconds):
        """Asks for the number of `steps` that take about so long."""
        self._ask(place, calibrate=seconds)

    def run(self, place, steps):
        """Asks for the `seconds_a_step` of so many steps."""
        self._ask(place, steps=steps)

    def _ask(self, place, **request):
        request["place"] = str(place)
        self._asked += 1
        self._process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # `answer` says why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def answer(self):
        """The answer to the oldest request; after the last one it sleeps.

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
                os.waitpid(self._process.pid, os.WUNTRACED)  # until it sleeps
        answer = json.loads(line)
        if "failed" in answer:
            raise ContenderError(answer["failed"])
        return answer

    def last_words(self):
        """The last line that it wrote on standard error, or ""."""
        self._log.seek(0)
        return self._log.read().strip().rpartition("\n")[2]

    def close(self):
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


def answer(name, contender):
    """What a contender answers; {} where it has failed, which is said."""
    try:
        return contender.answer()
    except ContenderError as error:
        print(f"{name} failed: {error}", file=sys.stderr)
        return {}


def in_turn(entries, repetitions, seconds, shared=False, alone=()):
    """Measures entries in turn, the others asleep.

    One that fails is named on standard error and left out.

    Args:
        entries: name -> `Entry`.
        repetitions: turns of each.
        seconds: length of a turn, about.
        shared: entries of one library and setting share a process.
        alone: names of those that are built while no other is.

    Returns:
        name -> {"seconds_a_step": one a turn, "first_step": its seconds,
        "memory_mib": what a process of its own grew by}.
    """
    contenders, processes, results, steps = {}, {}, {}, {}
    with contextlib.ExitStack() as stack:
        for name, entry in entries.items():
            key = (entry.library, *entry.setting.items()) if shared else name
            if key not in processes:
                processes[key] = Contender(entry.library, entry.setting)
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
    """The setting of a contender that a short trial finds the fastest.

    Args:
        contender: its name.
        entries: name of a setting -> `Entry`.
        seconds: length of a turn, about.

    Returns:
        Its name, None where all have failed, and name -> seconds a step of all.
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


def median(result):
    """Seconds a step."""
    return statistics.median(result["seconds_a_step"])


def spread(result):
    """The slowest turn less the fastest, in parts of the median."""
    times = result["seconds_a_step"]
    return (max(times) - min(times)) / median(result)


# The process ------------------------------------------------------------------


def _memory(field):
    """MiB, 0 but on Linux; getrusage would tell the peak of the parent."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(status.read_text().split(f"{field}:")[1].split()[0]) / 1024


def _work(library):
    """Answers one request after the other."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints
    float(importlib.import_module(library).ones(()))  # loads it
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

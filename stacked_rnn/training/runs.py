"""A run outside the Trainer: where it is, its directory, how it is stopped."""

import contextlib
import csv
import io
import json
import math
import pathlib
import signal
import threading

import numpy as np
import tensorflow as tf

from stacked_rnn.configs import ModelConfig, UserError
from stacked_rnn.training import checkpoints
from stacked_rnn.utils import files

RECORD = "checkpoints/model.json"  # in the directory of a run: what it trains
_EXPORTED = "checkpoints/exported.json"  # and what it was last exported as

# Settings that may change while a run goes on: how long, where, and how fast.
# The digest of the text stands for where it lies.
MAY_CHANGE = frozenset(
    (
        "corpus", "cache_dir", "skip_bad_files", "epochs", "max_minutes",
        "early_stopping", "checkpoint_minutes", "accumulate_steps", "strategy",
        "wait_minutes", "jit_compile", "deterministic", "model_dir",
        "export_dir", "resume",
    )
)  # fmt: skip


class StopRequest:
    """True once a signal to stop was received, so that a step is not cut.

    These are Ctrl-C, SIGTERM, SIGUSR1 (a scheduler's warning), and SIGHUP (a
    terminal that closes), unless whoever started the process has it ignored, as
    nohup does. A second Ctrl-C stops at once. Signals only reach the main
    thread; in another one nothing is done about them.
    """

    _SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")

    def __init__(self):
        self._received = False
        self._previous = {}

    def __bool__(self):
        return self._received

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for name in self._SIGNALS:
                number = getattr(signal, name, None)  # Windows has two of them
                if number and signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(
                        number, self._receive
                    )
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        self._received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(OSError, RuntimeError):  # within a print
            print(
                "\nstopping after this step (Ctrl-C again: at once)", flush=True
            )


class Progress(tf.train.experimental.PythonState):
    """Where a run is, besides the weights; saved within its checkpoint.

    Attributes:
        step: training steps done.
        epoch: epochs that came to an end, validation included.
        sums: those of the task, of the epoch so far.
        seconds: of the time that `--max_minutes` gives to the run, those that
            are over, where it alone ends the run.
        learning_rate, gradient_norm: those of the last step.
        best_cost: of the validation, the least so far.
        best_epoch: `epoch` after the one that reached it.
        history: for each epoch its number and its results, as in history.csv.
        states: the carried states, NumPy states[layer][part]; None: zeros.
    """

    def __init__(self):
        self.step = self.epoch = self.best_epoch = 0
        self.sums = []
        self.seconds = self.learning_rate = self.gradient_norm = 0.0
        self.best_cost = math.inf
        self.history = []
        self.states = None

    def serialize(self) -> bytes:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            step=self.step,
            epoch=self.epoch,
            sums=self.sums,
            seconds=self.seconds,
            learning_rate=self.learning_rate,
            gradient_norm=self.gradient_norm,
            best_cost=self.best_cost,
            best_epoch=self.best_epoch,
            history=json.dumps(self.history),
            num_layers=len(self.states or ()),
            **{
                f"state_{layer}_{part}": array
                for layer, parts in enumerate(self.states or ())
                for part, array in enumerate(parts)
            },
        )
        return buffer.getvalue()

    def deserialize(self, content) -> None:
        arrays = np.load(io.BytesIO(content))
        for name in ("step", "epoch", "best_epoch"):
            setattr(self, name, int(arrays[name]))
        for name in ("learning_rate", "gradient_norm", "best_cost"):
            setattr(self, name, float(arrays[name]))
        self.seconds = float(arrays.get("seconds", 0.0))  # once it was not kept
        self.history = json.loads(str(arrays["history"]))
        self.sums = arrays["sums"].tolist()
        self.states = (
            tuple(
                tuple(
                    arrays[name]
                    for name in sorted(arrays.files)
                    if name.startswith(f"state_{layer}_")
                )
                for layer in range(int(arrays["num_layers"]))
            )
            or None
        )


def open_run(
    model_dir, model_config, tokenizer, train_config, digest, task_record
) -> bool:
    """Prepares --model_dir; returns whether there is a run to resume.

    A run goes on only with what it began with, but for `MAY_CHANGE`. Another
    one that is there is moved aside, never overwritten.

    Args:
        model_dir: the directory.
        model_config, tokenizer, train_config: what is to be trained.
        digest: of the text.
        task_record: the `record` of the task.
    """
    description = {
        "task": train_config.task,
        "model": model_config.to_dict(),
        "tokenizer": tokenizer.to_dict(),
        "corpus": train_config.corpus,
        "init_from": train_config.init_from,
        "digest": digest,
        "settings": {
            name: value
            for name, value in train_config.to_dict().items()
            if name not in MAY_CHANGE
        },
        **task_record,
    }
    record = model_dir / RECORD
    if record.exists():
        why = "--noresume"
        if train_config.resume is not False:
            differences = _differences(read_record(model_dir), description)
            if not differences:
                return True
            why = "; ".join(differences)
            if train_config.resume:
                raise UserError(
                    f"--resume: {model_dir} holds another run: {why}"
                )
        aside = _unused_sibling(model_dir)
        model_dir.rename(aside)
        print(f"moved the run that was in {model_dir} to {aside} ({why})")
    elif train_config.resume:
        raise UserError(f"--resume: there is no checkpoint in {model_dir}")
    _write_json(record, description)
    return False


def note_export(model_dir, step, version) -> None:
    """Notes down that the run was exported after a step, and where to."""
    _write_json(
        model_dir / _EXPORTED,
        {"step": step, "version": str(pathlib.Path(version).resolve())},
    )


def find_export(model_dir, step, export_dir) -> pathlib.Path | None:
    """The version that the run was exported as after this step.

    None where it was not, or not to this directory, or is there no more.
    """
    try:
        noted = json.loads((model_dir / _EXPORTED).read_text(encoding="utf-8"))
        version = pathlib.Path(export_dir, pathlib.Path(noted["version"]).name)
        if noted == {"step": step, "version": str(version.resolve())}:
            return version if version.is_dir() else None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


@contextlib.contextmanager
def alone_in(model_dir):
    """Keeps other processes from training in the same --model_dir.

    Raises:
        UserError: one does already.
    """
    path = model_dir.resolve()
    path = path.with_name(f"{path.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(path))
        except BlockingIOError as error:
            raise UserError(
                f"--model_dir={model_dir}: another process is training there: "
                "wait for its end, or name another directory"
            ) from error
        yield


def _write_json(path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_file(path) as file:
        file.write(json.dumps(values, indent=2).encode() + b"\n")


def write_history(model_dir, history) -> None:
    """Writes history.csv, a line for each epoch, whole or not at all."""
    names = dict.fromkeys(name for row in history for name in row)
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    path = model_dir / "history.csv"
    try:
        with files.whole_file(path) as file:
            file.write(table.getvalue().encode())
    except OSError as error:
        raise UserError(
            f"--model_dir: cannot write {path} ({error.strerror}): the "
            "checkpoint is kept: free some space, and the same command goes on"
        ) from error


def read_record(model_dir) -> dict:
    """What `open_run` wrote down of the run in a directory."""
    record = model_dir / RECORD
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model_dir: {record} is damaged: start over with --noresume"
        ) from error


def _differences(old, new) -> list[str]:
    """What keeps a run from going on, in words."""
    differences = ModelConfig.from_dict(new["model"]).differences(
        ModelConfig.from_dict(old["model"])
    )
    # Records were once written without some of this, and settings come and go.
    names = ("task", "init_from", "labels", "held_out")
    once = {"init_from": "", "held_out": "the end"}
    before, now = (
        {name: record[name] for name in names if name in record}
        | record.get("settings", {})
        for record in (once | old, new)
    )
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name]:
            differences.append(f"{name}: {before[name]!r}, not {now[name]!r}")
    if old.get("digest", new["digest"]) != new["digest"]:
        differences.append("the text has changed")
    if old["tokenizer"] != new["tokenizer"]:
        differences.append("the tokenizer or its vocabulary")
    return differences


def latest_checkpoint(model_dir, name) -> str | None:
    """The checkpoint that a run keeps as its "best" or its "last"."""
    paths = checkpoints.find(model_dir / "checkpoints" / name)
    return paths[-1] if paths else None


def _unused_sibling(path) -> pathlib.Path:
    number = 1
    while (sibling := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return sibling

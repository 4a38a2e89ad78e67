"""The directory of a run, its progress, and the signals that stop it."""

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import signal
import threading

import numpy as np
import tensorflow as tf

from stacked_rnn import saved_models
from stacked_rnn.configs import DiskError, ModelConfig, UserError
from stacked_rnn.training import checkpoints
from stacked_rnn.utils import files

RECORD = "checkpoints/model.json"  # in the directory of a run: what it trains
# Settings that may change when a run resumes: how long, where, and how fast it
# trains. The text may move: its digest is compared.
MAY_CHANGE = frozenset(
    (
        "corpus", "cache_dir", "skip_bad_files", "epochs", "max_minutes",
        "early_stopping", "checkpoint_minutes", "accumulate_steps", "strategy",
        "wait_minutes", "jit_compile", "deterministic", "model_dir",
        "export_dir", "resume", "learn_all", "chat_template", "trackers",
    )
)  # fmt: skip


class StopRequest:
    """Becomes true when a signal asks to stop, so that a step can finish.

    The signals are Ctrl-C, SIGTERM, SIGUSR1 (a scheduler's warning) and SIGHUP
    (the terminal closes). Those that the process was started to ignore, as by
    nohup, stay ignored. A second Ctrl-C stops at once. Signals reach the main
    thread only; in other threads, a `StopRequest` has no effect.
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
                number = getattr(signal, name, None)  # Windows has two
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
        with contextlib.suppress(OSError, RuntimeError):  # in a print
            print(
                "\nstopping after this step (Ctrl-C again: at once)", flush=True
            )


class Progress(tf.train.experimental.PythonState):
    """Progress of a run, saved in its checkpoints beside the weights.

    Attributes:
        step: number of training steps done.
        epoch: number of epochs done, validation included.
        sums: sums of the task over the epoch so far.
        seconds: seconds of `--max_minutes` that are over, where that alone ends
            the run.
        learning_rate, gradient_norm: results of the last step.
        loss_scale: in float16, the factor of the loss, and the number of steps
            since it changed; empty: as at first.
        best_cost: lowest cost of a validation so far.
        best_epoch: value of `epoch` after the epoch with `best_cost`.
        history: epoch, step and results of each validation, as in history.csv.
        states: carried states, NumPy arrays states[layer][part], each
            [batch, units]; None: zeros.
    """

    def __init__(self):
        self.step = self.epoch = self.best_epoch = 0
        self.sums = []
        self.seconds = self.learning_rate = self.gradient_norm = 0.0
        self.best_cost = math.inf
        self.loss_scale = []
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
            loss_scale=self.loss_scale,
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
        # Old ones lack these.
        self.seconds = float(arrays.get("seconds", 0.0))
        self.loss_scale = [*arrays.get("loss_scale", ())]
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

    A run resumes only with the settings and the text that it began with, except
    for `MAY_CHANGE`. Any other run in the directory is moved aside, never
    overwritten.

    Args:
        model_dir: the directory.
        model_config, tokenizer, train_config: what to train, and how.
        digest: digest of the text.
        task_record: what `Task.record` returns.

    Raises:
        UserError: `--resume` is given, and there is no such run.
    """
    description = _describe(
        model_config, tokenizer, train_config, digest, task_record
    )
    record = model_dir / RECORD
    if record.exists():
        reason = "--noresume"
        if train_config.resume is not False:
            differences = _differences(read_record(model_dir), description)
            if not differences:
                return True
            reason = "; ".join(differences)
            if train_config.resume:
                raise UserError(
                    f"--resume: {model_dir} holds another run: {reason}"
                )
        move_aside("run", model_dir, reason)
    elif train_config.resume:
        raise UserError(f"--resume: there is no checkpoint in {model_dir}")
    write_json(record, description)
    return False


def differences(model_dir, *described) -> list[str]:
    """Lists what keeps the run in a directory from resuming, in words.

    Args:
        model_dir: the directory of a run.
        *described: what `open_run` takes after it.
    """
    return _differences(
        read_record(pathlib.Path(model_dir)), _describe(*described)
    )


def _describe(model_config, tokenizer, train_config, digest, task_record):
    """Returns the record of a run, see `open_run`."""
    return {
        "task": train_config.task,
        "model": model_config.to_dict(),
        "tokenizer": tokenizer.to_dict(),
        "corpus": train_config.corpus,
        "init_from": train_config.init_from,
        "digest": digest,
        "length": {
            name: getattr(train_config, name)
            for name in ("epochs", "max_minutes")
        },
        "settings": {
            name: value
            for name, value in train_config.to_dict().items()
            if name not in MAY_CHANGE
        },
        **task_record,
    }


def move_aside(kind, directory, reason) -> None:
    """Renames the directory of a run or a search, and says so.

    Raises:
        UserError: it cannot be renamed: it is the working directory or the root
            of a disk, or its parent is read-only.
    """
    number, resolved = 1, directory.resolve()
    parent = directory.parent if directory.name else resolved.parent
    while (aside := parent / f"{resolved.name}.{number}").exists():
        number += 1
    try:
        directory.rename(aside)
    except OSError as error:
        flag = {"run": "model_dir", "search": "tune_dir"}[kind]
        raise UserError(
            f"--{flag}={directory}: the {kind} there is another one ({reason}) "
            f"and cannot be moved aside ({error.strerror}): name another "
            "directory"
        ) from error
    print(f"moved the {kind} in {directory} to {aside} ({reason})")


def note_export(model_dir, stage, version) -> None:
    """Records the stage at which a run was exported, and the version."""
    version = pathlib.Path(version).resolve()
    noted = {
        "step": stage,
        "version": str(version),
        "fingerprint": saved_models.fingerprint(version),
    }
    with contextlib.suppress(ValueError):  # on another drive, on Windows
        # The way from the run to it: both may be moved together.
        noted["path"] = os.path.relpath(version, model_dir.resolve())
    write_json(model_dir / saved_models.EXPORTED_FILE, noted)


def find_export(model_dir, stage, export_dir) -> pathlib.Path | None:
    """Returns the version that the run was exported as, see `note_export`.

    None if the run was not exported then, or to another directory, or if the
    version has been deleted, also if its number has been taken again.
    """
    try:
        noted = json.loads(
            (model_dir / saved_models.EXPORTED_FILE).read_text(encoding="utf-8")
        )
        version = pathlib.Path(export_dir, pathlib.Path(noted["version"]).name)
        if (noted["step"], noted["version"]) == (stage, str(version.resolve())):
            return version if saved_models.is_noted(version, noted) else None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


@contextlib.contextmanager
def lock_run(model_dir, flag="model_dir"):
    """Keeps other processes from training in the same directory.

    Args:
        model_dir: the directory.
        flag: the flag that names it.

    Raises:
        UserError: another process is training there.
    """
    path = model_dir.resolve()
    path = path.with_name(f"{path.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(path))
        except BlockingIOError as error:
            raise UserError(
                f"--{flag}={model_dir}: another process is training there: "
                "wait for its end, or name another directory"
            ) from error
        yield


def write_json(path, values) -> None:
    """Writes JSON values, whole or not at all; makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_file(path) as file:
        file.write(json.dumps(values, indent=2).encode() + b"\n")


def write_history(model_dir, history) -> None:
    """Writes history.csv, one line per validation, whole or not at all."""
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
        raise DiskError(
            f"--model_dir: cannot write {path} ({error.strerror}); the "
            "checkpoint is kept: free some space, and run the same command "
            "again"
        ) from error


def read_record(model_dir) -> dict:
    """Reads what `open_run` recorded about the run in a directory."""
    record = model_dir / RECORD
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--model_dir: {record} is damaged: start over with --noresume"
        ) from error


def past_record(model_dir) -> dict | None:
    """Returns the record of the run in a directory; None if there is none."""
    if not pathlib.Path(model_dir, RECORD).exists():
        return None
    return read_record(pathlib.Path(model_dir))


def _differences(old, new) -> list[str]:
    """Lists the differences that keep a run from resuming, in words."""
    differences = ModelConfig.from_dict(new["model"]).differences(
        ModelConfig.from_dict(old["model"])
    )
    # Old records lack some of these entries, and settings come and go.
    names = ("task", "init_from", "labels", "held_out")
    defaults = {"init_from": "", "held_out": "the end"}
    before, now = (
        {name: record[name] for name in names if name in record}
        | record.get("settings", {})
        for record in (defaults | old, new)
    )
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name]:
            differences.append(f"{name}: {before[name]!r}, not {now[name]!r}")
    if old.get("digest", new["digest"]) != new["digest"]:
        differences.append("the text has changed")
    if old["tokenizer"] != new["tokenizer"]:
        differences.append("the tokenizer or its vocabulary has changed")
    return differences


def latest_checkpoint(model_dir, name) -> str | None:
    """Path of the newest checkpoint named "best" or "last", or None."""
    paths = checkpoints.find(model_dir / "checkpoints" / name)
    return paths[-1] if paths else None

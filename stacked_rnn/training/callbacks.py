"""Keras callbacks that print, and settings for the callbacks of a user."""

import shutil
import sys
import time

import keras
import tensorflow as tf

from stacked_rnn.configs import UserError, tracker_names
from stacked_rnn.utils.terminal import duration

_SET_THE_RATE = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)
_BAR = 20  # characters
_REPAINT_SECONDS = 0.1


def settings_for(callbacks, train_config, given) -> dict:
    """Returns the settings that the callbacks of a user need, and says so.

    Keras lets no callback set a learning rate that has a schedule.

    Args:
        callbacks: Keras callbacks.
        train_config: the settings, of which the user has set those in `given`.

    Raises:
        UserError: a callback cannot work in a run.
    """
    changes = {}
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise UserError(
                f"callbacks: {name}: a run keeps checkpoints, and the same "
                "call resumes it: leave the callback out"
            )
        if not isinstance(callback, _SET_THE_RATE):
            continue
        if train_config.strategy == "multi_worker":
            raise UserError(
                f"callbacks: {name} would set the learning rate of the chief "
                "only: leave it out with --strategy=multi_worker"
            )
        if train_config.half_windows:
            raise UserError(
                f"--half_windows={train_config.half_windows:g} scales the "
                f"learning rate, which {name} sets: leave one of the two out"
            )
        schedule = train_config.learning_rate_schedule
        if schedule == "constant":
            continue
        if "learning_rate_schedule" in given:
            raise UserError(
                f"--learning_rate_schedule={schedule}: {name} sets the "
                "learning rate, too: leave one of the two out"
            )
        changes = {"learning_rate_schedule": "constant"}
    if changes:
        print("Callbacks set the learning rate: its schedule is constant")
    return changes


class EpochLines(keras.callbacks.Callback):
    """Prints a line after each validation, and a progress bar before it.

    All other results are in history.csv and in TensorBoard.

    Args:
        trainer: the `Trainer`.
        verbose: as in `Trainer.fit`, but not 0.
    """

    def __init__(self, trainer, verbose):
        super().__init__()
        self._trainer = trainer
        if verbose == "auto":
            verbose = 1 if sys.stdout.isatty() else 2
        self._has_bar = verbose == 1
        self._painted = 0  # characters of the bar that are on the screen

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._started = self._trainer.epoch, time.monotonic()
        self._next_paint = 0.0

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if self._has_bar and now >= self._next_paint:
            self._next_paint = now + _REPAINT_SECONDS
            self._paint(batch + 1, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._clear()
        print(self._line(logs), flush=True)

    def on_train_end(self, logs=None):
        self._clear()

    def _paint(self, step, logs):
        steps = self.params["steps"]
        done = _BAR * step // steps
        text = (
            f"{self._name()} [{'=' * done}{' ' * (_BAR - done)}] "
            f"{step:,}/{steps:,}  loss {logs['loss']:.4f}  {self._speed(logs)}"
        )[: shutil.get_terminal_size().columns - 1]
        print(f"\r{text:<{self._painted}}", end="", flush=True)
        self._painted = len(text)

    def _clear(self):
        """Erases the progress bar."""
        if self._painted:
            print(f"\r{' ' * self._painted}\r", end="", flush=True)
            self._painted = 0

    def _name(self):
        epochs = self.params["epochs"]
        return f"Epoch {self._epoch + 1}" + (f"/{epochs}" if epochs else "")

    def _speed(self, logs):
        unit = self._trainer.task.unit
        return f"{logs[f'{unit}_per_second']:,.0f} {unit}/s"

    def _line(self, logs):
        steps = self.params["steps"]
        done = self._trainer.step - self._epoch * steps
        info = self._trainer.task.info
        parts = [
            self._name() + (f", {done:,} of {steps:,} steps" * (done < steps)),
            f"loss {logs['loss']:.4f}",
        ]
        if "val_loss" in logs:
            parts.append(f"val_loss {logs['val_loss']:.4f}")
        parts += [
            info.quality_format.format(
                logs.get(f"val_{info.quality}", logs[info.quality])
            ),
            self._speed(logs),
        ]
        if self.params["epochs"]:
            parts.append(duration(time.monotonic() - self._started))
        else:
            total = 60 * self._trainer.config.max_minutes
            parts.append(
                f"{duration(self._trainer.seconds)} of {duration(total)}"
            )
        return "  ".join(parts)


class SampleTexts(keras.callbacks.Callback):
    """Prints a sample text after each epoch.

    TensorBoard shows the samples too, if it is one of the trackers of the run.

    Args:
        trainer: a `Trainer` with a `model_dir`.
        sample: function that makes a text for the number of an epoch.
    """

    def __init__(self, trainer, sample):
        super().__init__()
        self._directory = None
        if "tensorboard" in tracker_names(trainer.config.trackers):
            self._directory = trainer.model_dir / "tensorboard" / "train"
        self._sample = sample

    def on_train_begin(self, logs=None):
        self._writer = tf.summary.create_noop_writer()
        if self._directory:
            self._writer = tf.summary.create_file_writer(str(self._directory))

    def on_epoch_end(self, epoch, logs=None):
        text = _printable(self._sample(epoch))
        print(_indented("  sample: ", text.rstrip()), flush=True)
        with self._writer.as_default(step=epoch):
            # TensorBoard reads Markdown, where indented lines are code.
            tf.summary.text("sample", _indented("    ", text))

    def on_train_end(self, logs=None):
        self._writer.close()


def _printable(text) -> str:
    """Escapes all control characters but line breaks and tabs."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def _indented(title, text) -> str:
    """Puts a title before a text, and aligns the text's lines."""
    return title + text.replace("\n", "\n" + " " * len(title))

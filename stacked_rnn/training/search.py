"""A search for the best settings: trials whose values keras-tuner chooses.

The state of a search is on disk after each trial; a trial that was stopped goes
on from its checkpoint.
"""

import contextlib
import dataclasses
import gc
import json
import math
import os
import pathlib
import shutil
import time

import keras
import keras_tuner
import tensorflow as tf

from stacked_rnn.configs import DiskError, UserError
from stacked_rnn.training import runs
from stacked_rnn.utils import devices

_RECORD = "search.json"
_MOST_STARTS = 2  # of a trial that each time ended with its process
_MOST_FAILURES = 10  # in a row, after which a search ends


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes:
        number: from 1, in the order of their beginning.
        values: the settings that the search varies.
        seconds: seconds of training.
        cost: what the search minimizes; infinity if the trial has failed.
        quality: the main result of the best epoch, as the task names it.
        error: why the trial has failed; empty if it has not.
    """

    number: int
    values: dict
    seconds: float
    cost: float = math.inf
    quality: float = math.nan
    error: str = ""


class _Stopped(keras_tuner.errors.FatalError):
    """Ends a search; a trial in progress goes on when the search does."""


class _Broken(keras_tuner.errors.FatalError):
    """Ends a search with the error that is its cause."""


class _TimeLimit(keras.callbacks.Callback):
    """Stops a training at a time of `time.monotonic`."""

    def __init__(self, end):
        super().__init__()
        self._end = end
        self.is_over = False

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() >= self._end:
            self.is_over = self.model.stop_training = True


class Search(keras_tuner.Tuner):
    """Trains one trial after the other, within a time limit.

    Args:
        directory: directory of the search; one that is there goes on.
        config: a `TuneConfig`.
        max_epochs: epochs of the longest trials of Hyperband.
        seed: seed of the values.
        make_trainer: function of values and a directory that makes a `Trainer`.
        report: function to call with each `Trial` that ends.

    Raises:
        UserError: the files of the search are damaged.
    """

    def __init__(
        self, directory, config, max_epochs, seed, make_trainer, report
    ):
        self._config = config
        self._make_trainer, self._report = make_trainer, report
        self._seconds: dict[str, float] = {}  # by trial, also of those stopped
        self._starts: dict[str, int] = {}
        self._ended: dict[str, dict] = {}  # fields of `Trial`
        options = {
            "objective": keras_tuner.Objective("cost", "min"),
            "hyperparameters": _hyperparameters(config.space),
            "seed": seed + 1,  # 0 would be another one each time
        }
        if config.algorithm == "hyperband":
            oracle = keras_tuner.oracles.HyperbandOracle(
                max_epochs=max_epochs, hyperband_iterations=10**6, **options
            )
        else:
            oracle = keras_tuner.oracles.RandomSearchOracle(
                max_trials=None, **options
            )
        try:
            with (
                open(os.devnull, "w", encoding="utf-8") as nowhere,
                contextlib.redirect_stdout(nowhere),
            ):
                super().__init__(
                    oracle, directory=str(directory), project_name="trials"
                )
        except (ValueError, KeyError) as error:
            raise UserError(
                f"--tune_dir={directory}: the files of the search are damaged: "
                "name another directory"
            ) from error
        self._num_before = len(self._ended)  # trials of earlier processes

    def get_state(self):
        """Returns the state to save, see `keras_tuner.Tuner`."""
        return {
            "seconds": self._seconds,
            "starts": self._starts,
            "ended": self._ended,
        }

    def set_state(self, state):
        """Takes a saved state, see `keras_tuner.Tuner`."""
        self._seconds = state["seconds"]
        self._starts = state["starts"]
        self._ended = state["ended"]

    @property
    def trials(self) -> list[Trial]:
        """The trials that have ended, the best first and the failed last."""
        trials = [Trial(**fields) for fields in self._ended.values()]
        return sorted(trials, key=lambda trial: (trial.cost, trial.number))

    def run(self) -> str:
        """Trains until the time is over or something else ends the search.

        Returns:
            A sentence that says why it ended.
        """
        logger = tf.get_logger()
        logger.addFilter(_is_no_retracing)
        try:
            self.search(verbose=0)
        except _Stopped as stopped:
            return str(stopped)
        except KeyboardInterrupt:
            return _INTERRUPTED
        except _Broken as broken:
            raise broken.__cause__ from None
        finally:
            logger.removeFilter(_is_no_retracing)
        return "No values are left to try."

    def pre_create_trial(self):
        """Ends the search where no further trial makes sense."""
        trials = [Trial(**fields) for fields in self._ended.values()]
        last = trials[self._num_before :][-_MOST_FAILURES:]
        if len(last) == _MOST_FAILURES and all(trial.error for trial in last):
            raise _Stopped(f"The last {_MOST_FAILURES} trials have failed.")
        shortest = min(
            (trial.seconds for trial in trials if not trial.error), default=0
        )
        left = self._seconds_left()
        if left <= 0:
            raise _Stopped(self._time_is_over())
        if left < shortest:
            raise _Stopped(
                f"The {left:.0f} seconds that are left are too few for another "
                "trial; with more --minutes, the same command goes on."
            )

    def run_trial(self, trial, verbose=0):
        """Trains a trial; returns its cost, infinity if it has failed."""
        key = trial.trial_id
        self._starts[key] = self._starts.get(key, 0) + 1
        self.save()
        started = time.monotonic()
        used = self._seconds.get(key, 0.0)
        fields = {"number": int(key) + 1, "values": self._values(trial)}
        try:
            if self._starts[key] > _MOST_STARTS:
                raise UserError(
                    f"the process has died in it {_MOST_STARTS} times: out of "
                    "memory?"
                )
            with devices.errors_explained():
                fields |= self._train(trial, fields["values"], started)
        except DiskError as error:  # which the next trial would meet, too
            self._starts[key] = 0
            raise _Stopped(str(error)) from error
        except UserError as error:
            fields["error"] = str(error)
        except (_Stopped, KeyboardInterrupt):
            self._starts[key] = 0
            raise
        except Exception as error:  # which keras-tuner would hide
            raise _Broken from error
        finally:
            self._seconds[key] = used + time.monotonic() - started
            if len(fields) > 2:
                fields["seconds"] = self._seconds[key]
                self._ended[key] = fields
            self.save()
            keras.utils.clear_session()
            gc.collect()
        # Not a FailedTrialError, which keras-tuner prints with a traceback.
        return fields.get("cost", math.inf)

    def on_trial_end(self, trial):
        """Deletes the checkpoints of a trial, and reports it."""
        super().on_trial_end(trial)
        shutil.rmtree(
            self._directory_of(trial) / "checkpoints", ignore_errors=True
        )
        self._report(Trial(**self._ended[trial.trial_id]))

    def _train(self, trial, values, started) -> dict:
        """Trains to the end; returns `cost` and `quality` of a `Trial`."""
        limit = _TimeLimit(started + self._seconds_left())
        trainer = self._make_trainer(values, self._directory_of(trial))
        trainer.fit([limit], verbose=0)
        if trainer.interrupted:
            raise _Stopped(_INTERRUPTED)
        if limit.is_over and not trainer.is_finished:
            raise _Stopped(self._time_is_over())
        task, best = trainer.task, trainer.best_row
        quality = best[f"val_{task.info.quality}"]
        # The cost of a language model is a loss per token, which says nothing
        # where the tokenizers differ; its quality is one per character.
        return {
            "cost": task.cost(best) if task.info.is_share else quality,
            "quality": quality,
        }

    def _values(self, trial) -> dict:
        hyperparameters = trial.hyperparameters
        values = {
            dimension.name: dimension.rounded(hyperparameters[dimension.name])
            for dimension in self._config.space
        }
        if self._config.algorithm == "hyperband":
            values["epochs"] = hyperparameters["tuner/epochs"]
        return values

    def _directory_of(self, trial) -> pathlib.Path:
        return pathlib.Path(self.get_trial_dir(trial.trial_id))

    def _seconds_left(self) -> float:
        return 60 * self._config.minutes - sum(self._seconds.values())

    def _time_is_over(self) -> str:
        return (
            f"The time is over (--minutes={self._config.minutes:g}); with more "
            "minutes, the same command goes on."
        )


_INTERRUPTED = "Interrupted; the same command goes on from there."


def _is_no_retracing(record) -> bool:
    """Leaves out the warning that each trial traces its model anew."""
    return "tf.function retracing" not in record.getMessage()


def _hyperparameters(space) -> keras_tuner.HyperParameters:
    """Declares the space to keras-tuner."""
    hyperparameters = keras_tuner.HyperParameters()
    for dimension in space:
        if dimension.choices:
            hyperparameters.Choice(
                dimension.name, list(dimension.choices), ordered=False
            )
            continue
        declare = (
            hyperparameters.Int
            if dimension.kind is int
            else hyperparameters.Float
        )
        declare(
            dimension.name,
            dimension.low,
            dimension.high,
            step=dimension.step,
            sampling="log" if dimension.is_log else "linear",
        )
    return hyperparameters


def open_search(directory, record, chosen) -> dict:
    """Prepares --tune_dir: another search that is there is moved aside.

    Args:
        directory: the directory, a path.
        record: JSON values that must be the same for a search to go on.
        chosen: settings that fit the text, chosen now.

    Returns:
        The settings that were chosen when the search began.
    """
    path = directory / _RECORD
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        chosen_before = before.pop("chosen", None)
        differences = [
            f"{name}: {before.get(name)!r}, not {record.get(name)!r}"
            for name in before | record
            if before.get(name) != record.get(name)
        ]
        if chosen_before is None:
            differences.append("nothing was chosen to fit the text")
        if not differences:
            return chosen_before
        runs.move_aside("search", directory, "; ".join(differences))
    runs.write_json(path, record | {"chosen": chosen})
    return chosen

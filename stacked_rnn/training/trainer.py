"""The Trainer: steps under `tf.distribute`, and all around them.

Keras' own `fit` fails under several of TensorFlow's strategies and clips a
gradient before the replicas' parts are added up, so the loop is written here,
on public API. Keras callbacks work as they do in `fit`.
"""

import contextlib
import math
import operator
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

from stacked_rnn.configs import UserError
from stacked_rnn.training import (
    plan,
    runs,
    schedules,
    steps,
    strategies,
)
from stacked_rnn.training.callbacks import EpochLines
from stacked_rnn.training.checkpoints import Checkpoints, describe
from stacked_rnn.utils import devices

_EPOCHS_OF_A_HINT = 3  # that were worse than the best one
_GIGABYTES_TO_NAME = 0.5  # below, TensorFlow itself takes more
_OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}


class Trainer:
    """Trains a model of a task.

    Args:
        model_config: the architecture, its `vocabulary_size` known.
        train_config: how to train.
        task: a `tasks.Task`, which has the data.
        model_dir: directory of the run. Without one nothing is written, and
            nothing resumed.
        strategy: a `tf.distribute.Strategy`; None: `train_config.strategy`.
            With several processes all do the same, and the chief alone writes;
            `model_dir` is the same directory for all of them.
        initial_weights: `get_weights()` of a trained model of this
            architecture; None: random ones. A run that goes on has its own.

    Attributes:
        is_chief: whether this process is the one that writes.
        model: what is trained, of `models`.
        task, data: the task and its data.
        step: training steps done, over all epochs.
    """

    def __init__(
        self,
        model_config,
        train_config,
        task,
        model_dir=None,
        strategy=None,
        initial_weights=None,
    ):
        self.config = train_config
        self.task, self.data = task, task.data
        self.model_dir = model_dir and pathlib.Path(model_dir)
        if train_config.deterministic:
            tf.config.experimental.enable_op_determinism()
        self.strategy = strategy or strategies.make_strategy(
            train_config.strategy
        )
        self._workers = strategies.Workers(self.strategy)
        self.is_chief = self._workers.is_chief
        replicas = self.strategy.num_replicas_in_sync
        parts = replicas * train_config.accumulate_steps
        if train_config.batch_size % parts:
            raise UserError(
                f"--batch_size={train_config.batch_size} cannot be dealt to "
                f"{replicas} devices in {train_config.accumulate_steps} "
                f"part(s) each: take a multiple of {parts}"
            )
        if self._workers.count > 1:
            corpus = [train_config.corpus, self.data.digest]
            self._workers.check_same(
                model_config.to_dict()
                | train_config.to_dict()
                | {"corpus": corpus}
            )
        resuming = self.model_dir is not None and self._open_run(model_config)
        keras.utils.set_random_seed(train_config.seed)
        self._is_timed = not train_config.epochs  # by --max_minutes alone
        self.total_steps = (
            train_config.epochs * self.data.training.steps_per_epoch or math.inf
        )
        self.plan = plan.make_plan(
            model_config,
            train_config,
            train_config.batch_size // parts,
            replicas,
            len(self.strategy.extended.worker_devices),
            devices.gpus(),
        )
        dtype_policy = self.plan.dtype_policy
        with self.strategy.scope(), _dtype_policy(dtype_policy):
            self.model = self.task.build(model_config, self.plan.use_cudnn)
            if initial_weights is not None:
                self.model.set_weights(initial_weights)
            for layer in self.model.recurrent_layers:
                layer.jit_compile = self.plan.xla == "loops"
            self._share = None
            if self._is_timed:  # of the time: what moves the learning rate
                self._share = tf.Variable(0.0, trainable=False)
            self.optimizer = _OPTIMIZERS[train_config.optimizer](
                schedules.learning_rate(
                    train_config, self.total_steps, self._share
                )
            )
            self._scales_loss = dtype_policy == "mixed_float16"
            if self._scales_loss:
                self.optimizer = keras.optimizers.LossScaleOptimizer(
                    self.optimizer
                )
            self.optimizer.build(self.model.trainable_variables)
            self.model.compile(optimizer=self.optimizer)  # for the callbacks
        self.interrupted, self._stop_request = False, False
        self._progress = runs.Progress()
        self._clock = schedules.Clock(train_config.max_minutes)
        self._steps = steps.Steps(
            self.model,
            task,
            self.optimizer,
            self.strategy,
            self.data.training,
            train_config,
            self.plan,
        )
        if self.model_dir is not None:
            # The seeds of dropout are not among what TensorFlow tracks.
            seeds = [v.value for v in self.model.non_trainable_variables]
            directory = self.model_dir / "checkpoints"
            self._last = Checkpoints(
                directory / "last",
                keep=2,
                model=self.model,
                progress=self._progress,
                seeds=seeds,
            )
            self._best = Checkpoints(directory / "best", 1, model=self.model)
        if resuming:
            self._resume()

    @property
    def step(self) -> int:
        return self._progress.step

    @property
    def seconds(self) -> float:
        """Of `--max_minutes`, where that ends the run, those that are over."""
        return self._progress.seconds

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left: no epoch, no time, or nothing to gain."""
        return self._is_over()

    @property
    def has_converged(self) -> bool:
        """Whether `--early_stopping` epochs brought nothing better."""
        progress, patience = self._progress, self.config.early_stopping
        return 0 < patience <= progress.epoch - progress.best_epoch

    @property
    def history(self) -> list[dict]:
        """For each epoch its results, as in history.csv."""
        return self._progress.history

    def describe(self) -> str:
        """Two lines: what is trained on what, and how."""
        config, windows = self.config, self.data.training
        steps = f"{windows.steps_per_epoch:,} steps"
        if self._is_timed:
            length = (
                f"epochs of {steps}, as many as fit in "
                f"{config.max_minutes:g} minutes"
            )
        else:
            length = f"{config.epochs:,} epoch(s) of {steps}"
        replicas = self.strategy.num_replicas_in_sync
        parts = replicas * config.accumulate_steps
        num_parameters = self.model.count_params()
        gigabytes = 1e-9 * plan.estimated_bytes(
            self.model.config,
            num_parameters,
            windows.batch_size // parts * windows.sequence_length,
            self.task.has_logits_at_each_token,
        )
        return (
            f"{num_parameters:,} parameters, {windows.num_tokens:,} tokens to "
            f"learn from, {length}"
            + (f", going on from step {self.step:,}" if self.step else "")
            + "\nOn "
            + (f"{replicas} devices: " if replicas > 1 else "")
            + str(self.plan)
            + (
                f", about {gigabytes:.1f} GB of memory on each device"
                if gigabytes >= _GIGABYTES_TO_NAME
                else ""
            )
        )

    def describe_place(self) -> str:
        """How far the run is, in words."""
        if not self._is_timed:
            return f"step {self.step:,} of {self.total_steps:,}"
        return (
            f"step {self.step:,}, after {self.seconds / 60:.1f} of "
            f"{self.config.max_minutes:g} minutes"
        )

    def describe_best(self) -> str:
        """A line: of which epoch the best weights are, and what that says."""
        best = self._best_row()
        if best is None:
            return "The weights are the last ones: nothing validates them."
        number = best["epoch"] + 1
        text = (
            f"The weights are those of epoch {number} of {len(self.history)}, "
            f"val_loss {best['val_loss']:.4f}"
        )
        worse = len(self.history) - number
        if worse < _EPOCHS_OF_A_HINT:
            return text + "."
        return (
            f"{text}: the {worse} epochs after it were worse. --dropout=0.2 or "
            "more may help, a larger text more; --early_stopping=3 saves the "
            "time."
        )

    def _best_row(self) -> dict | None:
        """Of the history, the results of the best epoch that was validated."""
        rows = [row for row in self.history if "val_loss" in row]
        return min(rows, key=self.task.cost, default=None)

    def summary(self) -> dict:
        """How the best model came about, for people: JSON values.

        Returns:
            corpus (its name), tokenizer, characters (of the training part),
            epochs, and validation, the results of the best epoch, or None.
        """
        best, windows = self._best_row(), self.data.training
        return {
            "corpus": ", ".join(
                pathlib.Path(part.strip()).name
                for part in self.config.corpus.split(",")
            ),
            "tokenizer": self.config.tokenizer,
            "characters": windows.characters or windows.num_tokens,
            "epochs": round(self.step / windows.steps_per_epoch, 2),
            "validation": best
            and {
                name.removeprefix("val_"): value
                for name, value in best.items()
                if name.startswith("val_")
            },
        }

    def _open_run(self, model_config) -> bool:
        """Prepares the directory; returns whether there is a run to resume."""
        error, outcome = None, 0.0
        if self.is_chief:
            try:
                outcome = float(
                    runs.open_run(
                        self.model_dir,
                        model_config,
                        self.data.tokenizer,
                        self.config,
                        self.data.digest,
                        self.task.record(),
                    )
                )
            except UserError as caught:
                error, outcome = caught, 2.0
        outcome = self._workers.largest(outcome)
        if outcome == 2.0:
            raise error or UserError("the chief cannot begin: see its output")
        return outcome == 1.0

    # Many steps -------------------------------------------------------------

    def fit(self, callbacks=(), verbose="auto") -> None:
        """Trains to the end of the last epoch, or until something stops it.

        Ctrl-C, SIGTERM and `--max_minutes` stop it after the current step with
        a checkpoint; `interrupted` tells.

        Args:
            callbacks: Keras callbacks, after the line of an epoch.
            verbose: as in Keras: 0 silent, 1 a progress bar and a line an
                epoch, 2 the line alone; "auto": 1 on a terminal, otherwise 2.

        Raises:
            UserError: the loss became NaN or infinite.
        """
        if self.is_chief and verbose:
            lines = EpochLines(self, verbose)
            callbacks = [lines, *callbacks]
        callbacks = keras.callbacks.CallbackList(
            callbacks,
            model=self.model,
            epochs=self.config.epochs,
            steps=self.data.training.steps_per_epoch,
        )
        self._clock = schedules.Clock(
            self.config.max_minutes,
            self.seconds if self._is_timed else 0.0,
        )
        self._pass_time(self.seconds / self._clock.seconds)
        self.model.stop_training = False
        callbacks.on_train_begin()
        try:
            with runs.StopRequest() as self._stop_request:
                self._fit(callbacks)
        finally:
            callbacks.on_train_end()

    def _fit(self, callbacks) -> None:
        while not self._is_over():
            stop_flags = self._stop_flags(math.inf)
            interrupts, stops, *_ = map(self._workers.largest, stop_flags)
            self.interrupted = interrupts > 0
            if self.interrupted or stops:
                break
            epoch = self._progress.epoch
            callbacks.on_epoch_begin(epoch)
            logs = self._train_epoch(callbacks)
            if not self.interrupted:  # else the epoch goes on later
                logs |= self._end_epoch(logs)
                self._pass_time(self._workers.largest(self._clock.share()))
                callbacks.on_epoch_end(epoch, logs)
            self._save()

    def _stop_flags(self, next_save) -> list[float]:
        """Of this process: interrupt? stop? save? And the share of the time.

        Several processes have clocks and signals of their own, but stop and
        save together: a step tells each what all of them would like.
        """
        share = self._clock.share()
        stops = self.model.stop_training or share >= 1
        saves = time.monotonic() >= next_save
        return [
            *map(float, map(bool, (self._stop_request, stops, saves))),
            share,
        ]

    def _pass_time(self, share) -> None:
        """Moves the learning rate, where the time ends the run.

        Args:
            share: of the time that is over, the same for all processes.
        """
        if self._is_timed:
            self._progress.seconds = share * self._clock.seconds
            self._share.assign(share)

    def _is_over(self) -> bool:
        if self._is_timed:
            is_done = self.seconds >= self._clock.seconds
        else:
            is_done = (
                self.step >= self.total_steps and not self._is_epoch_full()
            )
        return is_done or self.has_converged

    def _is_epoch_full(self) -> bool:
        """Whether all steps of an epoch were done that has not ended yet."""
        steps_per_epoch = self.data.training.steps_per_epoch
        return self.step >= (self._progress.epoch + 1) * steps_per_epoch

    def _train_epoch(self, callbacks) -> dict:
        """Trains to the end of the epoch that `step` is in, or to a stop."""
        progress, windows = self._progress, self.data.training
        steps_per_epoch = windows.steps_per_epoch
        if self.step == progress.epoch * steps_per_epoch:
            progress.sums = [0.0] * self.task.num_sums
            progress.states = None
        zeros = self._steps.scatter(windows)
        states = self._steps.scatter(windows, progress.states)
        page = None
        started, done = time.perf_counter(), 0
        save_interval = 60 * self.config.checkpoint_minutes
        next_save = time.monotonic() + save_interval
        while not self._is_epoch_full():
            callbacks.on_train_batch_begin(self.step % steps_per_epoch)
            if page is None or windows.begins_page(self.step):
                page = _as_tensors(windows.page(self.step))
            if not windows.carries_state:
                states = zeros
            count = self._steps_of_a_call()
            sums, states, learning_rate, norm = self._steps.train(
                _as_tensors(np.int64(self.step)),
                _as_tensors(np.int32(count)),
                page,
                states,
                tf.constant(self._stop_flags(next_save)),
            )
            self._clock.start()
            *sums, interrupts, stops, saves, shares = sums.numpy().tolist()
            self._pass_time(
                shares / (count * self.strategy.num_replicas_in_sync)
            )
            progress.learning_rate = float(learning_rate)
            progress.gradient_norm = float(norm)
            self._check_finite("loss", sums[0] / sums[1])
            if not self._scales_loss:  # else such a step changes nothing
                self._check_finite("norm of the gradient", float(norm))
            done += self.task.count(sums)
            progress.step += count
            progress.sums = [*map(operator.add, progress.sums, sums)]
            speed = done / (time.perf_counter() - started)
            callbacks.on_train_batch_end(
                (self.step - 1) % steps_per_epoch, self._logs(speed)
            )
            self.interrupted = interrupts > 0 and not self._is_over()
            if self.interrupted or stops or self._is_over():
                break
            if saves:
                progress.states = self._steps.gather(states)
                self._save()
                next_save = time.monotonic() + save_interval
        if done:
            progress.states = self._steps.gather(states)
        return self._logs(done / (time.perf_counter() - started))

    def _steps_of_a_call(self) -> int:
        """How many steps come next, up to the end of their page or the run."""
        step, windows = self.step + 1, self.data.training
        last = min(self.step + self.plan.steps_per_call, self.total_steps)
        while step < last and not windows.begins_page(step):
            step += 1
        return step - self.step

    def _logs(self, speed) -> dict:
        progress = self._progress
        return self.task.score(progress.sums, self.data.training).logs() | {
            "learning_rate": progress.learning_rate,
            "gradient_norm": progress.gradient_norm,
            f"{self.task.unit}_per_second": speed,
        }

    def _end_epoch(self, logs) -> dict:
        """Validates, and notes what the epoch has come to.

        Where the time is over within the epoch, that goes on later, and ends
        again.
        """
        progress, scores = self._progress, {}
        if self.data.validation:
            started = time.monotonic()
            scores = self.evaluate(self.data.validation).logs("val_")
            self._clock.reserve = time.monotonic() - started
            self._check_finite("loss of the validation", scores["val_loss"])
        row = {"epoch": progress.epoch} | logs | scores
        # The same run has the same history.
        del row[f"{self.task.unit}_per_second"]
        progress.history[progress.epoch :] = [row]
        cost = self.task.cost(scores) if scores else math.inf
        is_best = cost < progress.best_cost
        if self._is_epoch_full():
            progress.epoch += 1
        if is_best:
            progress.best_cost = cost
            progress.best_epoch = progress.epoch
            if self._writes():
                self._best.save(self.step)
        return scores

    def evaluate(self, windows):
        """Scores windows with the weights as they are, each of them once.

        Args:
            windows: `datasets.Windows`, whose carried state is honoured, or
                `datasets.Examples` or `Pairs`.

        Returns:
            What the task's `score` does.
        """
        states = zeros = self._steps.scatter(windows)
        totals = [0.0] * self.task.num_sums
        for step in range(windows.steps_per_epoch):
            if windows.begins_page(step):
                page = _as_tensors(windows.page(step))
            if not windows.carries_state:
                states = zeros
            sums, states = self._steps.score(
                windows, _as_tensors(np.int64(step)), page, states
            )
            totals = [*map(operator.add, totals, sums.numpy().tolist())]
        return self.task.score(totals, windows)

    def _check_finite(self, name, value) -> None:
        """Raises a `UserError` where training has diverged."""
        if math.isfinite(value):
            return
        kept = ""
        if self.model_dir is not None:
            kept = "; " + describe(self.model_dir / "checkpoints" / "last")
        raise UserError(
            f"the {name} is {value} at step {self.step + 1} (learning rate "
            f"{self._progress.learning_rate:.3g}): try a lower "
            f"--learning_rate or --gradient_clip_norm{kept}"
        )

    # Checkpoints ------------------------------------------------------------

    def _writes(self) -> bool:
        return self.is_chief and self.model_dir is not None

    def _save(self) -> None:
        """Writes the last checkpoint, and the history up to it."""
        if self._writes():
            self._last.save(self.step)
            runs.write_history(self.model_dir, self._progress.history)

    def _resume(self) -> None:
        path = runs.latest_checkpoint(self.model_dir, "last")
        restored = self._last.restore()
        if self.step != self._workers.largest(self.step):
            raise UserError(
                f"--model_dir={self.model_dir}: the workers find different "
                "checkpoints there: it must be one directory that all share"
            )
        if restored:
            if self.is_chief:
                runs.write_history(self.model_dir, self._progress.history)
        elif path:
            raise UserError(
                f"--resume: {path} cannot be read, nor one before it: start "
                "over with --noresume"
            )

    def best_model(self):
        """The model of the lowest validation loss, without dropout.

        Where nothing was validated or kept, the model as it is now.
        """
        model = self.model.for_inference()
        if self.model_dir is not None:
            Checkpoints(
                self.model_dir / "checkpoints" / "best", 1, model=model
            ).restore()
        return model


def _as_tensors(values):
    """In the memory of the CPU, which cuts batches from a page."""
    with tf.device("CPU:0"):
        return tf.nest.map_structure(tf.constant, values)


@contextlib.contextmanager
def _dtype_policy(name):
    """Keras' policy for the layers built inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

"""The training loop: epochs, validation, checkpoints, stopping and resuming.

Keras' own `fit` fails under several of TensorFlow's strategies, and clips a
gradient before those of the replicas are summed. Hence this loop, on public
API. Keras callbacks work as they do in `fit`.
"""

import contextlib
import math
import operator
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

from stacked_rnn import layers
from stacked_rnn.configs import UserError
from stacked_rnn.training import (
    optimizers,
    plan,
    runs,
    schedules,
    steps,
    strategies,
)
from stacked_rnn.training.averaging import WeightAverage, values_kept
from stacked_rnn.training.callbacks import EpochLines
from stacked_rnn.training.checkpoints import Checkpoints, describe
from stacked_rnn.utils import devices

_CHECK_INTERVAL = 0.2  # of the time limit, from validation to validation
# Tokens to train on for each token to validate on. Validation takes about a
# third of the time of training per token: 3 % of the time.
_TOKENS_PER_SCORED = 11


class Trainer:
    """Trains a model of a task.

    Args:
        model_config: the architecture, with its `vocabulary_size`.
        train_config: how to train.
        task: a `tasks.Task`, which has the data.
        model_dir: directory of the run; None: nothing is written or resumed.
        strategy: a `tf.distribute.Strategy`; None: `train_config.strategy`.
            With several processes, all do the same, and only the chief writes;
            they must share `model_dir`.
        initial_weights: `get_weights()` of a trained model of this
            architecture; None: random ones. A resumed run has its own.

    Attributes:
        is_chief: whether this process is the one that writes files.
        is_timed: whether `--max_minutes` alone ends the run.
        total_steps: number of steps of the run, infinity if it is timed.
        plan: the `plan.ExecutionPlan`.
        model: the model in training, one of `models`.
        task, data: the task and its data.
        interrupted: whether a signal has stopped `fit`.
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
        self.strategy = strategy or strategies.strategy_of(train_config)
        self._workers = strategies.Workers(self.strategy)
        self.is_chief = self._workers.is_chief
        replicas = self.strategy.num_replicas_in_sync
        parts = replicas * train_config.accumulate_steps
        if train_config.batch_size % parts:
            raise UserError(
                f"--batch_size={train_config.batch_size} cannot be split over "
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
        is_resumed = self.model_dir and self._open_run(model_config)
        keras.utils.set_random_seed(train_config.seed)
        self.is_timed = not train_config.epochs
        self.total_steps = (
            train_config.epochs * self.data.training.steps_per_epoch or math.inf
        )
        self.plan = plan.make_plan(
            model_config,
            train_config,
            train_config.batch_size // parts,
            replicas,
            len(self.strategy.extended.worker_devices),
            devices.gpus_among(self.strategy.extended.worker_devices),
            0 if self.task.shapes_vary else self.total_steps,
        )
        dtype_policy = self.plan.dtype_policy
        if self._workers.count > 1:  # they may have other GPUs
            self._workers.check_same({"mixed_precision": dtype_policy})
        with self.strategy.scope(), _dtype_policy(dtype_policy):
            self.model = self.task.build(model_config, self.plan.use_cudnn)
            if initial_weights is not None:
                self.model.set_weights(initial_weights)
            for layer in self.model.recurrent_layers:
                layer.jit_compile = self.plan.xla == "loops"
                layer.xla_for_gpu = self.plan.xla_for_gpu
                layer.jit_compile_masks = self.plan.use_xla_for_masks
            for layer in self.model.layers:
                if isinstance(layer, layers.Dropout | layers.TokenDropout):
                    layer.jit_compile = self.plan.use_xla_for_masks
            # For the schedule: shares of --max_minutes and of a whole window.
            self._time_share = self._window_share = None
            if self.is_timed:
                self._time_share = tf.Variable(0.0, trainable=False)
            if train_config.half_windows:
                self._window_share = tf.Variable(1.0, trainable=False)
            self.optimizer = optimizers.make_optimizer(
                train_config,
                schedules.learning_rate(
                    train_config,
                    self.total_steps,
                    self._time_share,
                    self._window_share,
                ),
                self.model,
            )
            variables = self.model.trainable_variables
            self.optimizer.build(variables)
            # For the callbacks, and for the checkpoints, which are alike in all
            # precisions.
            self.model.compile(optimizer=self.optimizer, auto_scale_loss=False)
            self._loss_scale: tuple = ()  # variables, in float16
            if dtype_policy == "mixed_float16":
                self.optimizer = keras.optimizers.LossScaleOptimizer(
                    self.optimizer
                )
                self.optimizer.build(variables)
                self._loss_scale = (
                    self.optimizer.dynamic_scale,
                    self.optimizer.step_counter,
                )
            self._average = None
            if train_config.average_decay:
                self._average = WeightAverage(
                    variables,
                    train_config.average_decay,
                    is_started=not train_config.average_patience,
                )
        self.interrupted, self._stop_request = False, False
        self._step_seconds = 1e-9  # not known yet
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
            self._average,
        )
        if self.model_dir is not None:
            directory = self.model_dir / "checkpoints"
            objects = {"model": self.model, "progress": self._progress}
            if self._average:
                objects["average"] = self._average
            self._last = Checkpoints(directory / "last", keep=2, **objects)
            self._best = Checkpoints(directory / "best", 1, model=self.model)
        if is_resumed:
            self._resume()

    @property
    def step(self) -> int:
        """Number of training steps done, over all epochs."""
        return self._progress.step

    @property
    def epoch(self) -> int:
        """Number of epochs done, with their validation."""
        return self._progress.epoch

    @property
    def seconds(self) -> float:
        """Seconds of `--max_minutes` that are over; 0 unless `is_timed`."""
        return self._progress.seconds

    @property
    def is_finished(self) -> bool:
        """Whether no epoch or no time is left, or the run has converged."""
        if self.is_timed:
            is_done = self.seconds >= self._clock.seconds
        else:
            is_done = (
                self.step >= self.total_steps and not self._is_epoch_full()
            )
        return is_done or self.has_converged

    @property
    def has_converged(self) -> bool:
        """Whether `--early_stopping` epochs have brought nothing better."""
        progress, patience = self._progress, self.config.early_stopping
        return 0 < patience <= progress.epoch - progress.best_epoch

    @property
    def history(self) -> list[dict]:
        """Results of each validation, as in history.csv."""
        return self._progress.history

    @property
    def best_row(self) -> dict | None:
        """The row of `history` with the best validation, or None."""
        rows = [row for row in self.history if "val_loss" in row]
        return min(rows, key=self.task.cost, default=None)

    def summary(self) -> dict:
        """Describes the training of the best model, in JSON values.

        Returns:
            corpus (its name), tokenizer, characters (of the training part),
            unknown_share (of the tokens), epochs, and validation (the results
            of the best epoch, or None).
        """
        best, windows = self.best_row, self.data.training
        return {
            "corpus": ", ".join(
                pathlib.Path(part.strip()).name
                for part in self.config.corpus.split(",")
            ),
            "tokenizer": self.config.tokenizer,
            "characters": windows.characters or windows.num_tokens,
            "unknown_share": round(float(self.data.unknown_share), 4),
            "epochs": round(self.step / windows.steps_per_epoch, 2),
            "validation": best
            and {
                name.removeprefix("val_"): value
                for name, value in best.items()
                if name.startswith("val_")
            },
        }

    def _open_run(self, model_config) -> bool:
        """Prepares the directory; returns whether to resume its run."""
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
            raise error or UserError("the chief cannot start: see its output")
        return outcome == 1.0

    # The loop ---------------------------------------------------------------

    def fit(self, callbacks=(), verbose="auto", **limits) -> None:
        """Trains to the end of the last epoch, or until something stops it.

        Ctrl-C, SIGTERM and `--max_minutes` stop it after the current step, with
        a checkpoint; the signals set `interrupted`.

        Args:
            callbacks: Keras callbacks, called after the line of an epoch.
            verbose: as in Keras: 0 silent, 1 a progress bar and a line per
                epoch, 2 the line alone; "auto": 1 on a terminal, otherwise 2.
            **limits: `started`, `reserve` and `least`, see `schedules.Clock`.

        Raises:
            UserError: the loss became NaN or infinite.
        """
        if self.is_chief and verbose:
            callbacks = [EpochLines(self, verbose), *callbacks]
        callbacks = keras.callbacks.CallbackList(
            callbacks,
            model=self.model,
            verbose=0,  # `EpochLines` prints
            epochs=self.config.epochs,
            steps=self.data.training.steps_per_epoch,
        )
        self._clock = schedules.Clock(
            self.config.max_minutes,
            self.seconds if self.is_timed else 0.0,
            **limits,
        )
        self._set_time_share(self.seconds / self._clock.seconds)
        self.model.stop_training = False
        callbacks.on_train_begin()
        try:
            with runs.StopRequest() as self._stop_request:
                self._fit(callbacks)
        finally:
            callbacks.on_train_end()

    def _fit(self, callbacks) -> None:
        while True:
            stop_flags = self._stop_flags(math.inf)
            interrupts, stops, *_ = map(self._workers.largest, stop_flags)
            self.interrupted = interrupts > 0
            if self.interrupted or stops or self.is_finished:
                break
            # For the callbacks, each stretch up to a validation is an epoch.
            index = len(self._rows_to_keep())
            callbacks.on_epoch_begin(index)
            logs = self._train_epoch(callbacks)
            if not self.interrupted:  # else the epoch continues later
                logs |= self._end_epoch(logs)
                self._set_time_share(self._workers.largest(self._clock.share()))
            # Callbacks may change what is saved, such as the learning rate.
            # An error in one of them does not cost the epoch.
            try:
                if not self.interrupted:
                    callbacks.on_epoch_end(index, logs)
            finally:
                self._save()

    def _stop_flags(self, next_save) -> list[float]:
        """Whether this process asks to interrupt, to stop, to save; its time.

        Several processes have clocks and signals of their own, but stop and
        save together: each training step sums these flags over all of them.

        Returns:
            Three flags, 0 or 1, and the share of the time that is over.
        """
        share = self._clock.share()
        must_stop = self.model.stop_training or share >= 1
        must_save = time.monotonic() >= next_save
        flags = (self._stop_request, must_stop, must_save)
        return [*map(float, map(bool, flags)), share]

    def _set_time_share(self, share) -> None:
        """Moves the learning rate of a timed run.

        Args:
            share: share of the time that is over, the same in all processes.
        """
        if self.is_timed:
            self._progress.seconds = share * self._clock.seconds
            self._time_share.assign(share)

    def _is_epoch_full(self) -> bool:
        """Whether all steps of the epoch are done, but not its validation."""
        steps_per_epoch = self.data.training.steps_per_epoch
        return self.step >= (self._progress.epoch + 1) * steps_per_epoch

    def _train_epoch(self, callbacks) -> dict:
        """Trains to the end of the current epoch, a check or a stop."""
        progress, windows = self._progress, self.data.training
        steps_per_epoch = windows.steps_per_epoch
        if self.step == progress.epoch * steps_per_epoch:
            progress.sums = [0.0] * self.task.num_sums
            progress.states = None
        last_check = self.step, self.seconds
        must_guess = self._clock.validation is None
        zeros = self._steps.scatter(windows)
        states = self._steps.scatter(windows, progress.states)
        page = None
        started, done, first = time.perf_counter(), 0, None
        save_interval = 60 * self.config.checkpoint_minutes
        next_save = time.monotonic() + save_interval
        while not self._is_epoch_full():
            with self._saved_on_errors(states):
                callbacks.on_train_batch_begin(self.step % steps_per_epoch)
            if page is None or windows.begins_page(self.step):
                page = _as_tensors(windows.page(self.step))
            if not windows.carries_state:
                states = zeros
            count = self._steps_of_a_call()
            length = windows.length_of(self.step)
            if length:
                self._window_share.assign(length / windows.sequence_length)
            sums, states, learning_rate, norm = self._steps.train(
                _as_tensors(np.int64(self.step)),
                _as_tensors(np.int32(count)),
                page,
                states,
                tf.constant(self._stop_flags(next_save)),
                length,
            )
            self._clock.start()
            *sums, interrupts, stops, saves, shares = sums.numpy().tolist()
            self._set_time_share(
                shares / (count * self.strategy.num_replicas_in_sync)
            )
            progress.learning_rate = float(learning_rate)
            progress.gradient_norm = float(norm)
            self._check_finite("loss", sums[0] / sums[1])
            if not self._loss_scale:  # which skips such a step
                self._check_finite("gradient norm", float(norm))
            done += self.task.count(sums)
            progress.step += count
            progress.sums = [*map(operator.add, progress.sums, sums)]
            now = time.perf_counter()
            speed = done / (now - started)
            if first is None:  # the call that is compiled
                first = now, self.step
            else:
                seconds, steps = now - first[0], self.step - first[1]
                self._step_seconds = seconds / steps
                if must_guess:
                    self._keep_for_validation(
                        self._guess_validation(seconds, steps)
                    )
            with self._saved_on_errors(states):
                callbacks.on_train_batch_end(
                    (self.step - 1) % steps_per_epoch, self._logs(speed)
                )
            self.interrupted = interrupts > 0 and not self.is_finished
            if self.interrupted or stops or self.is_finished:
                break
            if self._must_check(*last_check):
                break
            if saves:
                progress.states = self._steps.gather(states)
                self._save()
                next_save = time.monotonic() + save_interval
        if done:
            progress.states = self._steps.gather(states)
        return self._logs(done / (time.perf_counter() - started))

    @contextlib.contextmanager
    def _saved_on_errors(self, states):
        """Saves a checkpoint where a callback fails between two steps.

        Of several processes, none can do that alone: `gather` takes all.

        Args:
            states: the carried states, see `Steps.scatter`.
        """
        try:
            yield
        except Exception:
            if self._workers.count == 1:
                self._progress.states = self._steps.gather(states)
                self._save()
            raise

    def _must_check(self, first_step, first_seconds) -> bool:
        """Whether to validate now, in the midst of a long epoch.

        A run that the time ends validates each fifth of the time, but not
        shortly before the end of an epoch, nor so often that validation takes
        more than 3 % of the time. All processes decide the same.

        Args:
            first_step, first_seconds: `step` and `seconds` of the last
                validation.
        """
        training, validation = self.data.training, self.data.validation
        steps, seconds = self.step - first_step, self.seconds - first_seconds
        tokens = training.num_tokens * steps / training.steps_per_epoch
        to_score = validation.num_tokens if validation else 0
        return (
            self.is_timed
            and seconds >= _CHECK_INTERVAL * self._clock.seconds
            and tokens >= _TOKENS_PER_SCORED * to_score
            and -self.step % training.steps_per_epoch >= steps / 2
        )

    def _keep_for_validation(self, seconds) -> None:
        """Keeps time at the end for all passes over the validation set."""
        self._clock.validation = self.task.final_passes * seconds

    def _guess_validation(self, seconds, steps) -> float:
        """Guesses the seconds of a validation before the first one.

        Args:
            seconds: what some training steps took; a validation, of forward
                passes alone, takes about half of that per token.
            steps: how many.
        """
        training, validation = self.data.training, self.data.validation
        if not validation:
            return 0.0
        tokens = training.num_tokens * steps / training.steps_per_epoch
        return 0.5 * seconds * validation.num_tokens / tokens

    def _steps_of_a_call(self) -> int:
        """Number of the next steps in a page and the run, of one length.

        They take about a second at most: stops wait for them.
        """
        step, windows = self.step + 1, self.data.training
        count = min(self.plan.steps_per_call, 1 / self._step_seconds)
        last = min(self.step + max(1, int(count)), self.total_steps)
        length = windows.length_of(self.step)
        while (
            step < last
            and not windows.begins_page(step)
            and windows.length_of(step) == length
        ):
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
        """Validates, and records the results since the last validation.

        An epoch that the time limit cuts is continued later, and ends again:
        if the time does not end the run, with one row of results, beside that
        of the best weights.
        """
        progress, scores = self._progress, {}
        if self.data.validation:
            started = time.monotonic()
            with self._weights_applied():
                scores = self.evaluate(self.data.validation).logs("val_")
            self._keep_for_validation(time.monotonic() - started)
            self._check_finite("validation loss", scores["val_loss"])
        row = {"epoch": progress.epoch, "step": self.step} | logs | scores
        # Without the speed, the same run has the same history.
        del row[f"{self.task.unit}_per_second"]
        cost = self.task.cost(scores) if scores else math.inf
        is_best = cost < progress.best_cost
        if is_best:
            progress.best_cost = cost
            progress.best_epoch = progress.epoch + 1
        progress.history = [*self._rows_to_keep(), row]
        if self.is_timed:
            progress.sums = [0.0] * self.task.num_sums
        if self._is_epoch_full():
            progress.epoch += 1
        if is_best and self._is_writer():
            with self._weights_applied():
                self._best.save(self.step)
        patience = self.config.average_patience
        if self._average and progress.epoch - progress.best_epoch >= patience:
            self._average.start()
        return scores

    def _rows_to_keep(self) -> list[dict]:
        """Returns the rows of `history` that the next one does not replace.

        That of the best weights stays.
        """
        best_cost = self._progress.best_cost
        return [
            row
            for row in self.history
            if self.is_timed
            or row["epoch"] < self.epoch
            or ("val_loss" in row and self.task.cost(row) == best_cost)
        ]

    @contextlib.contextmanager
    def _weights_applied(self):
        """Gives the model the weights to validate and export, for a while."""
        if self._average is None:
            yield
        else:
            with self._average.applied():
                yield

    def weights(self) -> list[np.ndarray]:
        """Returns the weights to validate and export, as they are now."""
        with self._weights_applied():
            return self.model.get_weights()

    def evaluate(self, windows):
        """Scores every batch once, with the current weights.

        Args:
            windows: a `datasets.Batches`; a carried state is honoured.

        Returns:
            The result of the task's `score`.
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
        """Raises a `UserError` if a value shows that training has diverged."""
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

    def _is_writer(self) -> bool:
        return self.is_chief and self.model_dir is not None

    def _save(self) -> None:
        """Writes the last checkpoint, and the history up to it."""
        if self._is_writer():
            self._progress.loss_scale = [
                float(variable.numpy()) for variable in self._loss_scale
            ]
            self._last.save(self.step)
            runs.write_history(self.model_dir, self._progress.history)

    def _resume(self) -> None:
        path = runs.latest_checkpoint(self.model_dir, "last")
        restored = self._last.restore()
        # Earlier versions had fewer sums of some tasks.
        missing = self.task.num_sums - len(self._progress.sums)
        self._progress.sums += [0.0] * missing
        for variable, value in zip(self._loss_scale, self._progress.loss_scale):
            variable.assign(np.asarray(value, variable.dtype))
        if self.step != self._workers.largest(self.step):
            raise UserError(
                f"--model_dir={self.model_dir}: the workers find different "
                "checkpoints there: they must share one directory"
            )
        if restored:
            if self.is_chief:
                runs.write_history(self.model_dir, self._progress.history)
        elif path:
            raise UserError(
                f"--resume: neither {path} nor an earlier one can be read: "
                "start over with --noresume"
            )

    def best_model(self):
        """Returns the model of the best epoch, without dropout.

        If nothing was validated or is saved, the model as it is now.

        Raises:
            UserError: the weights of the best epoch are missing or damaged.
        """
        if self.model_dir is None or self.best_row is None:
            with self._weights_applied():
                return self.model.for_inference()
        # Only a model with the same layers, in the same order, and optimizer
        # reads what this one has saved.
        variables = [*self.model.variables, *self.model.optimizer.variables]
        with values_kept(variables):
            if self._best.restore():
                return self.model.for_inference()
        raise UserError(
            "--model_dir: the weights of the best epoch, in "
            f"{self.model_dir / 'checkpoints/best'}, are missing or damaged: "
            "start over with --noresume; or delete that directory, and "
            f"--init_from={self.model_dir} with another --model_dir begins "
            "with the last weights"
        )


def _as_tensors(values):
    """Puts values into the memory of the CPU, which cuts batches from them."""
    with tf.device("CPU:0"):
        return tf.nest.map_structure(tf.constant, values)


@contextlib.contextmanager
def _dtype_policy(name):
    """Sets Keras' dtype policy for the layers built inside."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

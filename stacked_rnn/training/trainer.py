"""The Trainer: one compiled step under `tf.distribute`, and all around it.

Keras' own `fit` fails under several of TensorFlow's strategies and clips a
gradient before the replicas' parts are added up, so the loop is written here,
on public API. Keras callbacks work as they do in `fit`.
"""

import contextlib
import hashlib
import itertools
import math
import os
import pathlib
import sys
import time

import keras
import tensorflow as tf

from stacked_rnn import evaluation, models
from stacked_rnn.configs import UserError
from stacked_rnn.training import runs, strategies
from stacked_rnn.training.checkpoints import Checkpoints, describe


class Trainer:
    """Trains a language model on windows of token ids.

    Args:
        model_config: the architecture, its `vocabulary_size` known.
        train_config: how to train.
        data: a `datasets.LanguageData`.
        model_dir: directory of the run. Without one nothing is written, and
            nothing resumed.
        strategy: a `tf.distribute.Strategy`; None: `train_config.strategy`.
            With several processes all do the same, and the chief alone writes;
            `model_dir` is the same directory for all of them.
        initial_weights: `get_weights()` of a trained model of this
            architecture; None: random ones. A run that goes on has its own.

    Attributes:
        is_chief: whether this process is the one that writes.
        model: the `models.LanguageModel`.
        step: training steps done, over all epochs.
    """

    def __init__(
        self,
        model_config,
        train_config,
        data,
        model_dir=None,
        strategy=None,
        initial_weights=None,
    ):
        self.config = train_config
        self.data = data
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
        self._workers.check_same(
            model_config.to_dict()
            | train_config.to_dict()
            | {"corpus": [train_config.corpus, _digest(data.training)]},
        )
        resuming = self.model_dir is not None and self._open_run(model_config)
        keras.utils.set_random_seed(train_config.seed)
        self.total_steps = train_config.epochs * data.training.steps_per_epoch
        self.shards = num_shards(
            model_config.units,
            train_config.batch_size // parts,
            len(self.strategy.extended.worker_devices),
        )
        compiled = what_xla_compiles(model_config, train_config)
        with self.strategy.scope(), _dtype_policy(train_config):
            self.model = models.build_language_model(model_config)
            if initial_weights is not None:
                self.model.set_weights(initial_weights)
            for layer in self.model.recurrent_layers:
                layer.jit_compile = compiled == "loops"
            self.optimizer = _optimizer(train_config, self.total_steps)
            self.optimizer.build(self.model.trainable_variables)
            self.model.compile(optimizer=self.optimizer)  # for the callbacks
        self.interrupted, self._stop_request = False, False
        self._progress = runs.Progress()
        # autograph=False: there is nothing to convert, and it takes seconds.
        if compiled == "shards":
            self._forward_backward = tf.function(
                self._forward_backward, jit_compile=True, autograph=False
            )
        self._train_step = tf.function(self._train_step, autograph=False)
        self._score_step = tf.function(self._score_step, autograph=False)
        self._gather = tf.function(self._gather, autograph=False)
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

    def describe(self) -> str:
        """One line on what is trained, on what, and where."""
        windows = self.data.training
        return (
            f"{self.model.count_params():,} parameters, "
            f"{windows.num_tokens:,} tokens, "
            f"{windows.steps_per_epoch:,} steps an epoch, "
            f"{self.strategy.num_replicas_in_sync} device(s) "
            f"({type(self.strategy).__name__})"
            + (f", going on from step {self.step:,}" if self.step else "")
        )

    def _open_run(self, model_config) -> bool:
        """Readies the directory; whether there is a run to go on with."""
        error, outcome = None, 0.0
        if self.is_chief:
            try:
                outcome = float(
                    runs.open_run(
                        self.model_dir,
                        model_config,
                        self.data.tokenizer,
                        self.config,
                    )
                )
            except UserError as caught:
                error, outcome = caught, 2.0
        outcome = self._workers.largest(outcome)
        if outcome == 2.0:
            raise error or UserError("the chief cannot begin: see its output")
        return outcome == 1.0

    # One step ---------------------------------------------------------------

    def _num_rows(self, windows) -> int:
        """Rows of a batch for each replica; the last may get fewer."""
        return -(-windows.batch_size // self.strategy.num_replicas_in_sync)

    def _local_batch(self, windows, step):
        """The rows of a global batch that belong to this replica.

        Always the same ones, so that a carried state stays where it is.
        """
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        count = self._num_rows(windows)
        first = tf.cast(replica * count, tf.int64)
        return windows.batch(step, first + tf.range(count, dtype=tf.int64))

    def _local_step(self, step, states):
        """Of one replica's rows: sums of nats and targets, and gradients.

        With `--accumulate_steps` a part of the rows after the other.
        """
        batch = (*self._local_batch(self.data.training, step), states)
        count = self.config.accumulate_steps
        if count == 1:
            return self._sharded(batch)
        parts = tf.nest.map_structure(
            lambda tensor: tf.reshape(tensor, [count, -1, tensor.shape[-1]]),
            batch,
        )

        def add(index, sums, arrays):
            *new, states = self._sharded(
                tf.nest.map_structure(lambda tensor: tensor[index], parts)
            )
            sums = tf.nest.map_structure(tf.add, sums, new)
            arrays = tf.nest.map_structure(
                lambda array, state: array.write(index, state), arrays, states
            )
            return index + 1, sums, arrays

        zeros = [
            tf.zeros(variable.shape, variable.dtype)
            for variable in self.model.trainable_variables
        ]
        _, (nats, targets, gradients), arrays = tf.while_loop(
            lambda index, *_: index < count,
            add,
            (
                0,
                [tf.constant(0.0), tf.constant(0.0), zeros],
                tf.nest.map_structure(
                    lambda state: tf.TensorArray(
                        state.dtype, count, element_shape=state.shape[1:]
                    ),
                    parts[2],
                ),
            ),
        )
        states = tf.nest.map_structure(lambda array: array.concat(), arrays)
        return nats, targets, gradients, states

    def _sharded(self, batch):
        """What `_forward_backward` gives for a batch, by one shard a core.

        Nothing orders the shards, so TensorFlow runs them at the same time:
        each core walks through time on its own, where the threads of one large
        shard would have to wait for each other at every time step. The sums
        are those of one shard.
        """
        rows = batch[0].shape[0]
        bounds = [rows * i // self.shards for i in range(self.shards + 1)]
        nats, counts, gradients, new_states = zip(
            *(
                self._forward_backward(*_rows(batch, first, last))
                for first, last in itertools.pairwise(bounds)
            )
        )
        return (
            tf.add_n(nats),
            tf.add_n(counts),
            [tf.add_n(parts) for parts in zip(*gradients)],
            tf.nest.map_structure(lambda *s: tf.concat(s, 0), *new_states),
        )

    def _forward_backward(self, inputs, targets, states):
        with tf.GradientTape() as tape:
            new = self.model.step(
                {"token_ids": inputs, "states": states}, training=True
            )
            nats = tf.reduce_sum(evaluation.token_nats(new["logits"], targets))
        gradients = tape.gradient(
            nats,
            [variable.value for variable in self.model.trainable_variables],
        )
        count = tf.reduce_sum(tf.cast(targets >= 0, tf.float32))
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return nats, count, gradients, new["states"]

    def _train_step(self, step, states, wishes):
        """One update from a step's global batch.

        Args:
            step: int64 scalar.
            states: of the replicas.
            wishes: float32 [n], what this process would like, 0 or 1 each.

        Returns:
            Nats and targets of the batch and how many replicas have each wish,
            float32 [2 + n]; the new states; and the learning rate, which a
            schedule would take milliseconds to compute eagerly.

        The batch is cut within the graph: an iterator's threads would take
        longer to stop than all the cutting takes.

        The gradient of the mean loss over all replicas is clipped, not that of
        one replica: N replicas do what one does.
        """

        def local_step(step, states, wishes):
            nats, count, gradients, states = self._local_step(step, states)
            sums = tf.concat([[nats, count], wishes], axis=0)
            replica = tf.distribute.get_replica_context()
            return replica.all_reduce("SUM", [sums, *gradients]), states

        reduced, states = self.strategy.run(local_step, (step, states, wishes))
        sums, *gradients = (
            self.strategy.experimental_local_results(value)[0]
            for value in reduced
        )
        gradients = [gradient / sums[1] for gradient in gradients]
        if self.config.gradient_clip_norm:
            gradients, _ = tf.clip_by_global_norm(
                gradients, self.config.gradient_clip_norm
            )
        learning_rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return sums, states, learning_rate

    def _score_step(self, windows, step, states):
        """Nats and targets of a batch, float32 [2], and the new states."""

        def local_step(step, states):
            inputs, targets = self._local_batch(windows, step)
            new = self.model.step({"token_ids": inputs, "states": states})
            nats = evaluation.token_nats(new["logits"], targets)
            count = tf.reduce_sum(tf.cast(targets >= 0, tf.float32))
            return tf.stack([tf.reduce_sum(nats), count]), new["states"]

        sums, states = self.strategy.run(local_step, (step, states))
        return self.strategy.reduce("SUM", sums, axis=None), states

    # Many steps -------------------------------------------------------------

    def fit(self, callbacks=(), verbose="auto") -> None:
        """Trains to the end of the last epoch, or until something stops it.

        Ctrl-C, SIGTERM and `--max_minutes` stop it after the current step with
        a checkpoint; `interrupted` tells.

        Args:
            callbacks: Keras callbacks, after the progress bar.
            verbose: as in Keras: 0 silent, 1 a progress bar, 2 a line an
                epoch; "auto": 1 on a terminal, otherwise 2.

        Raises:
            UserError: the loss became NaN or infinite.
        """
        if verbose == "auto":
            verbose = 1 if sys.stdout.isatty() else 2
        callbacks = keras.callbacks.CallbackList(
            [keras.callbacks.ProgbarLogger(), *callbacks],
            model=self.model,
            epochs=self.config.epochs,
            steps=self.data.training.steps_per_epoch,
            verbose=verbose if self.is_chief else 0,
        )
        deadline = math.inf
        if self.config.max_minutes:
            deadline = time.monotonic() + 60 * self.config.max_minutes
        self.model.stop_training = False
        callbacks.on_train_begin()
        try:
            with runs.StopRequest() as self._stop_request:
                self._fit(callbacks, deadline)
        finally:
            callbacks.on_train_end()

    def _fit(self, callbacks, deadline) -> None:
        while not self._is_over():
            wishes = self._wishes(deadline, math.inf)
            if self._workers.largest(max(wishes)):
                self.interrupted = bool(self._stop_request)
                break
            epoch = self._progress.epoch
            callbacks.on_epoch_begin(epoch)
            logs = self._train_epoch(callbacks, deadline)
            if not self.interrupted:  # else the epoch goes on later
                logs |= self._end_epoch(logs)
                callbacks.on_epoch_end(epoch, logs)
            self._save()

    def _wishes(self, deadline, next_save) -> list[float]:
        """What this process would like: be interrupted, stop, and save.

        Several processes have clocks and signals of their own, but stop and
        save together: a step tells each what all of them would like.
        """
        now = time.monotonic()
        stops = self.model.stop_training or now >= deadline
        return [
            float(bool(wish))
            for wish in (self._stop_request, stops, now >= next_save)
        ]

    def _is_over(self) -> bool:
        is_done = self.step >= self.total_steps and not self._is_epoch_full()
        return is_done or self._has_converged()

    def _has_converged(self) -> bool:
        """Whether `--early_stopping` epochs brought nothing better."""
        progress, patience = self._progress, self.config.early_stopping
        return 0 < patience <= progress.epoch - progress.best_epoch

    def _is_epoch_full(self) -> bool:
        """Whether all steps of an epoch were done that has not ended yet."""
        steps_per_epoch = self.data.training.steps_per_epoch
        return self.step == (self._progress.epoch + 1) * steps_per_epoch

    def _train_epoch(self, callbacks, deadline) -> dict:
        """Trains to the end of the epoch that `step` is in, or to a stop."""
        progress = self._progress
        steps_per_epoch = self.data.training.steps_per_epoch
        if self.step == progress.epoch * steps_per_epoch:
            progress.score = evaluation.Score()
            progress.states = None
        zeros = self._distributed_states(self.data.training)
        states = self._distributed_states(self.data.training, progress.states)
        started, tokens = time.perf_counter(), 0
        save_interval = 60 * self.config.checkpoint_minutes
        next_save = time.monotonic() + save_interval
        while not self._is_epoch_full():
            batch_index = self.step % steps_per_epoch
            callbacks.on_train_batch_begin(batch_index)
            if not self.data.training.carries_state:
                states = zeros
            sums, states, learning_rate = self._train_step(
                tf.constant(self.step, tf.int64),
                states,
                tf.constant(self._wishes(deadline, next_save)),
            )
            nats, count, interrupts, stops, saves = sums.numpy().tolist()
            progress.learning_rate = float(learning_rate)
            if not math.isfinite(nats):
                raise UserError(self._describe_divergence(nats / count))
            tokens += int(count)
            progress.step += 1
            progress.score = self._add(progress.score, nats, int(count))
            speed = tokens / (time.perf_counter() - started)
            callbacks.on_train_batch_end(batch_index, self._logs(speed))
            self.interrupted = interrupts > 0
            if self.interrupted or stops or self._is_over():
                break
            if saves:
                progress.states = self._gathered(states)
                self._save()
                next_save = time.monotonic() + save_interval
        if tokens:
            progress.states = self._gathered(states)
        return self._logs(tokens / (time.perf_counter() - started))

    def _logs(self, tokens_per_second) -> dict:
        progress = self._progress
        return _scores(progress.score) | {
            "learning_rate": progress.learning_rate,
            "tokens_per_second": tokens_per_second,
        }

    def _end_epoch(self, logs) -> dict:
        """Validates, and notes what the epoch has come to.

        Where the time is over within the epoch, that goes on later, and ends
        again.
        """
        progress, scores = self._progress, {}
        if self.data.validation:
            score = self.evaluate(self.data.validation)
            scores = _scores(score, "val_")
        row = {"epoch": progress.epoch} | logs | scores
        del row["tokens_per_second"]  # the same run has the same history
        progress.history[progress.epoch :] = [row]
        is_best = scores and scores["val_loss"] < progress.best_loss
        if self._is_epoch_full():
            progress.epoch += 1
        if is_best:
            progress.best_loss = scores["val_loss"]
            progress.best_epoch = progress.epoch
            if self._writes():
                self._best.save(self.step)
        return scores

    def _add(self, score, nats, count):
        characters = count * self.data.training.characters_per_token
        return evaluation.Score(
            score.nats + nats,
            score.tokens + count,
            score.characters + characters,
        )

    def evaluate(self, windows) -> evaluation.Score:
        """Scores windows with the weights as they are, each of them once.

        Args:
            windows: `datasets.Windows`; their carried state is honoured.
        """
        states = zeros = self._distributed_states(windows)
        total_nats, total = 0.0, 0
        for step in tf.range(windows.steps_per_epoch):
            if not windows.carries_state:
                states = zeros
            sums, states = self._score_step(windows, step, states)
            nats, count = sums.numpy().tolist()
            total_nats, total = total_nats + nats, total + int(count)
        return evaluation.Score(
            total_nats, total, total * windows.characters_per_token
        )

    def _describe_divergence(self, loss) -> str:
        kept = ""
        if self.model_dir is not None:
            kept = "; " + describe(self.model_dir / "checkpoints" / "last")
        return (
            f"the loss is {loss} at step {self.step + 1} (learning rate "
            f"{self._progress.learning_rate:.3g}): try a lower "
            f"--learning_rate or --gradient_clip_norm{kept}"
        )

    # Devices ----------------------------------------------------------------

    def _distributed_states(self, windows, states=None):
        """Deals the rows of states[layer][part] out; None: zeros."""
        rows = self._num_rows(windows)

        def local(context):
            if states is None:
                return self.model.initial_states(rows)
            first = context.replica_id_in_sync_group * rows
            return tf.nest.map_structure(
                lambda state: tf.constant(
                    state[first : first + rows], self.model.compute_dtype
                ),
                states,
            )

        return self.strategy.experimental_distribute_values_from_function(local)

    def _gathered(self, states):
        """The inverse of `_distributed_states`: NumPy arrays, float32."""
        if not self.data.training.carries_state:
            return None
        return tf.nest.map_structure(
            lambda state: state.numpy(), self._gather(states)
        )

    def _gather(self, states):
        """All rows of the replicas' states, float32."""

        def as_float32(states):
            return tf.nest.map_structure(
                lambda state: tf.cast(state, tf.float32), states
            )

        return tf.nest.map_structure(
            lambda state: self.strategy.gather(state, axis=0),
            self.strategy.run(as_float32, (states,)),
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

    def best_model(self) -> models.LanguageModel:
        """The model of the lowest validation loss, without dropout.

        Where nothing was validated or kept, the model as it is now.
        """
        model = self.model.for_inference()
        if self.model_dir is not None:
            Checkpoints(
                self.model_dir / "checkpoints" / "best", 1, model=model
            ).restore()
        return model


@contextlib.contextmanager
def _dtype_policy(config):
    """Keras' policy for the layers built inside."""
    before = keras.config.dtype_policy()
    if config.mixed_precision:
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _rows(batch, first, last):
    return tf.nest.map_structure(lambda tensor: tensor[first:last], batch)


def _digest(windows) -> str:
    """What the token ids are."""
    return hashlib.sha1(windows.token_ids.numpy().tobytes()).hexdigest()


def num_shards(units, rows, replicas) -> int:
    """Shards of a replica's rows: one a core, none of a few rows only.

    The products of wide layers fill the cores by themselves.
    """
    if units >= 512 or tf.config.list_logical_devices("GPU"):
        return 1
    cores = (os.cpu_count() or 1) // replicas
    return max(1, min(cores, rows // 8))


def what_xla_compiles(model_config, train_config) -> str:
    """A shard's whole pass ("shards"), the "loops" over time, or "nothing".

    benchmarks/README.md has the measurements. Narrow layers gain from one
    program; the large products of wide ones are faster in TensorFlow's own
    library, those in bfloat16 even inside the loops. Dropout writes its seeds,
    and programs that write would wait for each other. On a GPU, XLA would hide
    cuDNN.
    """
    gpus = tf.config.list_logical_devices("GPU")
    wide = model_config.units >= 512
    mixed = train_config.mixed_precision
    if gpus or not train_config.jit_compile or (wide and mixed):
        return "nothing"
    random = model_config.dropout or model_config.recurrent_dropout
    return "loops" if model_config.units > 256 or mixed or random else "shards"


def _optimizer(config, total_steps) -> keras.optimizers.Optimizer:
    learning_rate = config.learning_rate
    if config.learning_rate_schedule == "cosine":
        warmup_steps = min(100, total_steps // 20)
        learning_rate = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, total_steps - warmup_steps),
            alpha=0.01,
            warmup_target=config.learning_rate,
            warmup_steps=warmup_steps,
        )
    kinds = {
        "adam": keras.optimizers.Adam,
        "adamw": keras.optimizers.AdamW,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    }
    return kinds[config.optimizer](learning_rate)


def _scores(score, prefix="") -> dict:
    return {
        f"{prefix}loss": score.nats_per_token,
        f"{prefix}perplexity": score.perplexity,
        f"{prefix}bits_per_character": score.bits_per_character,
    }

"""Training steps on all devices, as compiled functions."""

import functools
import itertools

import keras
import tensorflow as tf


class Steps:
    """Compiled functions that train, score, and move states.

    Args:
        model: the model that `task.build` returned.
        task: a `tasks.Task`.
        optimizer: a Keras optimizer, already built.
        strategy: the `tf.distribute.Strategy` in whose scope model and
            optimizer were made.
        windows: the `datasets.Batches` to train on.
        train_config: the settings.
        plan: the `plan.ExecutionPlan`.
        average: a `WeightAverage` to update after each step, or None.
    """

    def __init__(
        self,
        model,
        task,
        optimizer,
        strategy,
        windows,
        train_config,
        plan,
        average=None,
    ):
        self._model, self._optimizer = model, optimizer
        self._task = task
        self._strategy, self._windows = strategy, windows
        self._accumulate_steps = train_config.accumulate_steps
        self._gradient_clip_norm = train_config.gradient_clip_norm
        self._reset_states = train_config.reset_states
        self._seed = train_config.seed
        self._average = average
        self._shards = plan.shards
        self._steps_per_call = plan.steps_per_call
        # autograph=False: there is nothing to convert, but it takes seconds.
        compiled = functools.partial(
            tf.function, jit_compile=True, autograph=False
        )
        if plan.xla == "shards":
            self._forward_backward = compiled(self._forward_backward)
            if plan.gpus:  # else each op of a scan is a kernel launch
                self._sums = compiled(self._sums)
        if plan.use_xla_for_update:
            self._update = compiled(self._update)
        self.train = tf.function(self.train, autograph=False)
        self.score = tf.function(self.score, autograph=False)
        self._gather_rows = tf.function(self._gather_rows, autograph=False)

    def train(self, step, count, page, states, stop_flags, length=None):
        """Trains some steps, each on one global batch.

        Args:
            step: int64 scalar, index of the first step.
            count: int32 scalar, number of steps, all within one page and of
                one length; more than one only if `plan.steps_per_call` is.
            page: `Windows.page` of these steps, as tensors.
            states: states of the replicas, see `scatter`.
            stop_flags: float32 [n], flags of this process for all others.
            length: see `Batches.length_of`.

        Returns:
            The sums of the task and of stop_flags over steps and replicas,
            float32 [num_sums + n]; the new states; the learning rate of the
            last step, which takes milliseconds to compute eagerly; and the
            norm of the last gradient before clipping.
        """
        if self._steps_per_call == 1:
            return self._train_step(step, page, states, stop_flags, length)

        def add(done, sums, states, learning_rate, norm):
            with tf.device("CPU:0"):  # or each step would wait for a GPU
                next_step = step + tf.cast(done, tf.int64)
            new, new_states, learning_rate, norm = self._train_step(
                next_step, page, states, stop_flags, length
            )
            if self._windows.carries_state:
                states = new_states
            return done + 1, sums + new, states, learning_rate, norm

        zero = tf.constant(0.0)
        sums = tf.zeros(self._task.num_sums + stop_flags.shape[0])
        _, *results = tf.while_loop(
            lambda done, *_: done < count,
            add,
            (tf.constant(0), sums, states, zero, zero),
        )
        return results

    def _train_step(self, step, page, states, stop_flags, length):
        """Trains one step; arguments and results are those of `train`.

        The batch is cut within the graph: the threads of an iterator would take
        longer to stop than the cutting takes in all.

        The gradient of the mean loss over all replicas is clipped, not that of
        each replica, so that N replicas compute what one does.
        """

        def local_step(step, page, states, stop_flags):
            batch = self._local_batch(self._windows, step, page, length)
            reset_seed, seeds = self._seeds(step)
            if self._reset_states and self._windows.carries_state:
                states = self._some_reset(states, reset_seed)
            sums, gradients, states = self._local_step(*batch, states, seeds)
            sums = tf.concat([sums, stop_flags], axis=0)
            replica = tf.distribute.get_replica_context()
            return replica.all_reduce("SUM", [sums, *gradients]), states

        reduced, states = self._strategy.run(
            local_step, (step, page, states, stop_flags)
        )
        sums, *gradients = (
            self._strategy.experimental_local_results(value)[0]
            for value in reduced
        )
        return sums, states, *self._update(gradients, sums[1])

    def _update(self, gradients, count):
        """Updates the weights.

        Args:
            gradients: gradients of the loss, summed over all replicas.
            count: number by which to divide them.

        Returns:
            The learning rate, and the norm of the gradient before clipping.
        """
        gradients = [gradient / count for gradient in gradients]
        # In float16, gradients stay scaled until the optimizer applies them.
        scale = self._optimizer.scale_loss(tf.constant(1.0))
        norm = tf.linalg.global_norm(gradients)
        if self._gradient_clip_norm:
            gradients, _ = tf.clip_by_global_norm(
                gradients, self._gradient_clip_norm * scale, norm
            )
        learning_rate = tf.convert_to_tensor(self._optimizer.learning_rate)
        self._optimizer.apply(gradients, self._model.trainable_variables)
        if self._average is not None:
            self._average.update()
        return learning_rate, norm / scale

    def score(self, windows, step, page, states):
        """Returns the task's sums of a batch, and the new states."""

        def local_step(step, page, states):
            inputs, targets = self._local_batch(windows, step, page)
            return self._sums(inputs, targets, states)

        sums, states = self._strategy.run(local_step, (step, page, states))
        return self._strategy.reduce("SUM", sums, axis=None), states

    def _sums(self, inputs, targets, states):
        return self._task.sums(self._model, inputs, targets, states)

    def scatter(self, windows, states=None):
        """Distributes the rows of states[layer][part]; None: zeros."""
        rows = self._num_rows(windows)

        def local(context):
            if states is None:
                return self._task.initial_states(self._model, rows)
            first = context.replica_id_in_sync_group * rows
            return tf.nest.map_structure(
                lambda state: tf.constant(
                    state[first : first + rows], self._model.compute_dtype
                ),
                states,
            )

        return self._strategy.experimental_distribute_values_from_function(
            local
        )

    def gather(self, states):
        """The inverse of `scatter`: float32 NumPy arrays; None: not carried."""
        if not self._windows.carries_state:
            return None
        return tf.nest.map_structure(
            lambda state: state.numpy(), self._gather_rows(states)
        )

    def _gather_rows(self, states):
        """Joins the rows of all replicas' states, as float32."""

        def as_float32(states):
            return tf.nest.map_structure(
                lambda state: tf.cast(state, tf.float32), states
            )

        return tf.nest.map_structure(
            lambda state: self._strategy.gather(state, axis=0),
            self._strategy.run(as_float32, (states,)),
        )

    def _num_rows(self, windows) -> int:
        """Number of rows per replica; the last may have fewer."""
        return -(-windows.batch_size // self._strategy.num_replicas_in_sync)

    def _local_batch(self, windows, step, page, length=None):
        """Cuts the rows of a global batch that belong to this replica.

        They are always the same ones, so that a carried state stays where it
        is. The CPU cuts them: otherwise the whole page is sent to a GPU.
        """
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        count = self._num_rows(windows)
        first = tf.cast(replica * count, tf.int64)
        rows = first + tf.range(count, dtype=tf.int64)
        options = {} if length is None else {"length": length}
        with tf.device("CPU:0"):
            return windows.batch(step, page, rows, **options)

    def _seeds(self, step):
        """Draws the seeds of a step on this replica.

        They depend on the step alone, so that a resumed run draws the same.
        Variables would be an obstacle to XLA, too: shards that write to one
        wait for each other.

        Returns:
            int32 [2], for `_some_reset`, and int32 [parts, shards, layers + 1,
            2], for the layers that draw random numbers; the last one, for the
            task, is the same on all replicas and for all parts and shards.
        """
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        shape = (
            self._accumulate_steps,
            self._shards,
            len(self._model.non_trainable_variables),
            2,
        )
        seed = tf.stack([tf.constant(self._seed, tf.int64), step])
        first, second = tf.unstack(
            tf.random.split(
                tf.random.experimental.stateless_fold_in(
                    seed, tf.cast(replica, tf.int64)
                )
            )
        )
        seeds = tf.random.stateless_uniform(shape, second, None, None, tf.int32)
        # XLA draws other numbers than TensorFlow from a negative seed.
        shared = tf.random.stateless_uniform(
            [2], seed, 0, tf.int32.max, tf.int32
        )
        shared = tf.broadcast_to(shared, (*shape[:2], 1, 2))
        return first, tf.concat([seeds, shared], axis=2)

    def _some_reset(self, states, seed):
        """Sets the states of some rows to zero, drawn by `reset_states`."""
        rows = tf.nest.flatten(states)[0].shape[0]
        is_kept = (
            tf.random.stateless_uniform((rows, 1), seed) >= self._reset_states
        )
        return tf.nest.map_structure(
            lambda state: tf.where(is_kept, state, tf.zeros_like(state)), states
        )

    def _local_step(self, inputs, targets, states, seeds):
        """Computes sums, gradients and new states of one replica's rows.

        With `--accumulate_steps`, one part of the rows after the other.
        """
        batch = (inputs, targets, states)
        count = self._accumulate_steps
        if count == 1:
            return self._sharded(batch, seeds[0])
        parts = tf.nest.map_structure(
            lambda tensor: tf.reshape(tensor, [count, -1, *tensor.shape[1:]]),
            batch,
        )

        def add(index, sums, arrays):
            *new, states = self._sharded(
                tf.nest.map_structure(lambda tensor: tensor[index], parts),
                seeds[index],
            )
            sums = tf.nest.map_structure(tf.add, sums, new)
            arrays = tf.nest.map_structure(
                lambda array, state: array.write(index, state), arrays, states
            )
            return index + 1, sums, arrays

        zeros = [
            tf.zeros(variable.shape, variable.dtype)
            for variable in self._model.trainable_variables
        ]
        _, (sums, gradients), arrays = tf.while_loop(
            lambda index, *_: index < count,
            add,
            (
                0,
                [tf.zeros(self._task.num_sums), zeros],
                tf.nest.map_structure(
                    lambda state: tf.TensorArray(
                        state.dtype, count, element_shape=state.shape[1:]
                    ),
                    parts[2],
                ),
            ),
        )
        states = tf.nest.map_structure(
            lambda array, state: tf.ensure_shape(array.concat(), state.shape),
            arrays,
            states,
        )
        return sums, gradients, states

    def _sharded(self, batch, seeds):
        """Runs `_forward_backward` on a batch, in one shard per core.

        Nothing orders the shards, so TensorFlow runs them at the same time:
        each core steps through time on its own, whereas the threads of one
        large shard would wait for each other at every time step. The results
        are those of one shard.
        """
        rows = batch[1].shape[0]
        shards = self._shards
        bounds = [rows * i // shards for i in range(shards + 1)]
        sums, gradients, new_states = zip(
            *(
                self._forward_backward(*_rows(batch, first, last), seeds[shard])
                for shard, (first, last) in enumerate(
                    itertools.pairwise(bounds)
                )
            )
        )
        return (
            tf.add_n(sums),
            [tf.add_n(parts) for parts in zip(*gradients)],
            tf.nest.map_structure(lambda *s: tf.concat(s, 0), *new_states),
        )

    def _forward_backward(self, inputs, targets, states, seeds):
        *layer_seeds, seed = tf.unstack(seeds)
        # The non-trainable variables are the seeds of layers.
        layer_seeds = zip(self._model.non_trainable_variables, layer_seeds)
        scope = keras.StatelessScope([*layer_seeds], collect_losses=True)
        with tf.GradientTape() as tape:
            with scope:
                sums, states = self._task.sums(
                    self._model, inputs, targets, states, seed
                )
            penalties = _of_targets(scope.losses, targets)
            loss = tf.add_n([self._task.objective(sums), *penalties])
            scaled = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled,
            [variable.value for variable in self._model.trainable_variables],
        )
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return sums, gradients, states


def _of_targets(losses, targets):
    """Sums losses of layers, as far as a row has targets.

    The loss of a batch is divided by the number of its targets, and rows that
    only fill the batch have none.

    Args:
        losses: list of float32 [batch].
        targets: int32 [batch, ...]; negative ones are none.
    """
    if not losses:
        return []
    is_target = tf.reshape(targets, [targets.shape[0], -1]) >= 0
    share = tf.reduce_mean(tf.cast(is_target, tf.float32), axis=1)
    return [tf.reduce_sum(share * loss) for loss in losses]


def _rows(batch, first, last):
    return tf.nest.map_structure(lambda tensor: tensor[first:last], batch)

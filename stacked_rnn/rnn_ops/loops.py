"""The loop over time, and the helpers that the scans share."""

import functools

import tensorflow as tf

_MOST_STEPS = 8  # of an iteration, with `few_kernels`


def with_gradient(custom):
    """Returns a decorator for a function that returns (results, gradient).

    Args:
        custom: whether to use that gradient; False: to drop it, so that
            TensorFlow differentiates the function.
    """
    if custom:
        return tf.custom_gradient
    return lambda scan: lambda *arguments: scan(*arguments)[0]


@functools.cache
def _compiled(function):
    """Compiles a loop with XLA and keeps it differentiable.

    The values that automatic differentiation of a loop needs cannot leave a
    compiled function ("TensorList crossing the XLA/TF boundary"). So the
    gradient of the result, which only second-order gradients need, is that of
    the loop without XLA.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)

    def run(*arguments, **options):
        flat = tf.nest.flatten(arguments)
        indices = [
            index
            for index, value in enumerate(flat)
            if value is not None and value.dtype.is_floating
        ]

        def call(function, tensors):
            for index, tensor in zip(indices, tensors):
                flat[index] = tensor
            packed = tf.nest.pack_sequence_as(arguments, flat)
            return function(*packed, **options)

        @tf.custom_gradient
        def differentiable(*tensors):
            def gradient(*d_results):
                with tf.GradientTape() as tape:
                    tape.watch(tensors)
                    results = call(function, tensors)
                return tape.gradient(
                    tf.nest.flatten(results),
                    tensors,
                    d_results,
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )

            results = call(compiled, [tf.stop_gradient(t) for t in tensors])
            structure.append(results)
            return tf.nest.flatten(results), gradient

        structure = []
        results = differentiable(*(flat[index] for index in indices))
        return tf.nest.pack_sequence_as(structure[0], results)

    return run


def compiled_if(jit_compile, forward, backward):
    """Returns the two loops of a scan, compiled by XLA if `jit_compile`."""
    if jit_compile:
        return _compiled(forward), _compiled(backward)
    return forward, backward


def scan(
    step,
    states,
    sequences,
    like,
    state_mask=None,
    backward=False,
    few_kernels=False,
):
    """Calls a function for each time step, passing the states on.

    Args:
        step: (states, *slices) -> (new states, outputs); the slices are one
            time step of each sequence.
        states: tuple of tensors, the states before the first step.
        sequences: list of tensors [time, ...].
        like: tuple with a tensor for each output of a step, [batch, columns],
            of the same shape and dtype.
        state_mask: None, or [time, batch, 1]: the factor of the states before
            each step. In a backward scan, where the states are gradients, the
            factor of those that a step returns.
        backward: whether to begin at the last time step.
        few_kernels: whether an iteration takes several time steps, and writes
            the outputs of each as one tensor. XLA makes fewer kernels of it,
            and on a GPU launching them takes most of the time.

    Returns:
        The final states, and a tuple of the outputs [time, ...].
    """
    time = sequences[0].shape[0]
    steps = 1
    if time is None:
        time = tf.shape(sequences[0])[0]
    elif few_kernels:
        steps = max(n for n in range(1, _MOST_STEPS + 1) if time % n == 0)
    columns = [tensor.shape[1] for tensor in like]

    def array(shape, dtype):
        return tf.TensorArray(
            dtype, size=time, element_shape=shape, clear_after_read=False
        )

    inputs = [array(s.shape[1:], s.dtype).unstack(s) for s in sequences]
    if state_mask is not None:
        factors = array(state_mask.shape[1:], state_mask.dtype).unstack(
            state_mask
        )

    def scaled(states, t):
        if state_mask is None:
            return states
        return tuple(state * factors.read(t) for state in states)

    def body(iteration, states, arrays):
        for index in range(steps):
            count = iteration * steps + index
            t = time - 1 - count if backward else count
            if not backward:
                states = scaled(states, t)
            states, outputs = step(states, *(a.read(t) for a in inputs))
            if backward:
                states = scaled(states, t)
            if few_kernels:
                outputs = (tf.concat(outputs, 1),)
            arrays = tuple(a.write(t, o) for a, o in zip(arrays, outputs))
        return iteration + 1, states, arrays

    if few_kernels:
        like = (tf.concat(like, 1),)
    _, states, arrays = tf.while_loop(
        # `maximum_iterations` alone ends it: XLA then knows the number, and
        # a GPU need not ask the CPU after each iteration.
        lambda *_: True,
        body,
        (0, states, tuple(array(t.shape, t.dtype) for t in like)),
        maximum_iterations=time if steps == 1 else time // steps,
    )
    outputs = tuple(a.stack() for a in arrays)
    if few_kernels:
        outputs = tuple(tf.split(outputs[0], columns, axis=-1))
    return states, outputs


def recurrent_matmul(kernel, dropout_masks):
    """Returns h -> h U, with the dropout mask of each gate on h, if any."""
    if dropout_masks is None:
        return lambda h: _matmul(h, kernel)
    blocks = tf.split(kernel, len(dropout_masks), axis=1)
    return lambda h: tf.concat(
        [_matmul(h * m, block) for m, block in zip(dropout_masks, blocks)],
        axis=1,
    )


def recurrent_matmul_gradient(kernel, dropout_masks):
    """Returns d(h U) -> d h; transposes U once, not at every step."""
    transposed = tf.transpose(kernel)
    if dropout_masks is None:
        return lambda d: _matmul(d, transposed)
    num_gates = len(dropout_masks)
    blocks = tf.split(transposed, num_gates, axis=0)
    return lambda d: tf.add_n(
        [
            m * _matmul(part, block)
            for m, part, block in zip(
                dropout_masks, tf.split(d, num_gates, axis=1), blocks
            )
        ]
    )


def kernel_gradient(h, d_recurrent, kernel, dropout_masks):
    """Computes d U with one matmul over all time steps.

    Args:
        h: the states before each step, [time, batch, units].
        d_recurrent: d(h U), [time, batch, gates * units].
        kernel: U, [units, gates * units].
        dropout_masks: None, or a mask [batch, units] per gate.
    """

    def gradient(h, d):
        h = tf.reshape(h, (-1, h.shape[-1]))
        d = tf.reshape(d, (-1, d.shape[-1]))
        return tf.matmul(
            tf.cast(h, kernel.dtype), tf.cast(d, kernel.dtype), transpose_a=True
        )

    if dropout_masks is None:
        return gradient(h, d_recurrent)
    parts = tf.split(d_recurrent, len(dropout_masks), axis=-1)
    return tf.concat(
        [gradient(h * m, d) for m, d in zip(dropout_masks, parts)], axis=1
    )


def _matmul(a, b):
    return tf.cast(tf.matmul(tf.cast(a, b.dtype), b), a.dtype)


def previous(initial, states, state_mask):
    """Returns the state that each step saw, [time, batch, units].

    Args:
        initial: the state before the first step, [batch, units].
        states: the states after each step, [time, batch, units].
        state_mask: None, or [time, batch, 1].
    """
    shifted = tf.concat([initial[None], states[:-1]], axis=0)
    return shifted if state_mask is None else shifted * state_mask


def split_masks(dropout_masks, count):
    """Returns the dropout masks of the first `count` gates and the others."""
    if dropout_masks is None:
        return None, None
    return dropout_masks[:count], dropout_masks[count:]


def not_none(*tensors):
    """Returns the list of the tensors that are not None."""
    return [tensor for tensor in tensors if tensor is not None]


# A step function receives its time step of the mask as `*keep`: one tensor,
# bool [batch, 1], or none without a mask.


def updated(keep, new, old):
    """Returns `new` where the mask is True or missing, `old` elsewhere."""
    return tf.where(*keep, new, old) if keep else new


def split_gradient(keep, gradient):
    """Splits the gradient of the state that a step returned.

    Returns:
        The part that flows through the computation of the step, and the part
        that goes straight to the state before it, where the step is masked.
    """
    if not keep:
        return gradient, 0.0
    zeros = tf.zeros_like(gradient)
    return tf.where(*keep, gradient, zeros), tf.where(*keep, zeros, gradient)

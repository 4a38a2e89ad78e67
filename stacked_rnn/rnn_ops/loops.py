"""A loop over time, and what the scans make theirs of."""

import functools

import tensorflow as tf


def with_gradient(custom):
    """The decorator of a scan: with its own gradient, or without."""
    if custom:
        return tf.custom_gradient
    return lambda scan: lambda *arguments: scan(*arguments)[0]


@functools.cache
def _compiled(function):
    """`function` as XLA compiles it, differentiable still.

    What autodiff wants of a loop cannot leave a compiled function ("TensorList
    crossing the XLA/TF boundary"): asked for the gradient of a loop, which
    happens for second-order gradients only, it gets that of an uncompiled one.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)

    def run(*arguments, **options):
        flat = tf.nest.flatten(arguments)
        places = [
            place
            for place, value in enumerate(flat)
            if value is not None and value.dtype.is_floating
        ]

        def call(function, tensors):
            for place, tensor in zip(places, tensors):
                flat[place] = tensor
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
        results = differentiable(*(flat[place] for place in places))
        return tf.nest.pack_sequence_as(structure[0], results)

    return run


def compiled_if(jit_compile, forward, backward):
    """The two loops of a scan, compiled by XLA or as they are."""
    if jit_compile:
        return _compiled(forward), _compiled(backward)
    return forward, backward


def scan(step, states, sequences, like, state_mask=None, backward=False):
    """Loops over time.

    Args:
        step: (states, *one time step of each sequence) -> (new states,
            outputs of the step).
        states: tuple of tensors.
        sequences: tensors [time, ...].
        like: for each output of a step a tensor of its shape and dtype.
        state_mask: None, or [time, batch, 1]: what the states before a step,
            or going back their gradients, are multiplied by.
        backward: from the last time step to the first.

    Returns:
        The last states, and the outputs [time, ...].
    """
    time = sequences[0].shape[0]
    if time is None:
        time = tf.shape(sequences[0])[0]

    def array(shape, dtype):
        return tf.TensorArray(
            dtype, size=time, element_shape=shape, clear_after_read=False
        )

    inputs = [array(s.shape[1:], s.dtype).unstack(s) for s in sequences]
    if state_mask is not None:
        keeps = array(state_mask.shape[1:], state_mask.dtype).unstack(
            state_mask
        )

    def scaled(states, t):
        if state_mask is None:
            return states
        return tuple(state * keeps.read(t) for state in states)

    def body(count, states, arrays):
        t = time - 1 - count if backward else count
        if not backward:
            states = scaled(states, t)
        new_states, outputs = step(states, *(a.read(t) for a in inputs))
        if backward:
            new_states = scaled(new_states, t)
        arrays = tuple(a.write(t, o) for a, o in zip(arrays, outputs))
        return count + 1, new_states, arrays

    _, states, arrays = tf.while_loop(
        lambda count, *_: count < time,
        body,
        (0, states, tuple(array(t.shape, t.dtype) for t in like)),
        maximum_iterations=time,
    )
    return states, tuple(a.stack() for a in arrays)


def product(kernel, dropout_masks):
    """h -> h U, each gate's block of it from h under the gate's mask."""
    if dropout_masks is None:
        return lambda h: _matmul(h, kernel)
    blocks = tf.split(kernel, len(dropout_masks), axis=1)
    return lambda h: tf.concat(
        [_matmul(h * m, block) for m, block in zip(dropout_masks, blocks)],
        axis=1,
    )


def product_gradient(kernel, dropout_masks):
    """d(h U) -> dh; U is transposed once, not at every step."""
    transposed = tf.transpose(kernel)
    if dropout_masks is None:
        return lambda d: _matmul(d, transposed)
    count = len(dropout_masks)
    blocks = tf.split(transposed, count, axis=0)
    return lambda d: tf.add_n(
        [
            m * _matmul(part, block)
            for m, part, block in zip(
                dropout_masks, tf.split(d, count, axis=1), blocks
            )
        ]
    )


def kernel_gradient(h, d_products, kernel, dropout_masks):
    """h [time, batch, units], d(h U) -> dU: all time steps in one product."""

    def gradient(h, d):
        h = tf.reshape(h, (-1, h.shape[-1]))
        d = tf.reshape(d, (-1, d.shape[-1]))
        return tf.matmul(
            tf.cast(h, kernel.dtype), tf.cast(d, kernel.dtype), transpose_a=True
        )

    if dropout_masks is None:
        return gradient(h, d_products)
    parts = tf.split(d_products, len(dropout_masks), axis=-1)
    return tf.concat(
        [gradient(h * m, d) for m, d in zip(dropout_masks, parts)], axis=1
    )


def _matmul(a, b):
    return tf.cast(tf.matmul(tf.cast(a, b.dtype), b), a.dtype)


def before(first, sequence, state_mask):
    """The states that each step sees, given those after it."""
    before = tf.concat([first[None], sequence[:-1]], axis=0)
    return before if state_mask is None else before * state_mask


def split_masks(dropout_masks, count):
    """The masks of the first `count` gates, and those of the others."""
    if dropout_masks is None:
        return None, None
    return dropout_masks[:count], dropout_masks[count:]


def present(*tensors):
    """Those that are not None."""
    return [tensor for tensor in tensors if tensor is not None]


def where(keep, new, old):
    """`new` where the mask keeps a step, or everywhere without a mask."""
    return tf.where(*keep, new, old) if keep else new


def part(keep, gradient):
    """Of a state's gradient what goes through the step, and what around it."""
    if not keep:
        return gradient, 0.0
    zeros = tf.zeros_like(gradient)
    return tf.where(*keep, gradient, zeros), tf.where(*keep, zeros, gradient)

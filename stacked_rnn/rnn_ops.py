"""Recurrent scans with gradients written by hand: tensors in, tensors out.

What cuDNN does on a GPU, for a CPU, in TensorFlow's own ops. Autodiff of a loop
over time adds to the gradient of the weights at every step; here the loop back
only carries the gradient of the state and notes those of the gates, and one
large matrix product per weight follows (Appleyard et al. 2016, section 3).

Notation, for one time step, in the gate order of Keras:

    x        the projected inputs W x + b, [batch, gates * units]
    h, c     the state before the step and h', c' after it, [batch, units]
    U        the recurrent kernel, [units, gates * units]
    d name   the gradient of the loss with respect to a value

Sequences are [time, batch, ...]. Where a mask [time, batch, 1] is False, a step
leaves the state as it is. `dropout_masks` has a mask [batch, units] for each
gate: the gate sees h times its mask, the same one at every step (Gal &
Ghahramani 2016). x and the states have one dtype, in which the gates are
computed; the products with U run in the dtype of U (bfloat16, say).

With `jit_compile` both loops are compiled by XLA, each on its own, which leaves
the products outside the loops to TensorFlow's own library.

A SavedModel traces the custom gradients of all it holds, for long: what is only
for inference does without them.

Second-order gradients are right: the saved values are outputs of ordinary ops.
"""

import functools

import tensorflow as tf

# The three scans --------------------------------------------------------------


def simple_rnn(
    x,
    states,
    recurrent_kernel,
    mask=None,
    dropout_masks=None,
    jit_compile=False,
    custom_gradient=True,
):
    """h' = tanh(x + h U): D2L equation 9.4.5 with tanh.

    Args:
        x: projected inputs, [time, batch, units].
        states: (h,), [batch, units].
        recurrent_kernel: [units, units].
        mask: None, or bool [time, batch, 1].
        dropout_masks: None, or one mask [batch, units].
        jit_compile: whether XLA compiles the loops.
        custom_gradient: False: leaves the gradient to autodiff.

    Returns:
        The outputs [time, batch, units] and the final states (h',).
    """

    @_with_gradient(custom_gradient)
    def scan(x, h0, kernel):
        forward, backward = _loops(
            _simple_rnn_forward, _simple_rnn_backward, jit_compile
        )
        h, outputs = forward(x, h0, kernel, mask, dropout_masks)

        def gradient(d_outputs, d_h):
            d_h0, d_x = backward(
                d_outputs, d_h, outputs, kernel, mask, dropout_masks
            )
            before = _before(h0, outputs)
            d_kernel = _kernel_gradient(before, d_x, kernel, dropout_masks)
            return d_x, d_h0, d_kernel

        return (outputs, h), gradient

    outputs, h = scan(x, *states, recurrent_kernel)
    return outputs, (h,)


def gru(
    x,
    states,
    recurrent_kernel,
    recurrent_bias=None,
    reset_after=True,
    mask=None,
    dropout_masks=None,
    jit_compile=False,
    custom_gradient=True,
):
    """Gated recurrent unit, D2L section 10.2.

        z  = sigmoid(x_z + h U_z + b_z)          how much of h survives
        r  = sigmoid(x_r + h U_r + b_r)          how much the candidate sees
        c  = tanh(x_c + r * (h U_c + b_c))       reset after the product, or
        c  = tanh(x_c + (r * h) U_c)             before it (Cho et al. 2014)
        h' = z * h + (1 - z) * c

    Args:
        x: projected inputs, [time, batch, 3 * units]: x_z, x_r, x_c.
        states: (h,), [batch, units].
        recurrent_kernel: [units, 3 * units].
        recurrent_bias: None, or [3 * units]; with `reset_after` only.
        reset_after: which of the two candidates.
        mask: None, or bool [time, batch, 1].
        dropout_masks: None, or three masks [batch, units].
        jit_compile: whether XLA compiles the loops.
        custom_gradient: False: leaves the gradient to autodiff.

    Returns:
        The outputs [time, batch, units] and the final states (h',).
    """
    if recurrent_bias is None:
        recurrent_bias = tf.zeros(x.shape[-1:], x.dtype)
    elif not reset_after:
        raise ValueError("gru: a recurrent_bias needs reset_after")

    @_with_gradient(custom_gradient)
    def scan(x, h0, kernel, bias):
        forward, backward = _loops(_gru_forward, _gru_backward, jit_compile)
        h, (outputs, *saved) = forward(
            x, h0, kernel, bias, mask, dropout_masks, reset_after=reset_after
        )

        def gradient(d_outputs, d_h):
            before = _before(h0, outputs)
            d_h0, d_x, d_products = backward(
                d_outputs,
                d_h,
                before,
                *saved,
                kernel,
                mask,
                dropout_masks,
                reset_after=reset_after,
            )
            if reset_after:
                d_kernel = _kernel_gradient(
                    before, d_products, kernel, dropout_masks
                )
                d_bias = tf.reduce_sum(d_products, [0, 1])
                return d_x, d_h0, d_kernel, d_bias
            units = h0.shape[-1]
            *_, r_h = saved
            gate_masks, candidate_masks = _split_masks(dropout_masks, 2)
            d_kernel = tf.concat(
                [
                    _kernel_gradient(before, d_products, kernel, gate_masks),
                    _kernel_gradient(
                        r_h, d_x[..., 2 * units :], kernel, candidate_masks
                    ),
                ],
                axis=1,
            )
            return d_x, d_h0, d_kernel, tf.zeros_like(bias)

        return (outputs, h), gradient

    outputs, h = scan(x, *states, recurrent_kernel, recurrent_bias)
    return outputs, (h,)


def lstm(
    x,
    states,
    recurrent_kernel,
    mask=None,
    dropout_masks=None,
    jit_compile=False,
    custom_gradient=True,
):
    """Long short-term memory, D2L section 10.1.

        i  = sigmoid(x_i + h U_i)        how much of the candidate enters
        f  = sigmoid(x_f + h U_f)        how much of c survives
        g  = tanh(x_g + h U_g)           the candidate
        o  = sigmoid(x_o + h U_o)        how much of c' shows
        c' = f * c + i * g
        h' = o * tanh(c')

    Args:
        x: projected inputs, [time, batch, 4 * units]: x_i, x_f, x_g, x_o.
        states: (h, c), each [batch, units].
        recurrent_kernel: [units, 4 * units].
        mask: None, or bool [time, batch, 1].
        dropout_masks: None, or four masks [batch, units].
        jit_compile: whether XLA compiles the loops.
        custom_gradient: False: leaves the gradient to autodiff.

    Returns:
        The outputs [time, batch, units] and the final states (h', c').
    """

    @_with_gradient(custom_gradient)
    def scan(x, h0, c0, kernel):
        forward, backward = _loops(_lstm_forward, _lstm_backward, jit_compile)
        h, c, (outputs, *saved) = forward(
            x, h0, c0, kernel, mask, dropout_masks
        )

        def gradient(d_outputs, d_h, d_c):
            d_h0, d_c0, d_x = backward(
                d_outputs, d_h, d_c, c0, *saved, kernel, mask, dropout_masks
            )
            before = _before(h0, outputs)
            d_kernel = _kernel_gradient(before, d_x, kernel, dropout_masks)
            return d_x, d_h0, d_c0, d_kernel

        return (outputs, h, c), gradient

    outputs, h, c = scan(x, *states, recurrent_kernel)
    return outputs, (h, c)


# Their loops ------------------------------------------------------------------
#
# The mask and the dropout masks may be None. At a masked step dh is zero for
# all but the state before it, and so are the gradients of the gates: what was
# saved there does not matter.


def _simple_rnn_forward(x, h0, kernel, mask, dropout_masks):
    product = _product(kernel, dropout_masks)

    def step(states, x, *keep):
        (h,) = states
        h = _where(keep, tf.tanh(x + product(h)), h)
        return (h,), (h,)

    (h,), (outputs,) = _scan(step, (h0,), _present(x, mask), like=(h0,))
    return h, outputs


def _simple_rnn_backward(d_outputs, d_h, outputs, kernel, mask, dropout_masks):
    product_gradient = _product_gradient(kernel, dropout_masks)

    def step(states, d_output, h, *keep):
        (d_h,) = states
        d_h, d_kept = _part(keep, d_h + d_output)
        d_x = d_h * (1 - h * h)
        return (product_gradient(d_x) + d_kept,), (d_x,)

    (d_h0,), (d_x,) = _scan(
        step,
        (d_h,),
        _present(d_outputs, outputs, mask),
        like=(d_h,),
        backward=True,
    )
    return d_h0, d_x


def _gru_forward(x, h0, kernel, bias, mask, dropout_masks, reset_after):
    units = h0.shape[-1]
    gate_masks, candidate_masks = _split_masks(dropout_masks, 2)
    product = _product(kernel, dropout_masks)
    gate_product = _product(kernel[:, : 2 * units], gate_masks)
    candidate_product = _product(kernel[:, 2 * units :], candidate_masks)

    def step(states, x, *keep):
        (h,) = states
        x_zr, x_c = x[:, : 2 * units], x[:, 2 * units :]
        if reset_after:
            products = product(h) + bias
            zr = tf.sigmoid(x_zr + products[:, : 2 * units])
            z, r = zr[:, :units], zr[:, units:]
            n = products[:, 2 * units :]
            c = tf.tanh(x_c + r * n)
        else:
            zr = tf.sigmoid(x_zr + gate_product(h))
            z, r = zr[:, :units], zr[:, units:]
            n = r * h
            c = tf.tanh(x_c + candidate_product(n))
        h = _where(keep, c + z * (h - c), h)
        return (h,), (h, z, r, c, n)

    (h,), saved = _scan(step, (h0,), _present(x, mask), like=(h0,) * 5)
    return h, saved


def _gru_backward(
    d_outputs, d_h, before, z, r, c, n, kernel, mask, dropout_masks, reset_after
):
    units = d_h.shape[-1]
    gate_masks, candidate_masks = _split_masks(dropout_masks, 2)
    product_gradient = _product_gradient(kernel, dropout_masks)
    gate_gradient = _product_gradient(kernel[:, : 2 * units], gate_masks)
    candidate_gradient = _product_gradient(
        kernel[:, 2 * units :], candidate_masks
    )

    def step(states, d_output, h, z, r, c, n, *keep):
        (d_h,) = states
        d_h, d_kept = _part(keep, d_h + d_output)
        d_c = d_h * (1 - z) * (1 - c * c)
        d_z = d_h * (h - c) * z * (1 - z)
        if reset_after:
            d_r = d_c * n * r * (1 - r)
            d_products = tf.concat([d_z, d_r, d_c * r], axis=1)
            d_before = d_h * z + product_gradient(d_products)
        else:
            d_n = candidate_gradient(d_c)
            d_r = d_n * h * r * (1 - r)
            d_products = tf.concat([d_z, d_r], axis=1)
            d_before = d_h * z + d_n * r + gate_gradient(d_products)
        d_x = tf.concat([d_z, d_r, d_c], axis=1)
        return (d_before + d_kept,), (d_x, d_products)

    (d_h0,), (d_x, d_products) = _scan(
        step,
        (d_h,),
        _present(d_outputs, before, z, r, c, n, mask),
        like=(
            tf.concat([d_h] * 3, axis=1),
            tf.concat([d_h] * (3 if reset_after else 2), axis=1),
        ),
        backward=True,
    )
    return d_h0, d_x, d_products


def _lstm_forward(x, h0, c0, kernel, mask, dropout_masks):
    product = _product(kernel, dropout_masks)

    def step(states, x, *keep):
        h, c = states
        x_i, x_f, x_g, x_o = tf.split(x + product(h), 4, axis=1)
        i, f, o = tf.sigmoid(x_i), tf.sigmoid(x_f), tf.sigmoid(x_o)
        g = tf.tanh(x_g)
        c = _where(keep, f * c + i * g, c)
        h = _where(keep, o * tf.tanh(c), h)
        return (h, c), (h, c, i, f, g, o)

    (h, c), saved = _scan(step, (h0, c0), _present(x, mask), like=(h0,) * 6)
    return h, c, saved


def _lstm_backward(
    d_outputs, d_h, d_c, c0, c, i, f, g, o, kernel, mask, dropout_masks
):
    product_gradient = _product_gradient(kernel, dropout_masks)

    def step(states, d_output, c_before, c, i, f, g, o, *keep):
        d_h, d_c = states
        d_h, d_h_kept = _part(keep, d_h + d_output)
        d_c, d_c_kept = _part(keep, d_c)
        tanh_c = tf.tanh(c)
        d_c += d_h * o * (1 - tanh_c * tanh_c)
        d_x = tf.concat(
            [
                d_c * g * i * (1 - i),
                d_c * c_before * f * (1 - f),
                d_c * i * (1 - g * g),
                d_h * tanh_c * o * (1 - o),
            ],
            axis=1,
        )
        return (product_gradient(d_x) + d_h_kept, d_c * f + d_c_kept), (d_x,)

    (d_h0, d_c0), (d_x,) = _scan(
        step,
        (d_h, d_c),
        _present(d_outputs, _before(c0, c), c, i, f, g, o, mask),
        like=(tf.concat([d_h] * 4, axis=1),),
        backward=True,
    )
    return d_h0, d_c0, d_x


# What they share --------------------------------------------------------------


def _with_gradient(custom):
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


def _loops(forward, backward, jit_compile):
    if jit_compile:
        return _compiled(forward), _compiled(backward)
    return forward, backward


def _scan(step, states, sequences, like, backward=False):
    """Loops over time.

    Args:
        step: (states, *one time step of each sequence) -> (new states,
            outputs of the step).
        states: tuple of tensors.
        sequences: tensors [time, ...].
        like: for each output of a step a tensor of its shape and dtype.
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

    def body(count, states, arrays):
        t = time - 1 - count if backward else count
        new_states, outputs = step(states, *(a.read(t) for a in inputs))
        arrays = tuple(a.write(t, o) for a, o in zip(arrays, outputs))
        return count + 1, new_states, arrays

    _, states, arrays = tf.while_loop(
        lambda count, *_: count < time,
        body,
        (0, states, tuple(array(t.shape, t.dtype) for t in like)),
        maximum_iterations=time,
    )
    return states, tuple(a.stack() for a in arrays)


def _product(kernel, dropout_masks):
    """h -> h U, each gate's block of it from h under the gate's mask."""
    if dropout_masks is None:
        return lambda h: _matmul(h, kernel)
    blocks = tf.split(kernel, len(dropout_masks), axis=1)
    return lambda h: tf.concat(
        [_matmul(h * m, block) for m, block in zip(dropout_masks, blocks)],
        axis=1,
    )


def _product_gradient(kernel, dropout_masks):
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


def _kernel_gradient(h, d_products, kernel, dropout_masks):
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


def _before(first, sequence):
    """The states before each step, given those after it."""
    return tf.concat([first[None], sequence[:-1]], axis=0)


def _split_masks(dropout_masks, count):
    if dropout_masks is None:
        return None, None
    return dropout_masks[:count], dropout_masks[count:]


def _present(*tensors):
    return [tensor for tensor in tensors if tensor is not None]


def _where(keep, new, old):
    """`new` where the mask keeps a step, or everywhere without a mask."""
    return tf.where(*keep, new, old) if keep else new


def _part(keep, gradient):
    """Of a state's gradient what goes through the step, and what around it."""
    if not keep:
        return gradient, 0.0
    zeros = tf.zeros_like(gradient)
    return tf.where(*keep, gradient, zeros), tf.where(*keep, zeros, gradient)

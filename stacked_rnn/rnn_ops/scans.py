"""The scans of the three cells; `rnn_ops` explains the notation."""

import tensorflow as tf

from stacked_rnn.rnn_ops import loops


def simple_rnn(
    x,
    states,
    recurrent_kernel,
    mask=None,
    state_mask=None,
    dropout_masks=None,
    jit_compile=False,
    few_kernels=False,
    custom_gradient=True,
):
    """h' = tanh(x + h U): D2L equation 9.4.5 with tanh.

    Args:
        x: projected inputs, [time, batch, units].
        states: (h,), [batch, units].
        recurrent_kernel: [units, units].
        mask: None, or bool [time, batch, 1], False where a step does not
            change the state.
        state_mask: None, or [time, batch, 1] of the dtype of x: 0 where the
            state is set to zero before a step, otherwise 1.
        dropout_masks: None, or a list with one mask [batch, units].
        jit_compile: whether XLA compiles the loops.
        few_kernels: see `loops.scan`.
        custom_gradient: whether to use the hand-written gradient; False: to
            leave it to TensorFlow.

    Returns:
        The outputs [time, batch, units] and the final states (h',).
    """

    @loops.with_gradient(custom_gradient)
    def scan(x, h0, kernel):
        forward, backward = loops.compiled_if(
            jit_compile, _simple_rnn_forward, _simple_rnn_backward
        )
        h, outputs = forward(
            x,
            h0,
            kernel,
            mask,
            state_mask,
            dropout_masks,
            few_kernels=few_kernels,
        )

        def gradient(d_outputs, d_h):
            d_h0, d_x = backward(
                d_outputs,
                d_h,
                outputs,
                kernel,
                mask,
                state_mask,
                dropout_masks,
                few_kernels=few_kernels,
            )
            h_prev = loops.previous(h0, outputs, state_mask)
            d_kernel = loops.kernel_gradient(h_prev, d_x, kernel, dropout_masks)
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
    state_mask=None,
    dropout_masks=None,
    jit_compile=False,
    few_kernels=False,
    custom_gradient=True,
):
    """Gated recurrent unit, D2L section 10.2.

        z  = sigmoid(x_z + h U_z + b_z)          how much of h survives
        r  = sigmoid(x_r + h U_r + b_r)          how much the candidate sees
        c  = tanh(x_c + r * (h U_c + b_c))       reset after the matmul, or
        c  = tanh(x_c + (r * h) U_c)             before it (Cho et al. 2014)
        h' = z * h + (1 - z) * c

    Args:
        x: projected inputs, [time, batch, 3 * units]: x_z, x_r, x_c.
        states: (h,), [batch, units].
        recurrent_kernel: [units, 3 * units].
        recurrent_bias: None, or [3 * units]: b_z, b_r, b_c; needs
            `reset_after`.
        reset_after: whether the reset gate acts after the matmul.
        mask: None, or bool [time, batch, 1], False where a step does not
            change the state.
        state_mask: None, or [time, batch, 1] of the dtype of x: 0 where the
            state is set to zero before a step, otherwise 1.
        dropout_masks: None, or a list of three masks [batch, units].
        jit_compile: whether XLA compiles the loops.
        few_kernels: see `loops.scan`.
        custom_gradient: whether to use the hand-written gradient; False: to
            leave it to TensorFlow.

    Returns:
        The outputs [time, batch, units] and the final states (h',).

    Raises:
        ValueError: a recurrent_bias without reset_after.
    """
    if recurrent_bias is None:
        recurrent_bias = tf.zeros(x.shape[-1:], x.dtype)
    elif not reset_after:
        raise ValueError("gru: a recurrent_bias needs reset_after")

    @loops.with_gradient(custom_gradient)
    def scan(x, h0, kernel, bias):
        forward, backward = loops.compiled_if(
            jit_compile, _gru_forward, _gru_backward
        )
        h, (outputs, *saved) = forward(
            x,
            h0,
            kernel,
            bias,
            mask,
            state_mask,
            dropout_masks,
            reset_after=reset_after,
            few_kernels=few_kernels,
        )

        def gradient(d_outputs, d_h):
            h_prev = loops.previous(h0, outputs, state_mask)
            d_h0, d_x, d_recurrent = backward(
                d_outputs,
                d_h,
                h_prev,
                *saved,
                kernel,
                mask,
                state_mask,
                dropout_masks,
                reset_after=reset_after,
                few_kernels=few_kernels,
            )
            if reset_after:
                d_kernel = loops.kernel_gradient(
                    h_prev, d_recurrent, kernel, dropout_masks
                )
                d_bias = tf.reduce_sum(d_recurrent, [0, 1])
                return d_x, d_h0, d_kernel, d_bias
            units = h0.shape[-1]
            *_, r_h = saved
            zr_masks, c_masks = loops.split_masks(dropout_masks, 2)
            d_kernel = tf.concat(
                [
                    loops.kernel_gradient(
                        h_prev, d_recurrent, kernel, zr_masks
                    ),
                    loops.kernel_gradient(
                        r_h, d_x[..., 2 * units :], kernel, c_masks
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
    state_mask=None,
    dropout_masks=None,
    cap_input_gate=False,
    jit_compile=False,
    few_kernels=False,
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
        mask: None, or bool [time, batch, 1], False where a step does not
            change the state.
        state_mask: None, or [time, batch, 1] of the dtype of x: 0 where the
            state is set to zero before a step, otherwise 1.
        dropout_masks: None, or a list of four masks [batch, units].
        cap_input_gate: whether i is at most 1 - f, so that c' is no larger than
            c and the candidate (Melis et al. 2018, "On the state of the art of
            evaluation in neural language models", section 3.1).
        jit_compile: whether XLA compiles the loops.
        few_kernels: see `loops.scan`.
        custom_gradient: whether to use the hand-written gradient; False: to
            leave it to TensorFlow.

    Returns:
        The outputs [time, batch, units] and the final states (h', c').
    """

    @loops.with_gradient(custom_gradient)
    def scan(x, h0, c0, kernel):
        forward, backward = loops.compiled_if(
            jit_compile, _lstm_forward, _lstm_backward
        )
        h, c, (outputs, *saved) = forward(
            x,
            h0,
            c0,
            kernel,
            mask,
            state_mask,
            dropout_masks,
            cap_input_gate=cap_input_gate,
            few_kernels=few_kernels,
        )

        def gradient(d_outputs, d_h, d_c):
            d_h0, d_c0, d_x = backward(
                d_outputs,
                d_h,
                d_c,
                c0,
                *saved,
                kernel,
                mask,
                state_mask,
                dropout_masks,
                cap_input_gate=cap_input_gate,
                few_kernels=few_kernels,
            )
            h_prev = loops.previous(h0, outputs, state_mask)
            d_kernel = loops.kernel_gradient(h_prev, d_x, kernel, dropout_masks)
            return d_x, d_h0, d_c0, d_kernel

        return (outputs, h, c), gradient

    outputs, h, c = scan(x, *states, recurrent_kernel)
    return outputs, (h, c)


# The loops of the scans -------------------------------------------------------
#
# The masks may be None. At a masked step the whole gradient of the state goes
# to the state before it and the gradients of the gates are zero, so the values
# that the forward loop saved there do not matter.


def _simple_rnn_forward(
    x, h0, kernel, mask, state_mask, dropout_masks, few_kernels
):
    matmul = loops.recurrent_matmul(kernel, dropout_masks)

    def step(states, x, *keep):
        (h,) = states
        h = loops.updated(keep, tf.tanh(x + matmul(h)), h)
        return (h,), (h,)

    (h,), (outputs,) = loops.scan(
        step,
        (h0,),
        loops.not_none(x, mask),
        like=(h0,),
        state_mask=state_mask,
        few_kernels=few_kernels,
    )
    return h, outputs


def _simple_rnn_backward(
    d_outputs,
    d_h,
    outputs,
    kernel,
    mask,
    state_mask,
    dropout_masks,
    few_kernels,
):
    matmul_gradient = loops.recurrent_matmul_gradient(kernel, dropout_masks)

    def step(states, d_output, h, *keep):
        (d_h,) = states
        d_h, d_kept = loops.split_gradient(keep, d_h + d_output)
        d_x = d_h * (1 - h * h)
        return (matmul_gradient(d_x) + d_kept,), (d_x,)

    (d_h0,), (d_x,) = loops.scan(
        step,
        (d_h,),
        loops.not_none(d_outputs, outputs, mask),
        like=(d_h,),
        state_mask=state_mask,
        backward=True,
        few_kernels=few_kernels,
    )
    return d_h0, d_x


def _gru_forward(
    x,
    h0,
    kernel,
    bias,
    mask,
    state_mask,
    dropout_masks,
    reset_after,
    few_kernels,
):
    units = h0.shape[-1]
    zr_masks, c_masks = loops.split_masks(dropout_masks, 2)
    matmul = loops.recurrent_matmul(kernel, dropout_masks)
    zr_matmul = loops.recurrent_matmul(kernel[:, : 2 * units], zr_masks)
    c_matmul = loops.recurrent_matmul(kernel[:, 2 * units :], c_masks)

    def step(states, x, *keep):
        (h,) = states
        x_zr, x_c = x[:, : 2 * units], x[:, 2 * units :]
        if reset_after:
            recurrent = matmul(h) + bias
            zr = tf.sigmoid(x_zr + recurrent[:, : 2 * units])
            z, r = zr[:, :units], zr[:, units:]
            n = recurrent[:, 2 * units :]
            c = tf.tanh(x_c + r * n)
        else:
            zr = tf.sigmoid(x_zr + zr_matmul(h))
            z, r = zr[:, :units], zr[:, units:]
            n = r * h
            c = tf.tanh(x_c + c_matmul(n))
        h = loops.updated(keep, c + z * (h - c), h)
        return (h,), (h, z, r, c, n)

    (h,), saved = loops.scan(
        step,
        (h0,),
        loops.not_none(x, mask),
        like=(h0,) * 5,
        state_mask=state_mask,
        few_kernels=few_kernels,
    )
    return h, saved


def _gru_backward(
    d_outputs,
    d_h,
    h_prev,
    z,
    r,
    c,
    n,
    kernel,
    mask,
    state_mask,
    dropout_masks,
    reset_after,
    few_kernels,
):
    units = d_h.shape[-1]
    zr_masks, c_masks = loops.split_masks(dropout_masks, 2)
    matmul_gradient = loops.recurrent_matmul_gradient(kernel, dropout_masks)
    zr_gradient = loops.recurrent_matmul_gradient(
        kernel[:, : 2 * units], zr_masks
    )
    c_gradient = loops.recurrent_matmul_gradient(
        kernel[:, 2 * units :], c_masks
    )

    def step(states, d_output, h, z, r, c, n, *keep):
        (d_h,) = states
        d_h, d_kept = loops.split_gradient(keep, d_h + d_output)
        d_c = d_h * (1 - z) * (1 - c * c)
        d_z = d_h * (h - c) * z * (1 - z)
        if reset_after:
            d_r = d_c * n * r * (1 - r)
            d_recurrent = tf.concat([d_z, d_r, d_c * r], axis=1)
            d_h_prev = d_h * z + matmul_gradient(d_recurrent)
        else:
            d_n = c_gradient(d_c)
            d_r = d_n * h * r * (1 - r)
            d_recurrent = tf.concat([d_z, d_r], axis=1)
            d_h_prev = d_h * z + d_n * r + zr_gradient(d_recurrent)
        d_x = tf.concat([d_z, d_r, d_c], axis=1)
        return (d_h_prev + d_kept,), (d_x, d_recurrent)

    (d_h0,), (d_x, d_recurrent) = loops.scan(
        step,
        (d_h,),
        loops.not_none(d_outputs, h_prev, z, r, c, n, mask),
        like=(
            tf.concat([d_h] * 3, axis=1),
            tf.concat([d_h] * (3 if reset_after else 2), axis=1),
        ),
        state_mask=state_mask,
        backward=True,
        few_kernels=few_kernels,
    )
    return d_h0, d_x, d_recurrent


def _lstm_forward(
    x,
    h0,
    c0,
    kernel,
    mask,
    state_mask,
    dropout_masks,
    cap_input_gate,
    few_kernels,
):
    matmul = loops.recurrent_matmul(kernel, dropout_masks)

    def step(states, x, *keep):
        h, c = states
        x_i, x_f, x_g, x_o = tf.split(x + matmul(h), 4, axis=1)
        i, f, o = tf.sigmoid(x_i), tf.sigmoid(x_f), tf.sigmoid(x_o)
        g = tf.tanh(x_g)
        if cap_input_gate:
            i = tf.minimum(i, 1 - f)
        c = loops.updated(keep, f * c + i * g, c)
        h = loops.updated(keep, o * tf.tanh(c), h)
        return (h, c), (h, c, i, f, g, o)

    (h, c), saved = loops.scan(
        step,
        (h0, c0),
        loops.not_none(x, mask),
        like=(h0,) * 6,
        state_mask=state_mask,
        few_kernels=few_kernels,
    )
    return h, c, saved


def _lstm_backward(
    d_outputs,
    d_h,
    d_c,
    c0,
    c,
    i,
    f,
    g,
    o,
    kernel,
    mask,
    state_mask,
    dropout_masks,
    cap_input_gate,
    few_kernels,
):
    matmul_gradient = loops.recurrent_matmul_gradient(kernel, dropout_masks)

    def step(states, d_output, c_prev, c, i, f, g, o, *keep):
        d_h, d_c = states
        d_h, d_h_kept = loops.split_gradient(keep, d_h + d_output)
        d_c, d_c_kept = loops.split_gradient(keep, d_c)
        tanh_c = tf.tanh(c)
        d_c += d_h * o * (1 - tanh_c * tanh_c)
        d_i, d_f = d_c * g, d_c * c_prev
        if cap_input_gate:
            is_capped = i >= 1 - f  # then i is 1 - f
            d_f = tf.where(is_capped, d_f - d_i, d_f)
            d_i = tf.where(is_capped, tf.zeros_like(d_i), d_i)
        d_x = tf.concat(
            [
                d_i * i * (1 - i),
                d_f * f * (1 - f),
                d_c * i * (1 - g * g),
                d_h * tanh_c * o * (1 - o),
            ],
            axis=1,
        )
        return (matmul_gradient(d_x) + d_h_kept, d_c * f + d_c_kept), (d_x,)

    (d_h0, d_c0), (d_x,) = loops.scan(
        step,
        (d_h, d_c),
        loops.not_none(
            d_outputs, loops.previous(c0, c, state_mask), c, i, f, g, o, mask
        ),
        like=(tf.concat([d_h] * 4, axis=1),),
        state_mask=state_mask,
        backward=True,
        few_kernels=few_kernels,
    )
    return d_h0, d_c0, d_x

"""A simulated GPU: in the list of devices, and in place of cuDNN's op."""

import tensorflow as tf

from stacked_rnn.utils import devices

GPU = devices.Gpu("Simulated GPU", (9, 0))


def plug_in(monkeypatch, gpu=GPU):
    """Adds a GPU to the project's list of devices and to TensorFlow's."""
    monkeypatch.setattr(devices, "gpus", lambda: (gpu,))
    for name in ("list_logical_devices", "list_physical_devices"):
        real = getattr(tf.config, name)
        monkeypatch.setattr(
            tf.config,
            name,
            lambda kind=None, real=real: (
                ["GPU:0"] if kind == "GPU" else real(kind)
            ),
        )


def plug_in_cudnn(monkeypatch):
    """Replaces cuDNN's op by the equations of its documentation."""
    monkeypatch.setattr(tf.raw_ops, "CudnnRNNV3", _cudnn_rnn)


def _cudnn_rnn(
    input,
    input_h,
    input_c,
    params,
    sequence_lengths,
    rnn_mode,
    time_major,
    is_training,
):
    """The op in one direction, with two sets of biases."""
    assert is_training
    arguments = params, sequence_lengths, rnn_mode
    if time_major:
        # The real op fails if only some rows of a batch have full length.
        tf.debugging.assert_equal(sequence_lengths, tf.shape(input)[0])
        return *_run(input, input_h, input_c, *arguments), None, None

    def swapped(value):
        return tf.transpose(value, (1, 0, 2)) if value.shape.rank else value

    results = _run(*map(swapped, (input, input_h, input_c)), *arguments)
    return *map(swapped, results), None, None


def _run(input, input_h, input_c, params, sequence_lengths, rnn_mode):
    """Computes the equations, time first; returns outputs and last states."""
    assert input.dtype in (tf.float32, tf.float16)
    # Tensor cores need multiples of eight.
    assert input.shape[-1] % 8 == input_h.shape[-1] % 8 == 0
    gates = {"gru": 3, "lstm": 4}[rnn_mode]
    num_layers, _, units = input_h.shape
    time = tf.shape(input)[0]
    place = 0

    def take(rows, columns):
        nonlocal place
        part = params[place : place + rows * columns]
        place += rows * columns
        return tf.reshape(part, [rows, columns])

    matrices = []
    for layer in range(num_layers):
        inputs = units if layer else input.shape[-1]
        matrices.append(
            [
                [take(units, width) for _ in range(gates)]
                for width in (inputs, units)
            ]
        )
    biases = [
        [[take(1, units) for _ in range(gates)] for _ in range(2)]
        for _ in range(num_layers)
    ]
    with tf.control_dependencies(
        [
            tf.debugging.assert_equal(place, tf.size(params)),
            tf.debugging.assert_greater(sequence_lengths, 0),
        ]
    ):
        x = tf.identity(input)
    last = []
    for layer in range(num_layers):
        (w, r), (b_w, b_r) = matrices[layer], biases[layer]
        h = input_h[layer]
        c = input_c[layer] if rnn_mode == "lstm" else h

        def step(t, h, c, outputs, x=x, w=w, r=r, b_w=b_w, b_r=b_r):
            from_x = [
                tf.matmul(x[t], m, transpose_b=True) + b for m, b in zip(w, b_w)
            ]
            from_h = [
                tf.matmul(h, m, transpose_b=True) + b for m, b in zip(r, b_r)
            ]
            if rnn_mode == "lstm":
                i, f, g, o = (a + b for a, b in zip(from_x, from_h))
                new_c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
                new_h = tf.sigmoid(o) * tf.tanh(new_c)
            else:
                reset = tf.sigmoid(from_x[0] + from_h[0])
                update = tf.sigmoid(from_x[1] + from_h[1])
                new = tf.tanh(from_x[2] + reset * from_h[2])
                new_h = new_c = (1 - update) * new + update * h
            runs = (t < sequence_lengths)[:, None]
            output = tf.where(runs, new_h, tf.zeros_like(new_h))
            return (
                t + 1,
                tf.where(runs, new_h, h),
                tf.where(runs, new_c, c),
                outputs.write(t, output),
            )

        _, h, c, outputs = tf.while_loop(
            lambda t, *_: t < time,
            step,
            (0, h, c, tf.TensorArray(x.dtype, time, element_shape=h.shape)),
        )
        x = outputs.stack()
        last.append((h, c))
    h, c = (tf.stack(parts) for parts in zip(*last))
    return x, h, c if rnn_mode == "lstm" else input_c

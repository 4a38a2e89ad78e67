"""The scans against a plain loop and autodiff, in float64."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import reference, rnn_ops

BATCH, TIME, UNITS = 3, 5, 4
KINDS = {
    "simple_rnn": 1, "gru": 3, "gru_reset_before": 3, "lstm": 4,
    "lstm_capped": 4,
}  # fmt: skip
MASK = tf.constant([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [0] * 5]) > 0
KEEPS_STATE = tf.constant([[1, 1, 0, 1, 1], [0, 1, 1, 0, 0], [1] * 5])
kinds = pytest.mark.parametrize("kind", KINDS)


def plain_step(kind, x, states, kernel, bias, drop):
    """Computes one time step in TensorFlow ops from the equations."""
    h, units = states[0], UNITS
    gates = KINDS[kind]
    seen = [h] * gates if drop is None else [h * m for m in drop]
    blocks = tf.split(kernel, gates, axis=1)
    products = [s @ block for s, block in zip(seen, blocks)]
    xs = tf.split(x, gates, axis=1)
    if kind == "simple_rnn":
        return (tf.tanh(xs[0] + products[0]),)
    if gates == 4:
        i, f, g, o = (a + b for a, b in zip(xs, products))
        i, f = tf.sigmoid(i), tf.sigmoid(f)
        if kind == "lstm_capped":
            i = tf.where(i < 1 - f, i, 1 - f)
        c = f * states[1] + i * tf.tanh(g)
        return tf.sigmoid(o) * tf.tanh(c), c
    if kind == "gru":
        products = tf.split(tf.concat(products, 1) + bias, 3, axis=1)
    z = tf.sigmoid(xs[0] + products[0])
    r = tf.sigmoid(xs[1] + products[1])
    if kind == "gru":
        c = tf.tanh(xs[2] + r * products[2])
    else:
        c = tf.tanh(xs[2] + (r * seen[2]) @ kernel[:, 2 * units :])
    return (z * h + (1 - z) * c,)


def keeps(state_mask):
    """Makes a mask, [time, batch, 1], of where the state is kept."""
    if state_mask is None:
        return None
    return tf.cast(tf.transpose(KEEPS_STATE)[..., None], tf.float64)


def plain_scan(kind, x, states, kernel, bias, mask, drop, state_mask=None):
    outputs = []
    for t in range(x.shape[0]):
        if state_mask is not None:
            states = tuple(s * keeps(state_mask)[t] for s in states)
        new = plain_step(kind, x[t], states, kernel, bias, drop)
        if mask is not None:
            new = [tf.where(mask[t], n, s) for n, s in zip(new, states)]
        states = tuple(new)
        outputs.append(states[0])
    return tf.stack(outputs), states


def fast_scan(
    kind, x, states, kernel, bias, mask, drop, state_mask=None, **options
):
    options |= {
        "mask": mask,
        "state_mask": keeps(state_mask),
        "dropout_masks": drop,
    }
    if kind == "simple_rnn":
        return rnn_ops.simple_rnn(x, states, kernel, **options)
    if KINDS[kind] == 4:
        cap = kind == "lstm_capped"
        return rnn_ops.lstm(x, states, kernel, cap_input_gate=cap, **options)
    if kind == "gru":
        return rnn_ops.gru(x, states, kernel, bias, **options)
    return rnn_ops.gru(x, states, kernel, reset_after=False, **options)


def arguments(kind, rng, masked, dropped):
    """x, states, kernel, bias; mask; dropout masks."""

    def normal(*shape):
        return tf.constant(rng.normal(size=shape))

    gates = KINDS[kind]
    states = [normal(BATCH, UNITS) for _ in range(2 if gates == 4 else 1)]
    tensors = (
        normal(TIME, BATCH, gates * UNITS),
        tuple(states),
        normal(UNITS, gates * UNITS),
        normal(gates * UNITS),
    )
    mask = tf.transpose(MASK)[..., None] if masked else None
    drop = None
    if dropped:
        kept = rng.random((gates, BATCH, UNITS)) < 0.6
        drop = [tf.constant(k / 0.6) for k in kept]
    return tensors, mask, drop


def values_and_gradients(scan, tensors, mask, drop):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs, states = scan(*tensors, mask, drop)
        loss = tf.reduce_sum(tf.sin(outputs)) + sum(
            tf.reduce_sum(state**2) for state in states
        )
    gradients = tape.gradient(
        loss, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return tf.nest.flatten((outputs, states, gradients))


def second_order(scan, tensors, mask, drop):
    """Computes the gradient of a function of all first gradients."""
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        values = values_and_gradients(scan, tensors, mask, drop)
        loss = sum(tf.reduce_sum(tf.sin(value)) for value in values)
    return tf.nest.flatten(
        tape.gradient(
            loss, tensors, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
    )


def assert_all_close(got, expected, atol=1e-10):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


@kinds
@pytest.mark.parametrize(
    ("masked", "dropped", "state_mask"),
    [
        (False, False, None),
        (False, False, "cut"),
        (True, False, None),
        (False, True, None),
        (True, True, None),
        (True, True, "cut"),
    ],
)
def test_values_and_all_gradients_equal_a_plain_loop(
    kind, masked, dropped, state_mask, rng
):
    case = arguments(kind, rng, masked, dropped)
    options = {"state_mask": state_mask}
    expected = values_and_gradients(
        functools.partial(plain_scan, kind, **options), *case
    )
    for custom in (True, False):
        got = values_and_gradients(
            functools.partial(
                fast_scan, kind, custom_gradient=custom, **options
            ),
            *case,
        )
        assert_all_close(got, expected)


@kinds
@pytest.mark.parametrize(
    "way", ["graph", "xla_loops", "few_kernels", "xla", "xla_few_kernels"]
)
def test_graph_and_xla_equal_eager(kind, way, rng):
    tensors, mask, drop = arguments(kind, rng, masked=True, dropped=False)

    def run(tensors, **options):
        scan = functools.partial(
            fast_scan, kind, mask=mask, drop=drop, state_mask="cut", **options
        )
        return values_and_gradients(
            lambda *args: scan(*args[:-2]), tensors, None, None
        )

    compiled = tf.function(
        functools.partial(
            run,
            jit_compile=way == "xla_loops",
            few_kernels="few_kernels" in way,
        ),
        jit_compile=way in ("xla", "xla_few_kernels"),
        autograph=False,
    )
    assert_all_close(compiled(tensors), run(tensors))


@kinds
@pytest.mark.parametrize(
    ("masked", "state_mask"), [(False, None), (True, None), (True, "cut")]
)
def test_second_order_gradients_equal_a_plain_loop(
    kind, masked, state_mask, rng
):
    case = arguments(kind, rng, masked, dropped=False)
    options = {"state_mask": state_mask}
    plain = functools.partial(plain_scan, kind, **options)
    fast = functools.partial(fast_scan, kind, **options)
    expected = second_order(plain, *case)
    got = second_order(fast, *case)
    assert_all_close(got, expected, atol=1e-8)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_second_order_gradients_through_compiled_loops(kind, rng):
    case = arguments(kind, rng, masked=False, dropped=False)
    expected = second_order(functools.partial(plain_scan, kind), *case)
    scan = functools.partial(fast_scan, kind, jit_compile=True)
    run = tf.function(
        lambda tensors: second_order(scan, tensors, None, None), autograph=False
    )
    assert_all_close(run(case[0]), expected, atol=1e-8)


@pytest.mark.parametrize("kind", ["simple_rnn", "gru", "lstm"])
def test_values_equal_the_numpy_reference(kind, rng):
    (x, states, kernel, bias), mask, _ = arguments(kind, rng, True, False)
    # The projection is the identity, so that x goes in as it is.
    no_bias = np.zeros(KINDS[kind] * UNITS)
    biases = np.stack([no_bias, bias]) if kind == "gru" else no_bias
    expected, expected_states = reference.recurrent_layer(
        kind,
        np.swapaxes(x.numpy(), 0, 1),
        tuple(state.numpy() for state in states),
        (np.eye(KINDS[kind] * UNITS), kernel.numpy(), biases),
        MASK.numpy(),
    )
    outputs, new_states = fast_scan(kind, x, states, kernel, bias, mask, None)
    assert_all_close([tf.transpose(outputs, (1, 0, 2))], [expected])
    assert_all_close(new_states, expected_states)


@kinds
def test_shapes_may_be_unknown_when_the_graph_is_built(kind, rng):
    case = arguments(kind, rng, masked=True, dropped=False)
    tensors, mask, _ = case
    run = tf.function(
        lambda tensors, mask: values_and_gradients(
            functools.partial(fast_scan, kind), tensors, mask, None
        ),
        autograph=False,
    ).get_concrete_function(
        (
            tf.TensorSpec((None, None, KINDS[kind] * UNITS), tf.float64),
            tuple(tf.TensorSpec((None, UNITS), tf.float64) for _ in tensors[1]),
            tf.TensorSpec(tensors[2].shape, tf.float64),
            tf.TensorSpec(tensors[3].shape, tf.float64),
        ),
        tf.TensorSpec((None, None, 1), tf.bool),
    )
    got = run(*tf.nest.flatten(tensors), mask)
    expected = values_and_gradients(functools.partial(fast_scan, kind), *case)
    assert_all_close(got, expected)


@pytest.mark.parametrize("few_kernels", [False, True])
@kinds
def test_xla_knows_the_number_of_iterations(kind, few_kernels, rng):
    """A GPU would ask the CPU after each iteration whether to go on."""
    tensors, mask, drop = arguments(kind, rng, masked=False, dropped=False)

    def run(tensors):
        return values_and_gradients(
            functools.partial(fast_scan, kind, few_kernels=few_kernels),
            tensors, mask, drop,
        )  # fmt: skip

    compiled = tf.function(run, jit_compile=True, autograph=False)
    hlo = compiled.experimental_get_compiler_ir(tensors)("optimized_hlo")
    loops = [line for line in hlo.splitlines() if " while(" in line]
    assert few_kernels or len(loops) == 2
    assert all("known_trip_count" in line for line in loops)


def test_a_recurrent_bias_needs_reset_after(rng):
    (x, states, kernel, bias), *_ = arguments("gru", rng, False, False)
    with pytest.raises(ValueError, match="reset_after"):
        rnn_ops.gru(x, states, kernel, bias, reset_after=False)

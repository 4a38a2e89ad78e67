"""The layers against the stock Keras layers of the same name."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import layers
from tests.helpers import simulated_gpu
from tests.helpers.small_models import mirrored

BATCH, TIME, INPUTS, UNITS = 3, 6, 4, 5
MASK = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [0] * 6]) > 0
NAMES = ["SimpleRNN", "GRU", "LSTM"]
names = pytest.mark.parametrize("name", NAMES)


def pair(name, dtype=None, **options):
    """Makes a stock layer and ours with the same random weights."""
    options = {"return_sequences": True, "return_state": True} | options
    rng = np.random.default_rng(0)
    stock = getattr(keras.layers, name)(UNITS, seed=3, dtype=dtype, **options)
    ours = getattr(layers, name)(UNITS, seed=3, dtype=dtype, **options)
    stock.build((BATCH, TIME, INPUTS))
    ours.build((BATCH, TIME, INPUTS))
    weights = [rng.normal(0, 0.5, w.shape) for w in stock.get_weights()]
    stock.set_weights(weights)
    ours.set_weights(weights)
    return stock, ours


def call(layer, mask=None, training=True, dtype=tf.float32):
    """Returns outputs, states, and all gradients."""
    rng = np.random.default_rng(1)
    x = tf.constant(rng.normal(size=(BATCH, TIME, INPUTS)), dtype)
    parts = 2 if "LSTM" in type(layer).__name__ else 1
    states = [
        tf.constant(rng.normal(size=(BATCH, UNITS)), dtype)
        for _ in range(parts)
    ]
    weights = [w.value for w in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch([x, states])
        outputs, *new_states = layer(
            x,
            initial_state=states,
            mask=None if mask is None else tf.constant(mask),
            training=training,
        )
        loss = tf.reduce_sum(tf.sin(outputs)) + sum(
            tf.reduce_sum(state**2) for state in new_states
        )
    gradients = tape.gradient(loss, [x, states, weights])
    return tf.nest.flatten([outputs, new_states, gradients])


def in_graph(layer, jit_compile=False, **options):
    run = tf.function(
        lambda: call(layer, **options), jit_compile=jit_compile, autograph=False
    )
    return run()


def assert_all_close(got, expected, atol=2e-5):
    for one, other in zip(got, expected, strict=True):
        one, other = (tf.cast(t, tf.float64) for t in (one, other))
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.parametrize(
    "name, masked, options",
    [
        ("SimpleRNN", False, {}),
        ("SimpleRNN", True, {"dropout": 0.3, "recurrent_dropout": 0.4}),
        ("SimpleRNN", True, {"go_backwards": True, "use_bias": False}),
        ("GRU", False, {}),
        ("GRU", False, {"reset_after": False}),
        ("GRU", False, {"dropout": 0.3}),
        ("GRU", True, {"dropout": 0.3, "recurrent_dropout": 0.4}),
        ("GRU", True, {"reset_after": False, "recurrent_dropout": 0.4}),
        ("GRU", True, {"go_backwards": True, "use_bias": False}),
        ("GRU", True, {"zero_output_for_mask": True}),
        ("LSTM", False, {}),
        ("LSTM", True, {"dropout": 0.3, "recurrent_dropout": 0.4}),
        ("LSTM", True, {"go_backwards": True, "use_bias": False}),
        ("LSTM", True, {"return_sequences": False}),
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_the_stock_layer(
    name, masked, options
):
    stock, ours = pair(name, **options)
    mask = MASK if masked else None
    assert_all_close(in_graph(ours, mask=mask), in_graph(stock, mask=mask))


@names
def test_every_way_to_run_gives_the_same(name):
    _, layer = pair(name)
    expected = in_graph(layer, mask=MASK)
    assert_all_close(call(layer, mask=MASK), expected)
    assert_all_close(in_graph(layer, mask=MASK, jit_compile=True), expected)
    layer.jit_compile = False
    assert_all_close(in_graph(layer, mask=MASK), expected)


@names
def test_each_replica_equals_one_device(name):
    _, layer = pair(name)
    expected = in_graph(layer)
    strategy = mirrored()
    with strategy.scope():
        _, replicated = pair(name)
    run = tf.function(
        lambda: strategy.run(lambda: call(replicated)), autograph=False
    )
    for result, wanted in zip(run(), expected, strict=True):
        for value in strategy.experimental_local_results(result):
            np.testing.assert_allclose(value, wanted, atol=2e-5)


def compiled_functions(layer, training, shape):
    """Counts the functions in the layer's graph that XLA would compile."""
    run = tf.function(lambda x: layer(x, training=training), autograph=False)
    graph = run.get_concrete_function(tf.TensorSpec(shape)).graph
    return sum(
        function.attr["_XlaMustCompile"].b
        for function in graph.as_graph_def().library.function
    )


@names
def test_xla_compiles_training_on_known_shapes_only(name):
    _, layer = pair(name)
    shape = (BATCH, TIME, INPUTS)
    assert compiled_functions(layer, True, shape) == 1
    assert compiled_functions(layer, False, shape) == 0
    assert compiled_functions(layer, True, (None, TIME, INPUTS)) == 0
    layer.jit_compile = False
    assert compiled_functions(layer, True, shape) == 0


@pytest.mark.parametrize(
    "name, options",
    [
        ("SimpleRNN", {"activation": "relu"}),
        ("GRU", {"recurrent_activation": "hard_sigmoid"}),
        ("GRU", {"recurrent_dropout": 1.0}),
        ("LSTM", {"unroll": True}),
    ],
    ids=str,
)
def test_options_that_the_scan_lacks_use_the_stock_loop(
    name, options, monkeypatch
):
    stock, ours = pair(name, **options)
    monkeypatch.setattr(type(ours), "_scan", None)
    assert_all_close(call(ours, mask=MASK), call(stock, mask=MASK))


RIGHT_PADDED = np.arange(TIME) < np.array([[TIME], [3], [0]])


@pytest.mark.parametrize(
    "name, masked, options",
    [
        ("GRU", False, {}),
        ("GRU", True, {}),
        ("GRU", False, {"go_backwards": True}),
        ("GRU", True, {"go_backwards": True, "dropout": 0.3}),
        ("GRU", True, {"return_sequences": False}),
        ("LSTM", False, {"dropout": 0.3}),
        ("LSTM", True, {}),
        ("LSTM", True, {"go_backwards": True}),
        ("LSTM", True, {"go_backwards": True, "return_sequences": False}),
    ],
    ids=str,
)
def test_cudnn_equals_the_scan(name, masked, options, monkeypatch):
    """Including a row of padding only, which cuDNN may refuse."""
    simulated_gpu.plug_in_cudnn(monkeypatch)
    shows_last = options.get("return_sequences") is False
    options = {"zero_output_for_mask": not shows_last} | options
    _, scanned = pair(name, **options)
    _, by_cudnn = pair(name, use_cudnn=True, **options)
    scanned.jit_compile = False
    mask = RIGHT_PADDED if masked else None
    expected = in_graph(scanned, mask=mask)
    monkeypatch.setattr(type(by_cudnn), "_scan", None)
    assert_all_close(in_graph(by_cudnn, mask=mask), expected)


@pytest.mark.parametrize("name", ["GRU", "LSTM"])
def test_cudnn_runs_all_layers_in_one_call(name, monkeypatch):
    simulated_gpu.plug_in_cudnn(monkeypatch)
    rng = np.random.default_rng(0)
    stack = [
        getattr(layers, name)(UNITS, return_sequences=True, return_state=True)
        for _ in range(3)
    ]
    for layer, inputs in zip(stack, (INPUTS, UNITS, UNITS)):
        layer.build((BATCH, TIME, inputs))
        layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    x = tf.constant(rng.normal(size=(BATCH, TIME, INPUTS)), tf.float32)
    shape = (3, 1 + (name == "LSTM"), BATCH, UNITS)
    states = [
        tuple(tf.unstack(parts))
        for parts in tf.constant(rng.normal(size=shape), tf.float32)
    ]

    def one_by_one(x, initial_state):
        new = []
        for layer, parts in zip(stack, initial_state):
            x, *parts = layer(x, initial_state=list(parts))
            new.append(tuple(parts))
        return x, tuple(new)

    def results(run):
        with tf.GradientTape() as tape:
            outputs, new = run(x, initial_state=states)
            loss = tf.reduce_sum(tf.sin(outputs)) + sum(
                tf.reduce_sum(part**2) for part in tf.nest.flatten(new)
            )
        weights = [w.value for layer in stack for w in layer.weights]
        return tf.nest.flatten([outputs, new, tape.gradient(loss, weights)])

    assert_all_close(results(layers.CudnnStack(stack)), results(one_by_one))


@names
def test_a_gpu_in_the_list_of_devices_changes_no_graph(name, monkeypatch):
    """Only `use_cudnn` does, as a layer may run on another machine."""
    _, layer = pair(name)
    expected = call(layer)
    simulated_gpu.plug_in(monkeypatch)
    _, layer = pair(name)
    run = tf.function(lambda x: layer(x, mask=tf.constant(MASK)))
    graph = run.get_concrete_function(tf.TensorSpec((BATCH, TIME, INPUTS)))
    assert "Cudnn" not in str(graph.graph.as_graph_def())
    assert_all_close(call(layer), expected)


@pytest.mark.parametrize(
    "name, options",
    [
        ("SimpleRNN", {}),
        ("GRU", {"reset_after": False}),
        ("GRU", {"recurrent_dropout": 0.1}),
        ("GRU", {"dtype": "mixed_bfloat16"}),
        ("LSTM", {"use_bias": False}),
        ("LSTM", {"activation": "relu"}),
    ],
    ids=str,
)
def test_cudnn_refuses_unsupported_options(name, options):
    _, layer = pair(name, **options)
    layer.use_cudnn = True
    with pytest.raises(ValueError, match="use_cudnn needs a GRU or LSTM"):
        call(layer)


@names
def test_bfloat16_is_as_close_to_float32_as_the_stock_layer_is(name):
    exact = in_graph(pair(name)[0])
    stock, ours = (in_graph(layer) for layer in pair(name, "mixed_bfloat16"))
    for got, other, wanted in zip(ours, stock, exact, strict=True):
        scale = np.abs(wanted).max()
        error = np.abs(tf.cast(got, tf.float32) - wanted).max() / scale
        stock_error = np.abs(tf.cast(other, tf.float32) - wanted).max() / scale
        assert error < max(0.02, 1.5 * stock_error)


@pytest.mark.parametrize(
    "name, options",
    [
        ("SimpleRNN", {"dropout": 0.3, "recurrent_dropout": 0.4}),
        ("GRU", {"recurrent_dropout": 0.4}),
        ("GRU", {"reset_after": False, "go_backwards": True}),
        ("LSTM", {"dropout": 0.3, "recurrent_dropout": 0.4}),
    ],
    ids=str,
)
def test_padding_for_a_gpu_changes_nothing(name, options):
    """Neither of the units nor of the inputs, but for rounding."""
    stock, ours = pair(name, **options)
    ours.xla_for_gpu = True
    assert_all_close(in_graph(ours, mask=MASK), in_graph(stock, mask=MASK))


@names
@pytest.mark.parametrize(
    "dtype, xla_for_gpu, widths",
    [
        (None, False, {INPUTS, UNITS}),
        ("mixed_bfloat16", False, {INPUTS, 8}),
        (None, True, {8}),
    ],
)
def test_widths_are_padded_for_tensor_cores(
    name, dtype, xla_for_gpu, widths, monkeypatch
):
    _, layer = pair(name, dtype)
    layer.xla_for_gpu = xla_for_gpu
    seen, matmul = set(), tf.matmul

    def spy(a, b):
        seen.add(a.shape[-1])
        return matmul(a, b)

    monkeypatch.setattr(tf, "matmul", spy)
    layer(tf.zeros((BATCH, TIME, INPUTS)))
    assert seen == widths


@names
def test_float64_equals_the_stock_layer_to_twelve_digits(name):
    stock, ours = (
        in_graph(layer, dtype=tf.float64) for layer in pair(name, "float64")
    )
    assert_all_close(ours, stock, atol=1e-12)


@names
def test_bidirectional_equals_the_stock_layer(name):
    x = tf.random.stateless_normal((BATCH, TIME, INPUTS), (1, 2))
    results = []
    for package in (keras.layers, layers):
        layer = keras.layers.Bidirectional(
            getattr(package, name)(UNITS, return_sequences=True)
        )
        layer.build(x.shape)
        rng = np.random.default_rng(2)
        layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
        results.append(layer(x, mask=tf.constant(MASK)))
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


@names
def test_weights_files_are_interchangeable(name, tmp_path):
    def model(package):
        layer = getattr(package, name)(UNITS, name="rnn")
        return keras.Sequential([keras.Input((TIME, INPUTS)), layer])

    x = tf.random.stateless_normal((BATCH, TIME, INPUTS), (1, 2))
    stock, ours = model(keras.layers), model(layers)
    rng = np.random.default_rng(2)
    for source, target in ((stock, ours), (ours, stock)):
        source.set_weights([rng.normal(size=w.shape) for w in source.weights])
        source.save_weights(tmp_path / "rnn.weights.h5")
        target.load_weights(tmp_path / "rnn.weights.h5")
        np.testing.assert_allclose(source(x), target(x), atol=1e-6)


@names
def test_keras_file_round_trip(name, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((TIME, INPUTS)),
            keras.layers.Bidirectional(
                getattr(layers, name)(UNITS, return_sequences=True)
            ),
            getattr(layers, name)(UNITS, activation="relu"),
        ]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is getattr(layers, name)
    x = tf.random.stateless_normal((BATCH, TIME, INPUTS), (1, 2))
    assert np.array_equal(model(x), loaded(x))

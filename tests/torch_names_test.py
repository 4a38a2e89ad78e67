"""Weights of other programs with PyTorch, which name them as they like."""

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, models
from stacked_rnn.models import torch_names, torch_weights
from stacked_rnn.training import warm_start

CHARACTERS = sorted(set("a bad cab, a deaf bee.\n"))
SIZE = len(CHARACTERS)
WIDTH, UNITS = 5, 6
GATES = {"gru": 3, "lstm": 4, "simple_rnn": 1}
safetensors = pytest.importorskip("safetensors.numpy", reason="no safetensors")


def layers(rng, prefix, cell="lstm", num_layers=2, width=WIDTH, bias=True):
    """Weights of a stack by name, as PyTorch draws them."""
    rows, drawn = GATES[cell] * UNITS, {}
    for layer in range(num_layers):
        shapes = {
            "weight_ih": (rows, UNITS if layer else width),
            "weight_hh": (rows, UNITS),
        }
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        for name, shape in shapes.items():
            drawn[f"{prefix}{name}_l{layer}"] = normal(rng, shape)
    return drawn


def normal(rng, shape):
    return rng.normal(0.0, 0.5, shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(cell, x, states, w_ih, w_hh, b_ih, b_hh):
    """The equations of PyTorch's documentation, in its order of the gates."""
    h = states[0]
    a, b = x @ w_ih.T + b_ih, h @ w_hh.T + b_hh
    if cell == "simple_rnn":
        return (np.tanh(a + b),)
    if cell == "lstm":
        i, f, g, o = np.split(a + b, 4, axis=-1)
        c = sigmoid(f) * states[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (a_r, a_z, a_n), (b_r, b_z, b_n) = (np.split(v, 3, axis=-1) for v in (a, b))
    z = sigmoid(a_z + b_z)
    n = np.tanh(a_n + sigmoid(a_r + b_r) * b_n)
    return ((1 - z) * n + z * h,)


def logits_of(cell, inputs, stack, head, head_bias):
    """Runs a module.

    Args:
        inputs: [time, width], what the bottom layer reads.
        stack: weights of the layers by the ends of their names.
    """
    x = inputs
    for layer in range(sum(name.startswith("weight_ih") for name in stack)):
        zeros = np.zeros(GATES[cell] * UNITS)
        weights = [
            stack.get(f"{part}_l{layer}", zeros)
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        states, outputs = (np.zeros(UNITS),) * 2, []
        for row in x:
            states = step(cell, row, states, *weights)
            outputs.append(states[0])
        x = np.array(outputs)
    return x @ head.T + head_bias


# Names of the embedding, the layers and the head, as programs have them.
NAMES = {
    "word_language_model": ("encoder.weight", "rnn.", "decoder"),
    "a tutorial": ("embedding.weight", "lstm.", "fc"),
    "in a module": (
        "module.model.embed.weight",
        "module.model.gru.",
        "model.out",
    ),
    "sequential": ("0.weight", "1.", "2"),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "a bad cab, a deaf bee.\n" * 40
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    return tmp_path


def start_with(tensors, header=None, **settings):
    """What train.py begins with."""
    safetensors.save_file(
        {name: np.ascontiguousarray(t) for name, t in tensors.items()},
        "theirs.safetensors",
        header,
    )
    config = {"corpus": "mine.txt", "init_from": "theirs.safetensors"}
    return warm_start.resolve_init_from(
        configs.ModelConfig(),
        configs.TrainConfig(**config | settings),
        "runs/new",
    )


def assert_computes(start, cell, inputs, tensors, stack, head, head_bias, rng):
    """The model has the logits of the module, for all characters it knows."""
    stack = {
        name.removeprefix(stack): t
        for name, t in tensors.items()
        if name.startswith(stack)
    }
    ids = rng.integers(SIZE, size=12)
    expected = logits_of(cell, inputs[ids], stack, head, head_bias)
    # The tokenizer has the unknown token before the characters.
    assert start.tokenizer.to_dict()["vocabulary"] == "\ufffd" + "".join(
        CHARACTERS
    )
    logits = start.model(tf.constant(1 + ids[None])).numpy()[0]
    np.testing.assert_allclose(logits[:, 1:], expected, atol=2e-6)
    assert (logits[:, 0] < expected.max(axis=-1) - 5).all()


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("cell", GATES)
def test_parts_are_found_whatever_their_names(cell, names, here, rng, capsys):
    embedding, stack, head = names
    tensors = layers(rng, stack, cell) | {
        embedding: normal(rng, (SIZE, WIDTH)),
        f"{head}.weight": normal(rng, (SIZE, UNITS)),
        f"{head}.bias": normal(rng, SIZE),
    }
    start = start_with(tensors)
    assert start.model_config.cell == cell and start.model_config.units == UNITS
    assert_computes(
        start, cell, tensors[embedding], tensors, stack,
        tensors[f"{head}.weight"], tensors[f"{head}.bias"], rng,
    )  # fmt: skip
    note = "theirs.safetensors has no vocabulary: its tokens are taken for the"
    assert note in capsys.readouterr().err


def test_a_bias_tells_the_head_from_an_embedding_of_the_same_shape(here, rng):
    tensors = layers(rng, "rnn.", width=UNITS) | {
        "encoder.weight": normal(rng, (SIZE, UNITS)),
        "decoder.weight": normal(rng, (SIZE, UNITS)),
        "decoder.bias": normal(rng, SIZE),
    }
    assert_computes(
        start_with(tensors), "lstm", tensors["encoder.weight"], tensors, "rnn.",
        tensors["decoder.weight"], tensors["decoder.bias"], rng,
    )  # fmt: skip


def test_one_hot_input_needs_no_embedding_and_biases_may_be_missing(here, rng):
    tensors = layers(rng, "lstm.", width=SIZE, bias=False)
    tensors["fc.weight"] = normal(rng, (SIZE, UNITS))
    assert_computes(
        start_with(tensors), "lstm", np.eye(SIZE), tensors, "lstm.",
        tensors["fc.weight"], 0.0, rng,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["encoder.weight", "decoder.weight"])
def test_tied_weights_are_in_a_file_once(name, here, rng):
    """safetensors keeps either of two names."""
    tensors = layers(rng, "rnn.", width=UNITS) | {
        name: normal(rng, (SIZE, UNITS)),
        "decoder.bias": normal(rng, SIZE),
    }
    assert_computes(
        start_with(tensors), "lstm", tensors[name], tensors, "rnn.",
        tensors[name], tensors["decoder.bias"], rng,
    )  # fmt: skip


def test_tokens_may_be_bytes(here, rng):
    tensors = layers(rng, "rnn.") | {
        "a": normal(rng, (256, WIDTH)), "b": normal(rng, (256, UNITS))
    }  # fmt: skip
    start = start_with(tensors, tokenizer="byte")
    assert start.tokenizer.kind == "byte"
    assert start.model_config.vocabulary_size == 0  # as given
    assert start.model.config.vocabulary_size == 256


PLAIN = {"embed.weight": (SIZE, WIDTH), "fc.weight": (SIZE, UNITS)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        # Two candidates, or none.
        ({"a": (SIZE, UNITS), "b": (SIZE, UNITS)}, "do not tell.*'a \\["),
        (PLAIN | {"fc2.weight": (SIZE, UNITS)}, "do not tell.*'fc2.weight"),
        (PLAIN | {"norm.bias": (UNITS,)}, "do not tell.*'norm.bias"),
        (PLAIN | {"a.bias": (SIZE,), "b.bias": (SIZE,)}, "do not tell.*a.bias"),
        ({"embed.weight": (SIZE, WIDTH)}, "shapes do not tell"),
        ({"a": (SIZE, UNITS)}, "shapes do not tell"),
        ({}, "shapes do not tell.*nothing else is in it"),
        (PLAIN | {"rnn.weight_hh_l0_reverse": (24, 6)}, "tell.*_reverse"),
        # The layers.
        (PLAIN | {"other.weight_hh_l0": (24, 6)}, "has no single nn.GRU"),
        (PLAIN | {"rnn.weight_ih_l0": (24,)}, "has no single nn.GRU, nn.LSTM"),
        (PLAIN | {"rnn.weight_ih_l1": (24, 9)}, "weight_ih_l1 has the shape"),
        (PLAIN | {"rnn.weight_ih_l7": (24, 6)}, "bias_ih_l7 is not of such"),
        (PLAIN | {"rnn.weight_hh_l0": (25, 6)}, r"\(25, 6\), which no nn.GRU"),
        # The vocabulary.
        (
            {"embed.weight": (99, WIDTH), "fc.weight": (99, UNITS)},
            f"its 99 tokens are not the {SIZE} characters of --corpus=mine.txt",
        ),
    ],
)  # fmt: skip
def test_what_names_and_shapes_do_not_tell_is_refused(
    shapes, message, here, rng
):
    width = UNITS if "a" in shapes else WIDTH
    tensors = layers(rng, "rnn.", width=width)
    tensors |= {name: normal(rng, shape) for name, shape in shapes.items()}
    with pytest.raises(configs.UserError, match=message) as error:
        start_with(tensors)
    assert str(error.value).startswith("--init_from=theirs.safetensors: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": "word"}, "no vocabulary: write the vocabulary into"),
        ({"task": "classifier"}, "no vocabulary: write the vocabulary into"),
        ({"tokenizer": "byte"}, f"its {SIZE} tokens are not the 256 bytes"),
        ({"corpus": "none.txt"}, "none.txt"),
        ({"corpus": "-"}, "and --corpus=- cannot give one: name a file"),
        ({"corpus": "/dev/null"}, "and --corpus=/dev/null cannot give one"),
    ],
)
def test_a_vocabulary_comes_from_somewhere(settings, message, here, rng):
    tensors = layers(rng, "rnn.")
    tensors |= {name: normal(rng, shape) for name, shape in PLAIN.items()}
    with pytest.raises(configs.UserError, match=message):
        start_with(tensors, **settings)


def test_names_of_our_own_stay(rng):
    config = configs.ModelConfig(
        vocabulary_size=9, units=6, embedding_dim=6, readout_layers="concat",
        embedding_to_all_layers=True,
    )  # fmt: skip
    tensors = torch_weights.state_dict(models.build_language_model(config))
    renamed = torch_names.standard_names(tensors)
    assert renamed.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(renamed[name], tensor)

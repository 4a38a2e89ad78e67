"""Encoder and decoder: equations, masks, training, export, search."""

import itertools
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import (
    configs,
    datasets,
    export,
    inference,
    metrics,
    models,
    reference,
    tasks,
    tokenizers,
    training,
)
from stacked_rnn.configs import BeamConfig, UserError
from tests.helpers.small_models import CELLS, small_config

SOURCE_LENGTHS = np.array([6, 3, 1])
SOURCE_MASK = np.arange(6)[None] < SOURCE_LENGTHS[:, None]
SHAPES = (
    {"num_layers": 1},
    {"num_layers": 3, "decoder_layers": 2, "residual": True},
    {"num_layers": 1, "decoder_layers": 3, "bidirectional": False,
     "residual": True, "tie_embeddings": True},
)  # fmt: skip


def build(rng, **changes):
    """Builds a model with random weights, biases included."""
    model = models.build_seq2seq(
        small_config(**{"bidirectional": True} | changes)
    )
    model.set_weights(
        [rng.normal(0, 0.5, w.shape).astype("float32") for w in model.weights]
    )
    return model


def random_inputs(rng):
    return {
        "source_ids": rng.integers(0, 11, SOURCE_MASK.shape).astype("int32"),
        "source_mask": SOURCE_MASK,
        "target_ids": rng.integers(0, 11, (3, 5)).astype("int32"),
    }


def weights_of(layer):
    return [weight.numpy() for weight in layer.cell.weights]


def in_numpy(model, source_ids, target_ids):
    """Computes logits and attention of one source without padding in NumPy."""
    config = model.config
    table = model.embedding.embeddings.numpy()

    def run(layer, x, states):
        return reference.recurrent_layer(
            config.cell, x, states, weights_of(layer)
        )

    zeros = reference.initial_states(config.cell, config.units, 1, 1)[0]
    x = table[source_ids][None]
    for index, layer in enumerate(model.encoders):
        below = x
        if config.bidirectional:
            forward, last = run(layer.forward_layer, x, zeros)
            backward, first = run(layer.backward_layer, x[:, ::-1], zeros)
            x = np.concatenate([forward, backward[:, ::-1]], -1)
            last = np.concatenate([last[0], first[0]], -1)
        else:
            x, (last, *_) = run(layer, x, zeros)
        if config.residual and index:
            x = x + below
    memory = x[0]
    x = table[target_ids][None]
    for index, layer in enumerate(model.decoders):
        below = x
        x, _ = run(
            layer, x,
            tuple(
                np.tanh(last @ bridge.kernel.numpy() + bridge.bias.numpy())
                for bridge in model.bridges[index]
            ),
        )  # fmt: skip
        if config.residual and index:
            x = x + below
    queries = x[0] @ model.query.kernel.numpy()
    attention = np.exp(reference.log_softmax(queries @ memory.T))
    x = np.concatenate([attention @ memory, x[0]], -1)
    x = np.tanh(x @ model.attended.kernel.numpy() + model.attended.bias.numpy())
    if config.tie_embeddings:
        return x @ table.T, attention
    return (
        x @ model.readout.kernel.numpy() + model.readout.bias.numpy(),
        attention,
    )


@pytest.mark.parametrize(
    ("cell", "shape", "jit_compile"),
    [
        *itertools.product(CELLS, SHAPES[:2], [None]),
        ("gru", SHAPES[2], None),
        ("gru", SHAPES[0], False),
        ("gru", SHAPES[0], True),
        ("lstm", SHAPES[0], True),
    ],
)
def test_logits_equal_numpy_whatever_the_padding(cell, shape, jit_compile, rng):
    model = build(rng, cell=cell, **shape)
    call = model
    if jit_compile is not None:
        call = tf.function(model, jit_compile=jit_compile)
    inputs = random_inputs(rng)
    said = call(inputs)
    for row, length in enumerate(SOURCE_LENGTHS):
        logits, attention = in_numpy(
            model, inputs["source_ids"][row, :length], inputs["target_ids"][row]
        )
        np.testing.assert_allclose(said["logits"][row], logits, atol=2e-5)
        np.testing.assert_allclose(
            said["attention"][row, :, :length], attention, atol=1e-5
        )
        assert not said["attention"][row, :, length:].numpy().any()


@pytest.mark.parametrize("cell", CELLS)
def test_decoding_by_steps_equals_decoding_at_once(cell, rng):
    """With two texts per source, each with its own states."""
    model = build(rng, cell=cell, **SHAPES[1])
    inputs = random_inputs(rng)
    others = rng.integers(0, 11, (3, 5)).astype("int32")
    memory, states = model.encode(
        tf.constant(inputs["source_ids"]), tf.constant(SOURCE_MASK)
    )
    states = tf.nest.map_structure(lambda x: tf.repeat(x, 2, axis=0), states)
    both = np.stack([inputs["target_ids"], others], axis=1).reshape(6, 5)
    steps = []
    for token_ids in both.T:
        logits, states = model.decode_step(
            tf.constant(token_ids), states, memory
        )
        steps.append(logits)
    found = np.stack(steps, axis=1).reshape(3, 2, 5, -1)
    for number, target_ids in enumerate((inputs["target_ids"], others)):
        whole = model(inputs | {"target_ids": target_ids})["logits"]
        np.testing.assert_allclose(found[:, number], whole, atol=1e-5)


def test_gradients_equal_finite_differences(rng):
    keras.config.set_dtype_policy("float64")
    try:
        model = models.build_seq2seq(
            small_config(bidirectional=True, cell="lstm", **SHAPES[1])
        )
    finally:
        keras.config.set_dtype_policy("float32")
    inputs = random_inputs(rng)
    values = [weight.numpy() for weight in model.trainable_weights]
    directions = [rng.normal(size=value.shape) for value in values]

    def loss(step):
        for weight, value, direction in zip(
            model.trainable_weights, values, directions
        ):
            weight.assign(value + step * direction)
        logits = model(inputs, training=True)["logits"]
        return tf.reduce_sum(tf.nn.log_softmax(logits)[..., 3])

    with tf.GradientTape() as tape:
        total = loss(0.0)
    gradients = tape.gradient(
        total, [weight.value for weight in model.trainable_weights]
    )
    slope = sum(
        np.sum(tf.convert_to_tensor(gradient) * direction)
        for gradient, direction in zip(gradients, directions)
    )
    difference = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert slope == pytest.approx(float(difference), rel=1e-6)


def test_keras_file_round_trip(rng, tmp_path):
    model = build(rng, **SHAPES[1])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    inputs = random_inputs(rng)
    np.testing.assert_array_equal(
        loaded(inputs)["logits"], model(inputs)["logits"]
    )
    with pytest.raises(UserError, match="vocabulary_size=0"):
        models.build_seq2seq(small_config(vocabulary_size=0))


def test_decoder_layers_default_to_the_encoder():
    for decoder_layers, expected in ((0, 3), (1, 1), (4, 4)):
        model = models.build_seq2seq(
            small_config(num_layers=3, decoder_layers=decoder_layers)
        )
        assert len(model.encoders) == 3 and len(model.decoders) == expected
        assert len(model.recurrent_layers) == 3 + expected


# Training ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Words of four letters; the target is the word backwards in capitals."""
    words = map("".join, itertools.product("abcd", repeat=4))
    path = tmp_path_factory.mktemp("corpus") / "words.tsv"
    path.write_text("".join(f"{w}\t{w[::-1].upper()}\n" for w in words))
    return path


def make_trainer(corpus, model_dir=None, strategy=None, model=None, **changes):
    settings = {
        "task": "seq2seq", "corpus": str(corpus), "batch_size": 8,
        "epochs": 1, "jit_compile": False, "learning_rate": 0.02,
        "validation_fraction": 0.2,
    } | changes  # fmt: skip
    config = configs.TrainConfig(**settings)
    data = datasets.load_pair_data(config)
    options = {
        "units": 24, "num_layers": 1, "bidirectional": True,
        "vocabulary_size": data.tokenizer.vocabulary_size(),
    } | (model or {})  # fmt: skip
    return training.Trainer(
        small_config(**options),
        config,
        tasks.Seq2SeqTask(data),
        model_dir,
        strategy,
    )


def save(trainer, directory, max_new_tokens=12):
    product = export.TextRewriter(
        trainer.best_model(), trainer.data.tokenizer, max_new_tokens
    )
    return product.save(directory, trainer.summary())


@pytest.fixture(scope="module")
def learned(corpus):
    trainer = make_trainer(corpus, epochs=8)
    trainer.fit(verbose=0)
    return trainer


@pytest.fixture(scope="module")
def saved(learned, tmp_path_factory):
    return save(learned, tmp_path_factory.mktemp("saved") / "words")


@pytest.fixture(scope="module")
def loaded_words(saved):
    return inference.load(saved)


def test_training_generalizes_and_the_export_scores_the_same(
    learned, loaded_words
):
    score = learned.evaluate(learned.data.validation)
    pairs = learned.data.validation_texts
    assert score.texts == len(pairs.sources) == 51
    assert score.exact_match > 0.8
    greedy = loaded_words.evaluate(pairs, BeamConfig(num_beams=1))
    assert greedy["exact_match"] == pytest.approx(score.exact_match)
    beams = loaded_words.evaluate(pairs)
    assert beams["exact_match"] >= greedy["exact_match"]
    assert beams["edit_distance"] <= 0.2 and beams["examples"] == 51


def test_a_target_with_an_unknown_token_is_not_exact():
    """No decoding writes it, even if the model expects it most."""
    targets = tf.constant([[3, 0, 1], [3, 4, 1], [2, 1, -1]])
    tokenizer = tokenizers.build("word", b"a b", document_separator="\0")
    assert tokenizer.unknown_id == 0
    task = tasks.TASKS["seq2seq"](types.SimpleNamespace(tokenizer=tokenizer))
    sums, _ = task.sums(
        lambda inputs, training: {
            "logits": 8 * tf.one_hot(targets, 5) + 9 * tf.one_hot([[0]], 5)
        },
        {}, targets, (),
    )  # fmt: skip
    assert task.score(sums.numpy(), None).exact_match == pytest.approx(2 / 3)


# The SavedModel ---------------------------------------------------------------


@pytest.fixture(scope="module")
def unsure():
    """A model with random weights, for which many texts are equally likely."""
    tokenizer = tokenizers.build("char", b"abcdefghi", document_separator="\0")
    assert tokenizer.vocabulary_size() == 11
    model = build(np.random.default_rng(5), cell="gru", num_layers=1)
    return export.TextRewriter(model, tokenizer, 12)


def test_scores_are_log_probabilities_of_the_outputs(unsure):
    texts = tf.constant(["abcd", "d", "", "badbadc", "\u00e9"])
    found = unsure.search(
        texts, tf.constant(3), tf.constant(0.0), tf.constant(30)
    )
    num_ended = 0
    for beam in range(3):
        outputs, scores = (
            found[name][:, beam].numpy() for name in ("outputs", "scores")
        )
        said = unsure.align(texts, outputs)
        log_probs = tf.reduce_sum(said["log_probs"], axis=1).numpy()
        has_ended = tf.strings.length(outputs).numpy() < 30
        np.testing.assert_allclose(
            log_probs[has_ended], scores[has_ended], atol=1e-4
        )
        num_ended += np.sum(has_ended)
    assert 5 < num_ended < 15
    assert (np.diff(found["scores"]) <= 0).all()
    np.testing.assert_allclose(
        tf.reduce_sum(said["attention"], axis=-1), 1.0, atol=1e-5
    )


def test_beams_find_likelier_texts_than_greedy_decoding(unsure):
    texts = tf.constant(
        ["".join(word) for word in itertools.product("bdf", repeat=3)]
    )
    greedy, beams = (
        unsure.search(
            texts, tf.constant(count), tf.constant(0.0), tf.constant(30)
        )["scores"][:, 0].numpy()
        for count in (1, 8)
    )
    assert np.mean(beams) > np.mean(greedy) + 0.1
    # One beam takes the first end whatever the penalty, which its score knows.
    again = unsure.search(
        texts, tf.constant(1), tf.constant(2.0), tf.constant(30)
    )
    lengths = tf.minimum(tf.strings.length(again["outputs"][:, 0]) + 1, 30)
    np.testing.assert_allclose(
        again["scores"][:, 0], greedy / lengths.numpy() ** 2.0, atol=1e-5
    )


def test_texts_do_not_depend_on_their_neighbours(loaded_words):
    texts = ["abcd", "ab", "dddddddddd", ""]
    rewrite = loaded_words.rewrite
    together = [one.output for one in rewrite(texts)]
    alone = [one.output for text in texts for one in rewrite([text])]
    assert together == alone
    assert together[0] == "DCBA"


def test_max_new_tokens_limits_the_output(loaded_words):
    (one,) = loaded_words.rewrite(["abcd"], BeamConfig(max_new_tokens=2))
    assert one.output == "DC"


def test_search_finds_what_is_served(loaded_words):
    functions = loaded_words.functions
    texts = tf.constant(["abcd", "dcba"])
    answer = functions.signatures["serving_default"](texts=texts)
    assert answer["outputs"].numpy().tolist() == [b"DCBA", b"ABCD"]
    found = functions.signatures["search"](
        texts=texts,
        num_beams=tf.constant(4),
        length_penalty=tf.constant(0.0),
        max_new_tokens=tf.constant(12),
    )
    assert found["outputs"].shape == (2, 4)
    np.testing.assert_allclose(
        found["scores"][:, 0], answer["scores"], atol=1e-5
    )
    np.testing.assert_array_equal(found["outputs"][:, 0], answer["outputs"])


def test_align_names_the_tokens_of_the_attention(loaded_words):
    text_tokens, output_tokens, attention = loaded_words.align("abcd", "DCBA")
    assert text_tokens == ["a", "b", "c", "d", ""]
    assert output_tokens == ["D", "C", "B", "A", ""]
    assert attention.shape == (5, 5)


def test_a_notebook_shows_attention_as_a_picture(loaded_words, monkeypatch):
    attention = loaded_words.align("abcd", "DCBA")
    assert attention._repr_png_().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert attention._repr_png_() is None  # it then shows the tuple


def test_search_options_are_taken_by_name(loaded_words):
    rewritten = loaded_words.rewrite("abcd", max_new_tokens=2)
    assert rewritten.output == "DC"
    assert loaded_words.rewrite("abcd", length_penalty=1).output == "DCBA"
    with pytest.raises(UserError, match="did you mean num_beams"):
        loaded_words.rewrite("abcd", num_beam=2)


def test_the_progress_of_an_evaluation_is_that_of_its_batches(
    loaded_words, monkeypatch
):
    """With a text per batch, of four beams."""
    monkeypatch.setattr(inference.seq2seq, "_BATCH_SIZE", 4)
    events, encode = [], inference.base.encode

    def encode_noted(texts):
        events.append("batch")
        return encode(texts)

    monkeypatch.setattr(inference.base, "encode", encode_noted)
    pairs = datasets.TextPairs(["abcd", "dcba"], ["DCBA", "ABCD"])
    loaded_words.evaluate(pairs, progress=events.append)
    assert events == ["batch", 1, "batch", 2]


def test_loading_a_seq2seq_model_to_generate_is_refused(saved):
    with pytest.raises(UserError, match="a seq2seq model: predict.py"):
        inference.load(saved, "language_model")


# Scores -----------------------------------------------------------------------


def levenshtein(one, other):
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(
                min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b))
            )
    return row[-1]


def test_edit_distance_equals_levenshtein():
    outputs = ["", "kitten", "same", "\u00e9t\u00e9", "a b"]
    targets = ["abc", "sitting", "same", "ete", "b"]
    expected = sum(map(levenshtein, outputs, targets))
    assert metrics.edit_distance(outputs, targets) == pytest.approx(
        expected / sum(map(len, targets))
    )


def test_bleu_is_computed_or_none_without_sacrebleu(monkeypatch):
    texts = ["the cat sat on the mat", "there is a dog on the log"]
    assert metrics.bleu(texts, texts) == pytest.approx(100)
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples are right.
    assert (
        metrics.bleu(["the cat sat on the rug"], ["the cat lay on the rug"])
        < metrics.bleu(["the cat sat on the mat"], ["the cat sat on the rug"])
        == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert metrics.bleu(texts, texts) is None

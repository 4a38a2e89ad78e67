"""Files for other runtimes against the SavedModel they were written from."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, inference, tokenizers
from stacked_rnn.export import runtimes
from tests.helpers import exports
from tests.helpers.small_models import build_generator

FORMATS = [name for name, format in runtimes.FORMATS.items() if format.load]
TEXT = "hgf edc\nba" * 30


def skip_without(format):
    try:
        runtimes.require(format)
    except configs.UserError as error:
        pytest.skip(str(error))


@exports.in_memory()
def save_and_load(directory, *args, **changes):
    return inference.load(build_generator(*args, **changes).save(directory))


@pytest.fixture(scope="module", params=["simple_rnn", "gru", "lstm"])
def model(request, saved_models, tmp_path_factory):
    if request.param == "simple_rnn":
        return save_and_load(tmp_path_factory.mktemp("cell"), request.param)
    name = {"gru": "letters", "lstm": "others"}[request.param]
    return inference.load(saved_models / name)


@pytest.mark.parametrize("format", FORMATS)
def test_logits_and_states_are_those_of_the_saved_model(
    model, format, tmp_path
):
    """Over 120 steps with carried states."""
    skip_without(format)
    cell = model.model_config.cell
    path = tmp_path / f"step{runtimes.FORMATS[format].suffix}"
    runtimes.write(model, path, "float32")
    step = runtimes.load(path)
    for batch_size in (1, 4):
        states = model.initial_states(batch_size)
        assert len(states) == {"simple_rnn": 2, "gru": 2, "lstm": 4}[cell]
        expected = dict(states)
        rng = np.random.default_rng(batch_size)
        for token_ids in rng.integers(11, size=[120, batch_size], dtype="i4"):
            logits, states = step(token_ids, states)
            expected = model.functions.signatures["decode_step"](
                token_ids=tf.constant(token_ids),
                **{name: tf.constant(expected[name]) for name in states},
            )
            assert logits.shape == (batch_size, 11)
            np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
        for name in states:
            np.testing.assert_allclose(states[name], expected[name], atol=1e-5)
    assert not list(tmp_path.glob("*.partial"))


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """64 units, with weights as small as those of a trained model."""
    generator = build_generator(units=64, embedding_dim=64)
    for weight in generator.model.weights:
        weight.assign(weight * 0.2)
    with exports.in_memory():
        return inference.load(generator.save(tmp_path_factory.mktemp("wide")))


@pytest.mark.parametrize("format", FORMATS)
def test_smaller_weights_lose_little_quality(format, wide_model, tmp_path):
    """Compares sizes and losses with those of the SavedModel."""
    skip_without(format)
    model = wide_model
    expected = model.evaluate(TEXT.encode())["nats_per_token"]
    path = tmp_path / f"step{runtimes.FORMATS[format].suffix}"
    sizes, differences = {}, {}
    for weights in ("float32", "float16", "int8"):
        runtimes.write(model, path, weights)
        sizes[weights] = path.stat().st_size
        nats = runtimes.nats_per_token(model, path, TEXT.encode())
        differences[weights] = abs(nats - expected)
    assert differences["float32"] < 1e-6
    assert 1e-6 < differences["float16"] < 1e-3
    assert 1e-5 < differences["int8"] < 1e-2
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert sizes["int8"] < 0.45 * sizes["float32"]


@pytest.mark.parametrize(
    ("format", "tokenizer"),
    [
        ("onnx", tokenizers.build("word", TEXT.encode(), letters_only=True)),
        (
            "litert",
            tokenizers.SubwordTokenizer(
                ["h g", "hg f"], document_separator="ba"
            ),
        ),
    ],
    ids=("onnx", "litert"),
)
def test_the_vocabulary_file_decodes_ids(format, tokenizer, tmp_path, caplog):
    """Even for tokenizers with tables, and without a warning."""
    skip_without(format)
    model = save_and_load(tmp_path, tokenizer=tokenizer)
    file = tmp_path / f"step{runtimes.FORMATS[format].suffix}"
    runtimes.write(model, file)
    assert not caplog.records
    path = runtimes.vocabulary_path(file)
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    assert tokenizers.from_dict(vocabulary["tokenizer"]) == tokenizer
    assert vocabulary["start_id"] == tokenizer.start_id
    assert vocabulary["unknown_id"] == tokenizer.unknown_id
    assert vocabulary["end_id"] == tokenizer.end_id
    assert len(vocabulary["tokens"]) == tokenizer.vocabulary_size()
    token_ids = tokenizer.tokenize([TEXT])
    text = b"".join(
        bytes(vocabulary["tokens"][i]) for i in token_ids.values.numpy()
    )
    assert text == tokenizer.detokenize(token_ids).numpy()[0]


@pytest.mark.parametrize(
    ("format", "package"),
    [
        ("onnx", "tf2onnx"),
        ("onnx", "onnxruntime"),
        ("litert", "ai_edge_litert"),
    ],
)
def test_a_missing_package_is_named(format, package, monkeypatch):
    for name in ("tf2onnx", "onnxruntime", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    with pytest.raises(configs.UserError) as error:
        runtimes.require(format)
    assert f"{package} is missing: pip install" in str(error.value)
    assert f"'.[{format}]'" in str(error.value)


def test_the_table_has_every_format_that_can_be_asked_for():
    (field,) = (
        field
        for field in dataclasses.fields(configs.ExportConfig)
        if field.name == "format"
    )
    assert field.metadata["choices"] == tuple(runtimes.FORMATS)
    for name in runtimes.FORMATS.keys() - FORMATS:  # nothing to measure
        with pytest.raises(configs.UserError, match="^--text=a: no effect"):
            configs.ExportConfig(format=name, text="a")


def test_a_file_that_cannot_be_written_leaves_nothing(loaded, tmp_path):
    skip_without("onnx")
    path = tmp_path / "step.onnx"
    path.mkdir()
    with pytest.raises(configs.UserError, match="--output=.*step.onnx"):
        runtimes.write(loaded, path)
    assert not list(tmp_path.glob("*.partial"))


def test_a_vocabulary_that_another_file_needs_is_kept(loaded, tmp_path):
    """Of an older model, as LiteRT; both files would share it."""
    skip_without("onnx")
    path, other = tmp_path / "step.onnx", tmp_path / "step.tflite"
    vocabulary = runtimes.vocabulary_path(path)
    vocabulary.write_text("{}")
    runtimes.check(path, loaded.description)
    other.touch()
    message = r"--output=.*step\.onnx: .*vocabulary.*or delete step\.tflite$"
    with pytest.raises(configs.UserError, match=message):
        runtimes.write(loaded, path)
    assert vocabulary.read_text() == "{}" and not path.exists()
    content = json.dumps(loaded.tokenizer.to_vocabulary(), ensure_ascii=False)
    vocabulary.write_text(content, encoding="utf-8")
    runtimes.check(path, loaded.description)

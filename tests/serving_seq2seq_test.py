"""The APIs for seq2seq models against direct calls."""

import base64
import json

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import export, inference, models, tokenizers
from stacked_rnn.configs import BeamConfig
from stacked_rnn.serving.served_model import ServedModel
from tests.helpers.live_server import request, serving
from tests.helpers.small_models import randomize, small_config

TEXTS = ["ab c", "", "bé"]
SEARCH = {"num_beams": 3, "length_penalty": 0.5, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with random weights and the record of a training."""
    tokenizer = tokenizers.build("char", [b"abc d"], document_separator="\0")
    config = small_config(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=1,
        decoder_layers=2,
    )
    model = randomize(models.build_seq2seq(config))
    directory = tmp_path_factory.mktemp("saved_models") / "letters"
    export.TextRewriter(model, tokenizer, max_new_tokens=7).save(
        directory,
        {
            "corpus": "pairs.tsv", "characters": 1000, "epochs": 2,
            "validation": {"loss": 0.01, "exact_match": 0.9987},
        },
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def running(saved):
    with serving(saved, max_tokens=50) as running:
        yield running


@pytest.fixture(scope="module")
def model(saved):
    return inference.load(saved)


def ask(running, path="/v1/models/letters:predict", method="POST", **body):
    status, _, content = request(running, method, path, body)
    return status, json.loads(content)


def test_rows_columns_and_bytes_give_the_same_outputs(running, model):
    expected = [
        {"outputs": one.output, "scores": pytest.approx(one.score, abs=1e-5)}
        for one in model.rewrite(TEXTS)
    ]
    bytes_ = [
        {"b64": base64.b64encode(text.encode()).decode()} for text in TEXTS
    ]
    for instances in (TEXTS, [{"texts": text} for text in TEXTS], bytes_):
        assert ask(running, instances=instances) == (
            200, {"predictions": expected},
        )  # fmt: skip
    for inputs in (TEXTS, {"texts": TEXTS}, bytes_):
        _, answer = ask(running, inputs=inputs)
        rows = zip(*answer["outputs"].values())
        names = answer["outputs"].keys()
        assert [dict(zip(names, row)) for row in rows] == expected


def test_a_search_takes_numbers_beside_its_column_of_texts(running, model):
    status, answer = ask(
        running, signature_name="search", inputs={"texts": TEXTS} | SEARCH
    )
    assert status == 200
    found = answer["outputs"]
    assert np.shape(found["outputs"]) == np.shape(found["scores"]) == (3, 3)
    assert (np.diff(found["scores"]) <= 0).all()
    for one, outputs, scores in zip(
        model.rewrite(TEXTS, BeamConfig(**SEARCH)), *found.values()
    ):
        assert outputs[0] == one.output
        assert scores[0] == pytest.approx(one.score, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beams": 101}, "num_beams: at most 100"),
        ({"max_new_tokens": 51}, "max_new_tokens: at most 50"),
        ({"num_beams": 0}, "num_beams: expected 1 <= num_beams"),
        ({"length_penalty": -0.5}, "length_penalty: expected 0 <= "),
        ({"max_new_tokens": 0}, "max_new_tokens: expected 1 <= "),
        ({"num_beams": [3]}, "num_beams: Expecting shape () but got: [1]"),
    ],
)
def test_searches_out_of_range_are_refused(running, changes, message):
    inputs = {"texts": TEXTS} | SEARCH | changes
    status, answer = ask(running, signature_name="search", inputs=inputs)
    assert status == 400 and message in answer["error"]


def test_empty_requests_give_no_outputs(running):
    for name, values in (("serving_default", {}), ("search", SEARCH)):
        status, answer = ask(
            running, signature_name=name, inputs={"texts": []} | values
        )
        assert status == 200 and answer["outputs"]["outputs"] == []


def test_align_gives_tokens_and_attention(running, model):
    _, answer = ask(
        running,
        signature_name="align",
        instances=[{"texts": "ab c", "outputs": "ba"}],
    )
    (one,) = answer["predictions"]
    text_tokens, output_tokens, attention = model.align("ab c", "ba")
    assert one["text_tokens"] == text_tokens == ["a", "b", " ", "c", ""]
    assert one["output_tokens"] == output_tokens == ["b", "a", ""]
    np.testing.assert_allclose(one["attention"], attention, atol=1e-5)
    status, answer = ask(
        running,
        signature_name="align",
        inputs={"texts": ["a", "b"], "outputs": ["a"]},
    )
    assert status == 400 and "as many" in answer["error"]


def test_the_attention_counts_as_memory(model):
    served = ServedModel.from_description(
        "letters", 1, model.description, metadata=b"", model=model
    )
    texts = {"texts": tf.constant(["a" * 9_000, "a"])}
    outputs = {"outputs": tf.constant(["b" * 8_000, "b"])}
    assert served.row_size("align", texts | outputs) > 9_000 * 8_000
    beams = {"num_beams": tf.constant(3)}
    one = served.row_size("search", texts)
    assert served.row_size("search", texts | beams) == 3 * one
    assert served.row_size("serving_default", texts) == 4 * one


def test_beams_by_default_count_as_rows(running):
    status, answer = ask(running, instances=["a"] * 257)
    assert status == 400 and "257 rows of 4 beams" in answer["error"]


def test_the_card_describes_model_training_and_quality(running):
    _, answer = ask(running, "/v1/models", "GET")
    (listed,) = answer["data"]
    assert listed["task"] == "seq2seq"
    size, trained, quality = listed["card"]
    assert size.startswith("GRU seq2seq of 6 units, 1 encoder layer(s)")
    assert trained == "Trained on pairs.tsv: 1,000 characters, 2 epoch(s)."
    assert quality.count("99.9") == 1
    status, _, metrics = request(running, "GET", "/metrics")
    assert status == 200
    assert b'stacked_rnn_model_info{model_name="letters"' in metrics


def test_completions_are_refused_for_a_seq2seq_model(running):
    status, answer = ask(
        running, "/v1/completions", model="letters", prompt="a"
    )
    assert status == 400
    assert answer["error"]["message"] == (
        "The model 'letters' (seq2seq) does not continue texts: POST "
        "/v1/models/letters:predict"
    )

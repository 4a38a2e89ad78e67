"""Embeddings and tokens, seen by OpenAI's client and plain HTTP."""

import json
import shutil
import types

import numpy as np
import pytest

from stacked_rnn import tokenizers
from stacked_rnn.inference import language_model
from stacked_rnn.serving import openai_embeddings, tokenization
from stacked_rnn.serving.errors import ApiError
from tests.helpers.live_server import openai_client, request, serving

TEXTS = ["abc", "", "hgfedcbah"]


@pytest.fixture(scope="module")
def running(letters):
    with serving(letters, model_name="m") as running:
        yield running


@pytest.fixture(scope="module")
def client(running):
    return openai_client(running)


def post(running, path, **body):
    status, _, content = request(running, "POST", path, body)
    return status, json.loads(content)


def embedded(model, texts):
    """What the signature of the model returns."""
    return model.functions.embed(texts)["embeddings"].numpy()


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_embeddings_are_those_of_the_signature(client, loaded, encoding_format):
    """OpenAI's client asks for base64, and decodes it, by itself."""
    answer = client.embeddings.create(
        model="m", input=TEXTS,
        **{"encoding_format": "float"} if encoding_format == "float" else {},
    )  # fmt: skip
    assert [one.index for one in answer.data] == [0, 1, 2]
    np.testing.assert_allclose(
        [one.embedding for one in answer.data], embedded(loaded, TEXTS),
        atol=1e-6,
    )  # fmt: skip
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 12


def test_a_long_text_has_the_mean_of_its_chunks(client, loaded, monkeypatch):
    size = openai_embeddings.CHUNK
    text = "abcdefgh" * (size // 8) * 2 + "hhh"
    # Chunks are embedded in batches.
    monkeypatch.setattr(language_model, "_BATCH_SIZE", 2)
    answer = client.embeddings.create(model="m", input=["a", text, "b"])
    chunks = [text[:size], text[size : 2 * size], text[2 * size :]]
    expected = [
        embedded(loaded, ["a"])[0],
        embedded(loaded, chunks).mean(axis=0),
        embedded(loaded, ["b"])[0],
    ]
    np.testing.assert_allclose(
        [one.embedding for one in answer.data], expected, atol=1e-5
    )


def test_more_characters_than_a_body_may_have_are_refused(running, monkeypatch):
    """Token ids may stand for long tokens."""
    monkeypatch.setattr(openai_embeddings, "_MOST_CHARACTERS", 7)
    status, answer = post(
        running, "/v1/embeddings", model="m", input=["abcd", "efgh"]
    )
    assert status == 400
    assert "8 characters, at most 7" in answer["error"]["message"]


def test_token_ids_may_be_embedded(running, loaded):
    token_ids = loaded.tokenizer.tokenize(["abc"]).flat_values.numpy().tolist()
    for value in (token_ids, [token_ids]):
        status, answer = post(
            running, "/v1/embeddings", model="m", input=value, dimensions=6
        )
        assert status == 200, answer
        np.testing.assert_allclose(
            answer["data"][0]["embedding"], embedded(loaded, ["abc"])[0],
            atol=1e-6,
        )  # fmt: skip


def test_token_ids_that_their_text_does_not_have_are_refused():
    tokenizer = tokenizers.ByteTokenizer()
    model = types.SimpleNamespace(
        tokenizer=tokenizer,
        token_bytes=tokenizer.token_bytes(),
        token_texts=tokenizer.token_bytes(),
        model_config=types.SimpleNamespace(units=6),
    )
    first, second = tokenizer.tokenize(["\u00e9"]).to_list()[0]
    for token_ids in ([first], [[first, second], [second]]):
        body = openai_embeddings.EmbeddingRequest(model="m", input=token_ids)
        with pytest.raises(ApiError, match="input: the text of these token id"):
            openai_embeddings.embed(model, body)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/embeddings", {"input": []}, "input: expected a string"),
        ("/v1/embeddings", {"input": ["a"] * 1025}, "at most 1024 strings"),
        ("/v1/embeddings", {"input": [999]}, "input: there is no token id 999"),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}, "dimensions: emb"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "x"}, "encoding_"),
        ("/tokenize", {"prompt": 1}, "prompt: expected a string"),
        ("/tokenize", {"prompt": "\ud83d"}, "prompt: expected a string"),
        ("/detokenize", {"tokens": ["a"]}, "tokens: expected a list of token"),
        ("/detokenize", {"tokens": [999]}, "tokens: there is no token id 999"),
        ("/detokenize", {"tokens": [-1]}, "tokens: expected a list of token"),
    ],
)
def test_bad_requests_are_refused_in_words(running, path, body, words):
    status, answer = post(running, path, model="m", **body)
    assert status == 400 and words in answer["error"]["message"]


def test_tokens_are_those_of_the_tokenizer(running, loaded):
    text = "abc\ndeZ"
    expected = loaded.tokenizer.tokenize([text]).flat_values.numpy().tolist()
    for model in ({}, {"model": "m"}):  # there is one only
        _, answer = post(
            running, "/tokenize", prompt=text, return_token_strs=True, **model
        )
        assert answer["tokens"] == expected
        assert answer["count"] == len(expected) == len(answer["token_strs"])
        _, back = post(running, "/detokenize", tokens=expected[:3], **model)
        assert back == {"prompt": "abc"}
    assert post(running, "/detokenize", tokens=[])[1] == {"prompt": ""}
    assert post(running, "/tokenize", prompt="")[1]["tokens"] == []


def test_token_ids_stand_for_separators_of_documents(loaded_lines):
    text = "ab\nc"
    request = tokenization.TokenizeRequest(prompt=text, return_token_strs=True)
    answer = tokenization.tokenize(loaded_lines, request)
    assert answer["token_strs"] == [*text]
    request = tokenization.DetokenizeRequest(tokens=answer["tokens"])
    back = tokenization.detokenize(loaded_lines, request)
    assert back == {"prompt": text}
    by_text, by_ids = (
        openai_embeddings.embed(
            loaded_lines,
            openai_embeddings.EmbeddingRequest(model="m", input=[prompt]),
        )["data"]
        for prompt in (text, answer["tokens"])
    )
    assert by_ids == by_text


def test_the_end_of_a_text_is_one_token(running, loaded):
    """Tools take the first token of eos_token for the end of a text."""
    _, _, content = request(running, "GET", "/tokenizer_info")
    info = json.loads(content)
    assert info["vocab_size"] == loaded.tokenizer.vocabulary_size()
    assert info["eos_token"] == info["unk_token"] == "\N{REPLACEMENT CHARACTER}"
    _, answer = post(running, "/tokenize", prompt=info["eos_token"])
    assert answer["tokens"] == [loaded.tokenizer.unknown_id]


def test_among_several_models_one_must_be_named(letters, tmp_path):
    for name in "ab":
        shutil.copytree(letters, tmp_path / name / "1")
    with serving(tmp_path) as running:
        status, answer = post(running, "/tokenize", prompt="a")
        assert (
            status == 400 and "name one of a, b" in answer["error"]["message"]
        )
        status, _, _ = request(running, "GET", "/tokenizer_info?model=b")
        assert status == 200

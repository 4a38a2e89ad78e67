"""The server seen by OpenAI's client and plain HTTP, and its failures."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import openai
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import stacked_rnn
from stacked_rnn import configs, reference
from stacked_rnn.serving import (
    guard,
    openai_completions,
    openai_stream,
    scheduler,
    server,
    top_logprobs,
)
from tests.helpers import ROOT
from tests.helpers.live_server import (
    active,
    completion,
    openai_client,
    request,
    serving,
)
from tests.helpers.waiting import read_until, wait_until


@pytest.fixture(scope="module")
def running(saved_models):
    with serving(saved_models) as running:
        yield running


@pytest.fixture(scope="module")
def client(running):
    return openai_client(running)


def alone(model, prompt, stop=(), num_samples=1, **options):
    sampling = configs.SamplingConfig(
        **{"max_new_tokens": 16, "temperature": 1.0} | options
    )
    return list(model.continuations([prompt], sampling, stop, num_samples))


# OpenAI's API


def test_a_seeded_completion_equals_generate(client, loaded):
    answer = client.completions.create(
        model="letters", prompt=["abc", ""], n=2, seed=7, max_tokens=30,
        temperature=0.9, top_p=0.9, stop=["zz"], logprobs=0,
        extra_body={"top_k": 8, "repetition_penalty": 1.2},
    )  # fmt: skip
    options = {
        "seed": 7, "max_new_tokens": 30, "temperature": 0.9, "top_p": 0.9,
        "top_k": 8, "repetition_penalty": 1.2,
    }  # fmt: skip
    expected = [
        *alone(loaded, "abc", num_samples=2, **options),
        *alone(loaded, "", num_samples=2, **options),
    ]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice, text in zip(answer.choices, expected, strict=True):
        assert choice.text == text.text and choice.finish_reason == "length"
        logprobs = choice.logprobs
        assert "".join(logprobs.tokens) == text.text
        assert logprobs.token_logprobs == pytest.approx(
            list(text.log_probs), abs=1e-5
        )
        assert logprobs.text_offset == [*range(30)]
    assert answer.usage.prompt_tokens == 3
    assert answer.usage.completion_tokens == 120


def test_a_stream_adds_up_to_the_whole_answer(client):
    options = {
        "model": "letters", "prompt": ["abc", "h"], "seed": 1,
        "max_tokens": 400, "echo": True, "logprobs": 0, "stop": ["dca", "hhhh"],
    }  # fmt: skip
    whole = client.completions.create(**options)
    assert {one.finish_reason for one in whole.choices} == {"stop", "length"}
    events = list(
        client.completions.create(
            stream=True, stream_options={"include_usage": True}, **options
        )
    )
    assert len({event.id for event in events}) == 1
    *events, last = events
    assert last.choices == [] and last.usage == whole.usage
    for expected in whole.choices:
        pieces = [
            choice
            for event in events
            for choice in event.choices
            if choice.index == expected.index
        ]
        assert len(pieces) > 2
        assert "".join(piece.text for piece in pieces) == expected.text
        reasons = [piece.finish_reason for piece in pieces]
        assert reasons == [None] * (len(pieces) - 1) + [expected.finish_reason]
        for name in ("tokens", "text_offset"):
            together = [
                value
                for piece in pieces
                for value in getattr(piece.logprobs, name)
            ]
            assert together == getattr(expected.logprobs, name)


def test_echo_returns_the_prompt_with_its_logprobs(client, loaded):
    answer = client.completions.create(
        model="letters", prompt="abcab", max_tokens=0, echo=True, logprobs=0
    )
    [choice] = answer.choices
    assert choice.text == "abcab" and choice.finish_reason == "length"
    _, nats = loaded.token_nats("abcab")
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(
        [-one for one in nats], abs=1e-5
    )
    empty = client.completions.create(
        model="letters", prompt="", max_tokens=1, echo=True, seed=0
    )
    assert len(empty.choices[0].text) == 1


def likeliest(model, text):
    """Lists {token: log p} of all tokens for each position but the first."""
    step = model.functions.signatures["decode_step"]
    token_ids = model.tokenizer.tokenize([text]).values.numpy()
    states = {n: tf.constant(s) for n, s in model.initial_states(1).items()}
    places = []
    for token_id in token_ids[:-1]:
        states = step(token_ids=tf.constant([token_id]), **states)
        log_probs = reference.log_softmax(states.pop("logits").numpy()[0])
        names = [token.decode() for token in model.token_bytes.tolist()]
        places.append(dict(zip(names, log_probs)))
    return places


@pytest.mark.parametrize(
    ("prompt", "offsets"),
    [
        ("abcab", [0, 1, 2, 3, 4]),
        ("aXc\N{SNOWMAN}ab", [0, 1, 2, 3, 4, 5]),  # unknown characters
        ("XX", [0, 1]),
    ],
)
def test_echo_returns_the_prompt_as_it_was_sent(client, prompt, offsets):
    answer = client.completions.create(
        model="letters", prompt=prompt, max_tokens=2, echo=True, logprobs=0,
        temperature=0,
    )  # fmt: skip
    [choice] = answer.choices
    alone = client.completions.create(
        model="letters", prompt=prompt, max_tokens=2, temperature=0
    )
    assert choice.text == prompt + alone.choices[0].text
    expected = [*offsets, len(prompt), len(prompt) + 1]
    assert choice.logprobs.text_offset == expected


def test_offsets_skip_what_the_tokens_lack():
    offsets = openai_completions._offsets_in
    assert offsets("cleo\nanna", [b"c", b"l", b"e", b"o", b"", b"a"]) == [
        0, 1, 2, 3, 4, 5,
    ]  # fmt: skip
    tokens = [b"<unk>", b" ", b"sat", b"<unk>", b" ", b"sat"]
    assert offsets("zebra sat; sat", tokens) == [0, 5, 6, 9, 10, 11]
    euro = "\N{EURO SIGN}".encode()
    assert offsets("\N{EURO SIGN}a", [euro[:1], euro[1:], b"a"]) == [0, 0, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_the_likeliest_tokens_at_each_position(
    client, loaded, stream
):
    """The largest log-probabilities and that of the drawn token."""
    options = {
        "model": "letters", "prompt": ["abcab", "h"], "n": 2, "seed": 4,
        "max_tokens": 70, "logprobs": 3, "echo": True, "temperature": 1.5,
    }  # fmt: skip
    if stream:
        texts, found = [""] * 4, [[] for _ in range(4)]
        for event in client.completions.create(stream=True, **options):
            for choice in event.choices:
                texts[choice.index] += choice.text
                found[choice.index] += choice.logprobs.top_logprobs
    else:
        choices = client.completions.create(**options).choices
        texts = [choice.text for choice in choices]
        found = [choice.logprobs.top_logprobs for choice in choices]
    for text, (first, *places) in zip(texts, found, strict=True):
        assert first is None and len(places) == len(text) - 1
        expected = likeliest(loaded, text)
        for token, place, all_of_them in zip(text[1:], places, expected):
            best = sorted(all_of_them, key=all_of_them.get)[-3:]
            assert set(place) == {*best, token}
            for name, log_prob in place.items():
                assert log_prob == pytest.approx(all_of_them[name], abs=1e-4)


def test_logprobs_without_echo_cover_new_tokens_only(client, loaded):
    """Tools such as `lm-eval` use them to see whether a text is greedy."""
    options = {"model": "letters", "prompt": "abc", "max_tokens": 20}
    greedy = client.completions.create(logprobs=1, temperature=0, **options)
    logprobs = greedy.choices[0].logprobs
    assert [{token} for token in logprobs.tokens] == [
        {*place} for place in logprobs.top_logprobs
    ]
    empty = client.completions.create(logprobs=5, **options | {"prompt": ""})
    places = empty.choices[0].logprobs.top_logprobs
    assert len(places) == 20 and {*map(len, places)} <= {5, 6}


def test_ranking_with_several_models_causes_no_warning(loaded, caplog):
    for _ in range(6):
        rank = top_logprobs.rank_function(loaded)
        rank(tf.constant([1, 2]), loaded.initial_states(1))
    assert "retracing" not in caplog.text


def test_token_ids_are_accepted_as_a_prompt(client, loaded):
    token_ids = loaded.tokenizer.tokenize(["abc"]).values.numpy().tolist()
    options = {"model": "letters", "seed": 3, "max_tokens": 9}
    texts = {
        client.completions.create(prompt=prompt, **options).choices[0].text
        for prompt in ("abc", token_ids, [token_ids])
    }
    assert len(texts) == 1


def test_seeds_may_be_any_int64(client):
    """Including negative ones."""
    texts = [
        client.completions.create(
            model="letters", prompt="abc", max_tokens=30, seed=seed
        )
        .choices[0]
        .text
        for seed in (-1, 2**63 - 1, -(2**63), 0, -2)
    ]
    assert texts[0] == texts[1] and texts[2] == texts[3] != texts[0]
    assert texts[4] not in texts[:4]


def test_without_a_seed_texts_differ(client):
    texts = {
        client.completions.create(
            model="letters", prompt="abc", max_tokens=30, seed=None
        )
        .choices[0]
        .text
        for _ in range(3)
    }
    assert len(texts) == 3


def test_models_are_listed_with_their_cards(client, running):
    ids = [model.id for model in client.models.list()]
    assert ids == ["letters", "others"]
    card = client.models.retrieve("letters").card
    assert "GRU language model of 6 units, 2 layer(s)" in card[0]
    assert "letters.txt: 1,000 characters, 2 epoch(s)" in card[1]
    assert "1.50 bits per character" in card[2]
    assert len(client.models.retrieve("others").card) == 1
    roots = [model.root for model in client.models.list()]
    assert roots == ids  # `vllm bench serve` reads them


@pytest.mark.parametrize(
    ("values", "status", "param"),
    [
        ({"model": "no"}, 404, "model"),
        ({"temperature": 2.1}, 400, "temperature"),
        ({"top_p": -0.1}, 400, "top_p"),
        ({"max_tokens": 5000}, 400, "max_tokens"),
        ({"max_tokens": "5"}, 400, "max_tokens"),
        ({"n": 0}, 400, "n"),
        ({"n": 100, "prompt": ["a", "b"]}, 400, "n"),
        ({"seed": -(2**63) - 1}, 400, "seed"),
        ({"seed": 2**64}, 400, "seed"),
        ({"stop": ["a"] * 17}, 400, "stop"),
        ({"stop": ""}, 400, "stop"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [1, "a"]}, 400, "prompt"),
        ({"prompt": [10**12]}, 400, "prompt"),
        ({"prompt": [-1]}, 400, "prompt"),
        ({"logprobs": 6}, 400, "logprobs"),
        ({"logprobs": 1, "prompt": ["a" * 5001] * 2}, 400, "prompt"),
        ({"best_of": 2}, 400, "best_of"),
        ({"logit_bias": {"a": 5}}, 400, "logit_bias"),
        ({"logit_bias": {"1": 101}}, 400, "logit_bias"),
        ({"logit_bias": {"1": "5"}}, 400, "logit_bias"),
        ({"logit_bias": {"99999": 5}}, 400, "logit_bias"),
        ({"suffix": "x"}, 400, "suffix"),
        ({"presence_penalty": 2.5}, 400, "presence_penalty"),
        ({"min_p": 1.1}, 400, "min_p"),
        ({"min_tokens": -1}, 400, "min_tokens"),
        ({"stop_token_ids": [99999]}, 400, "stop_token_ids"),
        ({"stop_token_ids": ["a"]}, 400, "stop_token_ids"),
        (
            {"stream_options": {"include_usage": 2}},
            400,
            "stream_options.include_usage",
        ),
    ],
)
def test_unsupported_values_are_refused_by_name(running, values, status, param):
    got, answer = completion(running, **values)
    assert got == status and answer["error"]["param"] == param
    assert answer["error"]["type"] == "invalid_request_error"
    assert param in answer["error"]["message"]


@pytest.mark.parametrize(
    "values",
    [
        {"best_of": 1, "suffix": "", "logit_bias": {}, "min_p": 0},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "min_tokens": 0},
        {"stop_token_ids": [], "ignore_eos": True, "logprobs": False},
        {"top_k": -1, "max_tokens": 1.6e1, "n": 1.0, "seed": 5.0},
        {"seed": 5 + 2**63, "stop": [f"no {n}" for n in range(16)]},
        {"metadata": {}, "store": False, "service_tier": "auto"},
        {"stream_options": {"include_obfuscation": False, "other": 1}},
    ],
)
def test_what_other_servers_know_changes_nothing(running, values):
    """Where it is neutral, or no option of theirs that changes a text."""
    status, plain = completion(running, seed=5)
    assert status == 200
    status, answer = completion(running, **{"seed": 5} | values)
    assert status == 200, answer
    assert answer["choices"] == plain["choices"]
    assert answer["system_fingerprint"] == plain["system_fingerprint"] != ""


@pytest.mark.parametrize("stream", [False, True])
def test_ignored_fields_are_named(running, stream):
    body = {"model": "letters", "prompt": "abc", "stream": stream, "user": "me"}
    unknown = {
        "metadata": {}, "line\r\nbreak": 1, "\N{GREEK SMALL LETTER PI}": 2,
        "stream_options": {"include_usage": True, "other": 1},
    }  # fmt: skip
    status, headers, _ = request(
        running, "POST", "/v1/completions", body | unknown
    )
    assert status == 200
    ignored = "metadata, line??break, ?, stream_options.other"
    assert headers["x-ignored-fields"] == ignored
    _, headers, _ = request(running, "POST", "/v1/completions", body)
    assert "x-ignored-fields" not in headers


def test_as_many_tokens_as_the_server_allows(running):
    status, answer = completion(running, max_tokens=-1)
    assert status == 200 and answer["usage"]["completion_tokens"] == 4096


def test_best_of_may_equal_n(client):
    answer = client.completions.create(
        model="letters", prompt="abc", n=3, best_of=3
    )
    assert len(answer.choices) == 3


def test_the_stop_string_that_ended_a_text_is_named(running):
    _, answer = completion(running, temperature=0, max_tokens=40)
    text = answer["choices"][0]["text"]
    assert answer["choices"][0]["stop_reason"] is None
    stops = ["nowhere", text[20:25], text[10:13]]
    _, answer = completion(running, temperature=0, max_tokens=40, stop=stops)
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "stop"
    first = min(stops[1:], key=lambda stop: text.index(stop) + len(stop))
    assert choice["stop_reason"] == first
    assert choice["text"] == text[: text.index(first)]


def test_the_token_that_ended_a_text_is_named(running, loaded):
    options = {"seed": 1, "max_tokens": 50, "logprobs": 2}
    _, answer = completion(running, **options)
    last = answer["choices"][0]["text"][9]
    [token_id] = loaded.tokenizer.tokenize([last]).flat_values.numpy().tolist()
    _, answer = completion(running, stop_token_ids=[token_id], **options)
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == token_id
    assert last not in choice["text"]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"] + last
    assert last in choice["logprobs"]["top_logprobs"][-1]


def test_each_part_of_a_stream_may_have_the_usage(client):
    stream = client.completions.create(
        model="letters", prompt="abc", max_tokens=300, stream=True,
        stream_options={"include_usage": True},
        extra_body={"stream_options": {
            "include_usage": True, "continuous_usage_stats": True,
        }},
    )  # fmt: skip
    counts = [event.usage.completion_tokens for event in stream]
    assert counts == sorted(counts) and counts[-1] == 300
    assert len({*counts}) > 2


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v1/responses", 404, "POST /v1/completions"),
        ("POST", "/v1/moderations", 404, "no /v1/moderations"),
        ("POST", "/completions", 404, "API is under /v1"),  # a wrong base_url
        ("GET", "/v1/completions", 405, "/v1/completions is for POST"),
    ],
)
def test_an_api_that_is_not_there_is_refused_in_words(
    running, method, path, status, words
):
    got, _, content = request(running, method, path)
    assert got == status
    assert words in json.loads(content)["error"]["message"]


def test_a_wrong_name_of_a_model_is_answered_with_the_right_ones(client):
    with pytest.raises(openai.NotFoundError, match="'gpt'.* letters, others"):
        client.completions.create(model="gpt", prompt="abc")


def test_the_same_is_found_under_the_names_of_other_servers(running):
    for path, other in (
        ("/healthz", "/health"),
        ("/metrics", "/monitoring/prometheus/metrics"),
    ):
        _, headers, content = request(running, "GET", path)
        status, other_headers, other_content = request(running, "GET", other)
        assert status == 200
        assert other_headers["content-type"] == headers["content-type"]
        assert other_content[:20] == content[:20]
    _, _, content = request(running, "GET", "/version")
    assert json.loads(content) == {"version": stacked_rnn.__version__}


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_that_were_not_read_are_counted(running, client, stream):
    prompt = f"{stream} a b c d e f g h ".lower() * 20

    def usage(prompt, n=1):
        options = {"model": "letters", "prompt": prompt, "n": n}
        if not stream:
            return client.completions.create(**options).usage
        options |= {"stream": True, "stream_options": {"include_usage": True}}
        *_, last = client.completions.create(**options)
        return last.usage

    first, again = usage(prompt), usage([prompt, prompt + "abc"], n=2)
    assert first.prompt_tokens == len(prompt)
    assert first.prompt_tokens_details.cached_tokens == 0
    assert again.prompt_tokens == 2 * len(prompt) + 3
    cached = again.prompt_tokens_details.cached_tokens
    assert 2 * (len(prompt) - 65) < cached < 2 * len(prompt)


def test_null_means_the_default(running):
    nulls = dict.fromkeys(
        ("max_tokens", "temperature", "stop", "n", "logit_bias", "suffix")
    )
    status, answer = completion(running, **nulls)
    assert status == 200 and answer["usage"]["completion_tokens"] == 16


@settings(max_examples=30, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["model", "prompt", "stop", "n", "seed", "stream"]
                )
                | st.text(max_size=5),
                inner,
                max_size=5,
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_body_is_answered(running, body):
    if isinstance(body, dict):
        body.setdefault("model", "letters")
    for path in ("/v1/completions", "/v1/models/letters:predict"):
        status, _, content = request(running, "POST", path, json.dumps(body))
        assert status in (200, 400, 404), content


# TensorFlow Serving's API, and the rest


def test_predict_status_and_metadata(running, client, loaded):
    status, _, content = request(
        running, "POST", "/v1/models/letters/versions/1:predict",
        {"signature_name": "generate", "inputs": {"prompts": ["abc"]}},
    )  # fmt: skip
    expected = loaded.functions.generate(["abc"])["texts"].numpy()[0].decode()
    assert status == 200
    assert json.loads(content)["outputs"]["texts"] == [expected]
    status, _, content = request(running, "GET", "/v1/models/letters")
    [version] = json.loads(content)["model_version_status"]
    assert version["version"] == "1" and version["state"] == "AVAILABLE"
    status, _, content = request(running, "GET", "/v1/models/letters/metadata")
    assert json.loads(content)["model_spec"]["name"] == "letters"
    with pytest.raises(openai.NotFoundError, match="'none' does .* letters"):
        client.models.retrieve("none")
    for path in (
        "/v1/models/none/metadata", "/v1/models/letters/versions/2",
        "/v1/models/letters/labels/x", "/v1/models/..%2f..%2fetc/metadata",
    ):  # fmt: skip
        status, _, content = request(running, "GET", path)
        assert status == 404, path
        assert "Servable not found" in json.loads(content)["error"]


def test_predict_has_the_limit_of_completions(running):
    body = {
        "signature_name": "generate",
        "inputs": {"prompts": ["a", "b"], "max_new_tokens": [4, 5000]},
    }
    status, _, content = request(
        running, "POST", "/v1/models/letters:predict", body
    )
    assert status == 400
    assert json.loads(content)["error"] == "max_new_tokens: at most 4096"


def test_head_is_get_without_the_body(running):
    for path in ("/healthz", "/", "/v1/models", "/v1/models/letters"):
        status, headers, content = request(running, "HEAD", path)
        assert status == 200 and content == b""
        got = request(running, "GET", path)
        assert headers["content-length"] == str(len(got[2]))
    assert request(running, "HEAD", "/nothing")[0] == 404


def test_probes_page_metrics_and_headers(running):
    assert request(running, "GET", "/healthz")[0] == 200
    assert request(running, "GET", "/readyz")[0] == 200
    status, headers, content = request(running, "GET", "/")
    assert status == 200 and b"<html" in content
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    completion(running)
    _, _, content = request(running, "GET", "/metrics")
    for line in (
        'stacked_rnn_requests_total{code="200",model_name="letters",'
        'path="/v1/completions"}',
        'stacked_rnn_generated_tokens_total{model_name="letters"}',
        'stacked_rnn_time_to_first_token_seconds_count{model_name="letters"}',
        'stacked_rnn_model_info{model_name="others",version="1"} 1.0',
        'stacked_rnn_is_compiled{model_name="letters"} 0.0',
    ):
        assert line in content.decode()
    for path in ("/nothing", "/v1/nothing", "/docs"):
        status, _, content = request(running, "GET", path)
        assert status == 404 and json.loads(content)["error"]
    assert request(running, "GET", "/v1/completions")[0] == 405
    _, headers, _ = request(
        running, "GET", "/healthz", headers={"origin": "https://else.where"}
    )
    assert "access-control-allow-origin" not in headers


def test_an_internal_error_reveals_nothing(running, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("stacked_rnn.serving.tf_serving.predict", fail)
    status, headers, content = request(
        running, "POST", "/v1/models/letters:predict", {},
        {"x-request-id": "mine-1"},
    )  # fmt: skip
    assert status == 500 and b"secret" not in content
    assert json.loads(content)["error"]["type"] == "server_error"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"] == "mine-1"
    assert "mine-1" in caplog.text and "secret" in caplog.text
    _, _, content = request(running, "GET", "/metrics")
    assert re.search(
        r'requests_total{code="500",model_name="letters",'
        r'path="/v1/models/{model}:predict"} 1.0',
        content.decode(),
    )


def test_each_answer_has_a_request_id(running, client):
    answer = client.completions.create(model="letters", prompt="abc")
    assert len(answer._request_id) == 32
    given = {"x-request-id": "trace-7/a"}
    for path in ("/healthz", "/nothing", "/v1/models"):
        _, headers, _ = request(running, "GET", path, headers=given)
        assert headers["x-request-id"] == "trace-7/a"
    for wrong in ("", "two words", "a" * 129, "\xe9"):
        _, headers, _ = request(
            running, "GET", "/healthz", headers={"x-request-id": wrong}
        )
        assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])


def test_connections_are_kept_alive(running):
    """For longer than the 60 seconds of most proxies."""
    assert running._uvicorn.config.timeout_keep_alive >= 75
    connection = http.client.HTTPConnection("127.0.0.1", running.port, 60)
    for _ in range(2):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        sock = connection.sock
    assert connection.sock is sock
    connection.close()


def test_a_silent_stream_sends_comments(running, monkeypatch):
    monkeypatch.setattr(openai_stream, "_SILENCE", 0.05)
    monkeypatch.setattr(
        "stacked_rnn.serving.scheduler.Scheduler._decode",
        lambda self, lane: time.sleep(0.02),
    )
    with socket.create_connection(("127.0.0.1", running.port)) as sock:
        body = b'{"model": "letters", "stream": true}'
        sock.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            + b"content-length: %d\r\n\r\n" % len(body) + body
        )  # fmt: skip
        content = b""
        while content.count(b": nothing new\n\n") < 3:
            received = sock.recv(65_536)
            assert received, content
            content += received
        assert b"x-accel-buffering: no\r\n" in content
    monkeypatch.undo()
    wait_until(lambda: active(running) == 0)


def test_allowed_pages_may_use_openais_client(saved_models):
    """It sends own headers, about which a browser asks first."""
    with serving(
        saved_models / "letters", cors_origins=("https://my.page",)
    ) as running:
        status, headers, _ = request(
            running, "OPTIONS", "/v1/completions", headers={
                "origin": "https://my.page",
                "access-control-request-method": "POST",
                "access-control-request-headers":
                    "authorization,content-type,x-stainless-os",
            },
        )  # fmt: skip
        assert status == 200
        assert "x-stainless-os" in headers["access-control-allow-headers"]
        status, headers, _ = request(
            running, "POST", "/v1/completions", {"model": "letters"},
            {"origin": "https://my.page"},
        )  # fmt: skip
        assert status == 200
        assert headers["access-control-allow-origin"] == "https://my.page"
        assert "x-request-id" in headers["access-control-expose-headers"]


@pytest.mark.parametrize("host", ["localhost", "::1", "::", "0.0.0.0"])
def test_ipv4_and_ipv6_addresses_are_served(saved_models, host):
    has_ipv6 = True
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        has_ipv6 = False
    if host.startswith("::") and not has_ipv6:
        pytest.skip("this machine has no IPv6")
    addresses = ["127.0.0.1"] * (host != "::1")
    addresses += ["::1"] * (has_ipv6 and host != "0.0.0.0")
    with serving(saved_models / "letters", host=host) as running:
        for address in addresses:
            connection = http.client.HTTPConnection(address, running.port, 60)
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
            connection.close()


# What goes wrong


def test_clients_that_vanish_leave_no_texts_behind(running, client):
    for _ in range(6):
        stream = client.completions.create(
            model="letters", prompt="abc", max_tokens=4096, stream=True
        )
        next(iter(stream))
        stream.close()
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.05).completions.create(
                model="letters", prompt="abc", max_tokens=4096, n=64
            )
    wait_until(lambda: active(running) == 0)
    assert completion(running)[0] == 200


def test_a_slow_reader_does_not_stop_the_others(running):
    body = json.dumps(
        {
            "model": "letters", "prompt": "abc", "max_tokens": 4096, "n": 32,
            "stream": True, "logprobs": 0,
        }
    )  # fmt: skip
    with socket.create_connection(("127.0.0.1", running.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\n"
            + f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        wait_until(lambda: active(running) > 0)
        for _ in range(5):
            assert completion(running, max_tokens=30)[0] == 200
        assert active(running) > 0  # the slow client's texts are still active
    wait_until(lambda: active(running) == 0)


def test_limits_keys_and_origins_are_enforced(saved_models, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("first-key\nsecond-key\n")
    with serving(
        saved_models / "letters", model_name="mine", max_waiting=4,
        max_body_bytes=500, api_keys_file=str(keys),
        cors_origins=("https://my.page",),
    ) as running:  # fmt: skip
        for key, expected in (
            ("second-key", 200), ("third-key", 401), ("", 401),
        ):  # fmt: skip
            headers = {"authorization": f"Bearer {key}"}
            status, _, _ = request(
                running, "GET", "/v1/models", headers=headers
            )
            assert status == expected
        status, headers, _ = request(running, "GET", "/v1/models")
        assert status == 401 and headers["www-authenticate"] == "Bearer"
        assert request(running, "GET", "/healthz")[0] == 200
        client = openai_client(running, "first-key")
        with pytest.raises(
            openai.BadRequestError, match="more than 4 sequences"
        ):
            client.completions.create(model="mine", prompt="a", n=5)
        assert client.completions.create(model="mine", prompt="a").usage
        authorized = {"authorization": "Bearer first-key"}
        for chunked in (False, True):
            body = b"x" * 10**7
            status, _, content = request(
                running, "POST", "/v1/completions",
                iter([body]) if chunked else body, authorized,
            )  # fmt: skip
            assert status == 413, content
        _, headers, _ = request(
            running, "GET", "/healthz", headers={"origin": "https://my.page"}
        )
        assert headers["access-control-allow-origin"] == "https://my.page"


def test_a_full_queue_answers_429(saved_models, monkeypatch):
    monkeypatch.setattr(
        "stacked_rnn.serving.scheduler.Scheduler._decode",
        lambda self, lane: time.sleep(0.01),
    )
    body = b'{"model": "letters", "max_tokens": 4096, "n": 4}'
    message = (
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    with (
        serving(saved_models, max_waiting=4) as running,
        contextlib.ExitStack() as stack,
    ):
        scheduler = running._repository["letters"].scheduler
        for count in range(4, 72, 4):  # 64 have a place, and 4 wait
            sock = stack.enter_context(
                socket.create_connection(("127.0.0.1", running.port))
            )
            sock.sendall(message)
            wait_until(
                lambda count=count: (
                    (scheduler.num_active, scheduler.num_waiting)
                    == (min(count, 64), max(count - 64, 0))
                )
            )
        with pytest.raises(openai.RateLimitError) as caught:
            openai_client(running).completions.create(
                model="letters", prompt="a"
            )
        assert caught.value.response.headers["retry-after"] == "1"
        monkeypatch.undo()


def test_a_new_version_takes_over_and_a_broken_one_does_not(
    saved_models, tmp_path
):
    versions = tmp_path / "letters"
    shutil.copytree(saved_models / "letters", versions)
    with (
        serving(versions) as running,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        stop, statuses = threading.Event(), []

        def ask():
            while not stop.is_set():
                statuses.append(completion(running, max_tokens=50)[0])

        asking = [pool.submit(ask) for _ in range(4)]
        shutil.copytree(versions / "1", versions / "2.partial")
        (versions / "2.partial").rename(versions / "2")

        def states():
            _, _, content = request(running, "GET", "/v1/models/letters")
            return {
                one["version"]: one["state"]
                for one in json.loads(content)["model_version_status"]
            }

        wait_until(lambda: states() == {"2": "AVAILABLE"}, 60)
        shutil.copytree(versions / "1", versions / "3.partial")
        (versions / "3.partial" / "saved_model.pb").write_bytes(b"broken")
        (versions / "3.partial").rename(versions / "3")
        wait_until(lambda: states() == {"2": "AVAILABLE", "3": "END"}, 60)
        stop.set()
        for one in asking:
            one.result()
        assert set(statuses) == {200} and len(statuses) >= 4
        # What was read when the version was loaded: its files may go.
        shutil.rmtree(versions)
        status, _, content = request(
            running, "GET", "/v1/models/letters/metadata"
        )
        assert status == 200
        assert json.loads(content)["model_spec"]["version"] == "2"


def test_a_stopping_server_finishes_texts_and_refuses_new_ones(saved_models):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        with serving(saved_models / "letters") as running:
            texts = [
                pool.submit(completion, running, max_tokens=1000)
                for _ in range(3)
            ]
            wait_until(lambda: active(running) == 3)
            connection = http.client.HTTPConnection("127.0.0.1", running.port)
            connection.connect()
            leaving = threading.Thread(
                target=running.__exit__, args=(None,) * 3
            )
            leaving.start()
            wait_until(lambda: request(running, "GET", "/readyz")[0] == 503)
            connection.request("POST", "/v1/completions", "{}")
            refused = connection.getresponse()
            assert refused.status == 503 and refused.headers["retry-after"]
            connection.close()
            leaving.join()
        assert [text.result()[0] for text in texts] == [200] * 3


def test_a_stopping_server_finishes_predictions(saved_models, monkeypatch):
    began = threading.Event()

    def slow(*_):
        began.set()
        time.sleep(1)
        return b"{}"

    monkeypatch.setattr("stacked_rnn.serving.tf_serving.predict", slow)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with serving(saved_models / "letters") as running:
            answer = pool.submit(
                request, running, "POST", "/v1/models/letters:predict", {}
            )
            began.wait()
            # uvicorn alone would not wait for it.
            monkeypatch.setattr(server, "_GOODBYE_SECONDS", 0)
        assert answer.result()[0] == 200


def test_texts_cut_by_the_stop_get_503(saved_models):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with serving(saved_models / "letters", drain_seconds=0.1) as running:
            text = pool.submit(completion, running, max_tokens=4096, n=50)
            wait_until(lambda: active(running) == 50)
        status, answer = text.result()
    assert status == 503 and "longer" in answer["error"]["message"]


def test_a_request_that_takes_too_long_gets_503(saved_models, monkeypatch):
    """While its prompt is read, and where nothing but the guard ends it."""
    released, is_idle = threading.Event(), []

    def read_late(stream, served):
        is_idle.append(served.is_idle)
        released.wait(60)

    async def never(*_):
        await asyncio.Event().wait()

    with serving(saved_models / "letters", request_seconds=0.3) as running:
        with monkeypatch.context() as patches:
            patches.setattr(openai_stream.Stream, "_read", read_late)
            status, answer = completion(running, logprobs=1)
            released.set()
            assert status == 503 and "longer" in answer["error"]["message"]
            assert is_idle == [False]
            assert running._repository["letters"].is_idle
        monkeypatch.setattr(openai_stream.Stream, "_likeliest", never)
        monkeypatch.setattr(guard, "STALL_SECONDS", 1.0)
        status, answer = completion(running, max_tokens=1)
        assert status == 503 and "longer" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("is_replaced", "message"),
    [(True, "The model was replaced twice"), (False, "is shutting down")],
)
def test_a_model_that_closes_twice_gets_503(
    running, monkeypatch, is_replaced, message
):
    find = openai_stream.find

    async def find_copy(*args):
        served = await find(*args)
        return dataclasses.replace(served) if is_replaced else served

    def refuse(self, sequences):
        raise scheduler.ClosedError

    monkeypatch.setattr(openai_stream, "find", find_copy)
    monkeypatch.setattr(scheduler.Scheduler, "submit", refuse)
    status, answer = completion(running)
    assert status == 503 and message in answer["error"]["message"]


# The command


def test_bad_settings_are_one_line(saved_models, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for settings, message in (
            ({"saved_model": "nowhere"}, "no such directory"),
            ({"saved_model": str(tmp_path)}, r"no saved_model\.pb below"),
            ({"model_name": "x"}, "several models"),
            ({"port": taken.getsockname()[1]}, "in use"),
            ({"host": "no.such.host"}, "--host=no.such.host"),
            ({"api_keys_file": "no"}, "No such file"),
            ({"api_keys_file": os.devnull}, "has no key"),
        ):
            with pytest.raises(configs.UserError, match=message):
                server.Server(
                    configs.ServeConfig(
                        **{"saved_model": str(saved_models)} | settings
                    )
                )
    broken = tmp_path / "broken" / "1"
    shutil.copytree(saved_models / "letters" / "1", broken)
    (broken / "saved_model.pb").write_bytes(b"broken")
    with (
        pytest.raises(configs.UserError, match="none of its models"),
        serving(tmp_path),
    ):
        pass


def test_the_command_serves_until_it_is_told_to_stop(saved_models):
    process = subprocess.Popen(
        [sys.executable, ROOT / "serve.py", "--port=0", "--nojit_compile",
         f"--saved_model={saved_models}"],
        stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with process:
        *_, line = read_until(process, "Serving letters, others at", "stderr")
        port = int(line.rsplit(":", 1)[1].strip(" /\n"))
        running = type("Running", (), {"port": port})
        assert completion(running)[0] == 200
        process.send_signal(signal.SIGTERM)
        log = process.stderr.read()
    assert process.returncode == 0 and "Traceback" not in log
    [entry] = [json.loads(line) for line in log.splitlines() if line[0] == "{"]
    assert entry["path"] == "/v1/completions" and entry["status"] == 200

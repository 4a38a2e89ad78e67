"""Chats, seen by OpenAI's client and plain HTTP."""

import json
import shutil

import pytest

from stacked_rnn import chat_templates, configs
from stacked_rnn import saved_models as directories
from stacked_rnn.configs import UserError
from stacked_rnn.serving import openai_chat, openai_stream, server
from tests.helpers.live_server import openai_client, request, serving
from tests.helpers.waiting import wait_until

TEMPLATE = """\
{% for message in messages %}
{% if message.role == "cat" %}{{ raise_exception("no cats") }}{% endif %}
{{ message.role[0] }}{{ message.content }}{{ message.name }}
{% endfor %}
{% if add_generation_prompt %}a{% endif %}"""
MESSAGES = [
    {"role": "system", "content": "hi"},
    {"role": "user", "content": [{"type": "text", "text": "abc"}]},
    {"role": "assistant", "content": "de"},
]
OPTIONS = {"seed": 3, "max_tokens": 20}


@pytest.fixture(scope="module")
def running(letters, tmp_path_factory):
    """A server with a model that has a template, and one that has none."""
    directory = tmp_path_factory.mktemp("saved_models")
    for name in ("letters", "plain"):
        shutil.copytree(letters, directory / name / "1")
    directories.write_chat_template(directory / "letters/1", TEMPLATE)
    with serving(directory) as running:
        yield running


@pytest.fixture(scope="module")
def client(running):
    return openai_client(running)


def post(running, path, **body):
    status, _, content = request(running, "POST", f"/v1/{path}", body)
    return status, json.loads(content)


def continuation(running, prompt, model="plain", **options):
    """The completion that a chat must be equal to."""
    status, answer = post(
        running, "completions", model=model, prompt=prompt, **OPTIONS | options
    )
    assert status == 200, answer
    return answer["choices"]


@pytest.mark.parametrize(
    ("model", "options", "prompt"),
    [
        ("plain", {}, "abc"),
        ("plain", {"continue_final_message": True}, "de"),
        ("letters", {}, "shi\nuabc\nade\na"),
        ("letters", {"continue_final_message": True}, "shi\nuabc\nade"),
        ("letters", {"add_generation_prompt": False}, "shi\nuabc\nade\n"),
    ],
)
def test_a_chat_continues_the_text_of_its_template(
    running, model, options, prompt
):
    status, answer = post(
        running, "chat/completions", model=model, messages=MESSAGES,
        **OPTIONS, **options,
    )  # fmt: skip
    assert status == 200, answer
    [expected] = continuation(running, prompt, model)
    [choice] = answer["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": expected["text"], "refusal": None,
    }  # fmt: skip
    assert choice["finish_reason"] == "length"
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["completion_tokens"] == 20


def test_a_stream_adds_up_to_the_whole_answer(client):
    options = {
        "model": "plain", "messages": MESSAGES[:2], "n": 2, "seed": 1,
        "max_completion_tokens": 300, "stop": "dca", "logprobs": True,
        "top_logprobs": 2,
    }  # fmt: skip
    whole = client.chat.completions.create(**options)
    *events, last = client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **options
    )
    assert last.choices == [] and last.usage == whole.usage
    for expected in whole.choices:
        pieces = [
            choice
            for event in events
            for choice in event.choices
            if choice.index == expected.index
        ]
        assert [piece.delta.role for piece in pieces] == [
            "assistant", *[None] * (len(pieces) - 1)
        ]  # fmt: skip
        text = "".join(piece.delta.content for piece in pieces)
        assert text == expected.message.content
        assert pieces[-1].finish_reason == expected.finish_reason
        tokens = [token for piece in pieces for token in piece.logprobs.content]
        assert tokens == expected.logprobs.content
        assert bytes(tokens[0].bytes).decode() == tokens[0].token
        assert len(tokens[0].top_logprobs) in (2, 3)


def test_the_logprobs_are_those_of_the_completion(running):
    options = OPTIONS | {"model": "plain"}
    _, answer = post(
        running, "chat/completions", messages=MESSAGES[:2], logprobs=True,
        top_logprobs=1, **options,
    )  # fmt: skip
    [expected] = continuation(running, "abc", logprobs=1)
    expected = expected["logprobs"]
    content = answer["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in content] == expected["tokens"]
    assert [one["logprob"] for one in content] == expected["token_logprobs"]
    assert [
        {top["token"]: top["logprob"] for top in one["top_logprobs"]}
        for one in content
    ] == expected["top_logprobs"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"messages": []}, "messages: expected a list of 1 to 1,000"),
        ({"messages": "hi"}, "messages: expected a list"),
        ({"messages": [{"role": "user"}]}, "message 0 is none"),
        ({"messages": [*MESSAGES, {"role": "user", "content": 1}]},
         "message 3 is none"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "message 0 is none"),
        ({"messages": [{"role": "user", "content": "\ud83d"}]}, "message 0"),
        ({"messages": [{"role": "system", "content": "a"}]}, "none is the us"),
        ({"model": "letters", "messages": [{"role": "cat", "content": "a"}]},
         "refuses them: no cats"),
        ({"model": "letters", "messages": [
            {"role": "user", "content": "a", "name": "\ud83d"}
        ]}, "refuses them: 'utf-8' codec"),
        ({"continue_final_message": True, "add_generation_prompt": True},
         "add_generation_prompt: it begins an answer, but continue_final"),
        ({"max_tokens": 5000}, "max_tokens: at most 4096"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens: at most"),
        ({"top_logprobs": 9}, "top_logprobs: expected a number from 0 to 5"),
        ({"model": "none"}, "does not exist"),
        ({"response_format": {"type": "json_object"}},
         "response_format.type: Input should be 'text'"),
        ({"tool_choice": "required"}, "tool_choice: Input should be 'none' or"),
        ({"tool_choice": {"type": "function"}}, "tool_choice: "),
    ],
)  # fmt: skip
def test_bad_chats_are_refused_in_words(running, values, words):
    body = {"model": "plain", "messages": MESSAGES} | values
    status, answer = post(running, "chat/completions", **body)
    assert status in (400, 404) and words in answer["error"]["message"]


def test_defaults_are_no_more_than_the_server_allows(letters):
    with serving(letters, model_name="m", max_tokens=10) as few:
        _, answer = post(few, "completions", model="m", prompt="a")
        assert answer["usage"]["completion_tokens"] == 10
        _, answer = post(few, "chat/completions", model="m", messages=MESSAGES)
        assert answer["usage"]["completion_tokens"] == 10
        _, _, page = request(few, "GET", "/")
        assert b"MOST_TOKENS = 10;" in page


def test_without_a_limit_an_answer_has_300_tokens(running):
    _, answer = post(
        running, "chat/completions", model="plain", messages=MESSAGES
    )
    assert answer["usage"]["completion_tokens"] == 300


def test_a_template_of_the_server_is_for_models_without_one(letters, tmp_path):
    path = tmp_path / "template.jinja"
    path.write_text("{{ messages[0].content }}c")
    with serving(
        letters, model_name="m", chat_template=str(path), max_tokens=40
    ) as running:
        status, answer = post(
            running, "chat/completions", model="m", messages=MESSAGES, **OPTIONS
        )
        assert status == 200, answer
        [expected] = continuation(running, "hic", "m")
        assert answer["choices"][0]["message"]["content"] == expected["text"]
        # Without a limit of its own, a request has that of the server.
        status, answer = post(
            running, "chat/completions", model="m", messages=MESSAGES
        )
        assert status == 200, answer
        assert answer["usage"]["completion_tokens"] == 40


ALL = "{% for message in messages %}<{{ message.content }}<end>{% endfor %}"


@pytest.mark.parametrize(
    ("template", "content", "prompt"),
    [
        (ALL, "de", "<hi<end><de"),
        (ALL, "end", "<hi<end><end"),
        (ALL, "", "<hi<end><"),
        (ALL, " de \n", "<hi<end>< de \n"),
        (ALL.replace("content", "content | trim"), " de \n", "<hi<end><de"),
    ],
)
def test_the_last_message_is_continued_where_its_content_ends(
    template, content, prompt
):
    messages = [MESSAGES[0], {"role": "assistant", "content": content}]
    chat = openai_chat.ChatRequest(
        model="m", messages=messages, continue_final_message=True
    )
    assert chat.prompt(template) == prompt
    with pytest.raises(openai_chat.ApiError, match="leaves out the last one"):
        chat.prompt("{{ messages[0].content }}")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{% if %}", "Expected"), (b"\xe9", "not UTF-8: ")]
)
def test_a_wrong_template_stops_the_server_with_its_name(
    content, reason, tmp_path
):
    path = tmp_path / "a.jinja"
    path.write_bytes(content)
    message = rf"^--chat_template=.*a\.jinja: {reason}"
    with pytest.raises(UserError, match=message):
        server.Server(configs.ServeConfig(chat_template=str(path)))


def test_without_jinja2_a_note_says_that_a_template_is_not_checked(
    monkeypatch, capsys
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    chat_templates.decode(b"{% if %}", "a.jinja")
    assert capsys.readouterr().err == (
        "note: --chat_template=a.jinja is not checked: jinja2 is missing: "
        "pip install --editable '.[serve]'\n"
    )


def test_a_template_can_do_nothing_but_make_a_text():
    for template in (
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
    ):
        request = openai_chat.ChatRequest(model="m", messages=MESSAGES)
        with pytest.raises(openai_chat.ApiError, match="refuses them"):
            request.prompt(template)


def test_a_version_that_takes_over_meanwhile_has_its_own_template(
    letters, tmp_path, monkeypatch
):
    def add(version, template):
        partial = shutil.copytree(letters, tmp_path / f"{version}.partial")
        directories.write_chat_template(partial, template)
        partial.rename(tmp_path / version)

    read = openai_stream.Stream._read

    def read_late(stream, served):
        if served.version == 1:
            add("2", "{{ messages[0].content }}c")
            wait_until(lambda: served.scheduler._is_closing)
        return read(stream, served)

    monkeypatch.setattr(openai_stream.Stream, "_read", read_late)
    add("1", "{{ messages[0].content }}b")
    options = OPTIONS | {"model": "m"}
    with serving(tmp_path, model_name="m") as running:
        status, answer = post(
            running, "chat/completions", messages=MESSAGES, logprobs=True,
            top_logprobs=1, **options,
        )  # fmt: skip
        assert status == 200, answer
        [expected] = continuation(running, "hic", "m")
    assert answer["system_fingerprint"] == "version-2"
    assert answer["choices"][0]["message"]["content"] == expected["text"]

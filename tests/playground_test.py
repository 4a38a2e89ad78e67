"""The page in a real browser, with a stub of the server."""

import codecs
import contextlib
import http.server
import itertools
import json
import re
import shlex
import sys
import threading
import time
from unittest import mock

import pytest

from stacked_rnn.serving import playground
from tests.helpers import browsers

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="no selenium, which drives the browser"
)
waits = pytest.importorskip("selenium.webdriver.support.wait")
ActionChains, Keys = webdriver.ActionChains, webdriver.Keys

pytestmark = browsers.needed
PATIENCE = 30  # seconds, on a busy machine
CARD = ["A GRU language model.", "It saw <b>nothing</b> of this."]


def event(text="", tokens=(), offsets=None, finish=None):
    """An event of a stream of completions.

    Args:
        text: the new part of the text.
        tokens: (text, log p) of each.
        offsets: of each token, or of the first, the others beside it.
        finish: the finish_reason.
    """
    if not isinstance(offsets, list):
        lengths = (len(token) for token, _ in tokens)
        offsets = [*itertools.accumulate(lengths, initial=offsets or 0)]
    logprobs = {
        "tokens": [token for token, _ in tokens],
        "token_logprobs": [log_prob for _, log_prob in tokens],
        "top_logprobs": None,
        "text_offset": offsets[: len(tokens)],
    }
    return {
        "choices": [
            {
                "index": 0,
                "text": text,
                "logprobs": logprobs,
                "finish_reason": finish,
            }
        ]
    }


def by_token(tokens, finish="stop"):
    """A stream with one event per token, the usage, and the end."""
    offset = 0
    for token, log_prob in tokens:
        yield event(token, [(token, log_prob)], offset)
        offset += len(token)
    yield event(finish=finish)
    yield {"choices": [], "usage": {"completion_tokens": len(tokens)}}
    yield "[DONE]"


def encoded(events):
    for data in events:
        data = (
            data
            if isinstance(data, str)
            else json.dumps(data, ensure_ascii=False)
        )
        yield f"data: {data}\n\n".encode()


class Server(http.server.ThreadingHTTPServer):
    """A stub that answers as the test says and records the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self.server_port}"
        self.closed = threading.Event()
        self.begin()

    def begin(self):
        self.closed.clear()
        self.paths, self.bodies = [], []
        self.status, self.chunks, self.key = 200, [], None
        self.unknown = None  # the token for all that is not ASCII
        self.models = [{"id": "pydoc", "object": "model", "card": CARD}]

    def streams(self, events):
        self.chunks = encoded(events)

    def predicts(self, **outputs):
        self.chunks = [json.dumps({"predictions": [outputs]}).encode()]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/tokenizer_info?model="):
            return self.answer_json({"unk_token": self.server.unknown})
        self.server.paths.append(self.path)
        if self.path == "/v1/models":
            if self.refuses():
                return
            return self.answer_json(
                {"object": "list", "data": self.server.models}
            )
        page = playground.page() if self.path == "/" else ""
        self.answer("text/html; charset=utf-8", [page.encode()], page)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            unknown = self.server.unknown
            tokens = [c if c.isascii() else unknown for c in body["prompt"]]
            return self.answer_json(
                {"count": len(tokens), "token_strs": tokens}
            )
        self.server.paths.append(self.path)
        if self.refuses():
            return
        self.server.bodies.append(body)
        self.answer("text/event-stream", self.server.chunks)

    def refuses(self):
        key = self.server.key
        if not key or self.headers["Authorization"] == f"Bearer {key}":
            return False
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"error": {"message": "Wrong or missing API key"}}')
        return True

    def answer_json(self, value):
        self.answer("application/json", [json.dumps(value).encode()])

    def answer(self, content_type, chunks, page=None):
        self.send_response(self.server.status)
        self.send_header("Content-Type", content_type)
        if page:
            policy = playground.content_security_policy(page)
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        try:
            for chunk in chunks:
                self.wfile.write(chunk)
                self.wfile.flush()
        except ConnectionError:
            self.server.closed.set()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def driver(browser):
    browser.get_log("performance")  # what other tests have loaded
    return browser


class Page:
    """The open page, with shortcuts for the tests."""

    def __init__(self, driver):
        self.driver = driver

    def __getitem__(self, id):
        return self.driver.find_element("id", id)

    def script(self, source, *arguments):
        return self.driver.execute_script(f"return {source}", *arguments)

    def wait(self, condition):
        waiting = waits.WebDriverWait(self.driver, PATIENCE, 0.02)
        return waiting.until(lambda _: condition())

    def keys(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def chord(self, modifier, key):
        chain = ActionChains(self.driver).key_down(modifier)
        chain.send_keys(key).key_up(modifier).perform()

    def type(self, id, text):
        self[id].clear()
        self[id].send_keys(text)

    def choose(self, model):
        """Chooses a model as a program does, which sends one event alone."""
        self.driver.execute_script(
            "const menu = document.getElementById('model');"
            "menu.value = arguments[0];"
            "menu.dispatchEvent(new Event('change'));",
            model,
        )

    def ended(self):
        """Waits for the end; returns the text."""
        self.wait(lambda: "ended by" in self["status"].text)
        return self["text"].get_property("textContent")

    def generate(self):
        self["generate"].click()
        return self.ended()

    def others(self):
        """The buttons of the tokens that could stand in a place."""
        return self["others"].find_elements("tag name", "button")

    def tokens(self):
        """Lists (text, nats with one digit, background) of the tokens."""
        return self.script(
            "[...document.querySelectorAll('#text [data-nats]')].map(s => "
            "[s.textContent, s.dataset.nats, getComputedStyle(s).background])"
        )


@pytest.fixture
def page(driver, server):
    server.begin()
    driver.execute_cdp_cmd(
        "Storage.clearDataForOrigin",
        {"origin": server.origin, "storageTypes": "local_storage"},
    )
    driver.get(server.origin)
    page = Page(driver)
    page.wait(lambda: "language model" in page["card"].text)
    driver.get_log("browser")
    yield page
    complaints = [
        entry
        for entry in driver.get_log("browser")
        if "the server responded with a status of 4" not in entry["message"]
    ]
    assert complaints == []


def test_the_policy_has_the_hashes_of_script_and_style():
    policy = playground.content_security_policy(
        "<style>a\n</style><script>b</script>"
    )
    # printf 'a\n' | openssl dgst -sha256 -binary | base64
    assert "'sha256-h0KPxSKAPTEGXnvOPPA/5HUJZjHl4Hu9eg/eYMTPJcc='" in policy
    assert "unsafe" not in policy
    with pytest.raises(ValueError):
        playground.content_security_policy("<style></style>")


def test_the_page_loads_nothing_from_elsewhere():
    addresses = re.findall(r"https?://[^\s'\"`]+", playground.page())
    assert addresses == ["http://www.w3.org/2000/svg"]  # a name, never fetched


def test_the_policy_blocks_other_scripts(driver, page):
    driver.execute_script(
        "document.body.insertAdjacentHTML('beforeend',"
        '\'<img src="data:," onerror="document.title = 1">\')'
    )
    page.wait(
        lambda: any(
            "Content Security Policy" in entry["message"]
            for entry in driver.get_log("browser")
        )
    )
    assert page.script("document.title") != "1"


def test_streamed_text_is_whole_wherever_it_is_cut(page, server):
    tokens = [
        (text, -0.5)
        for text in [
            "<b>é</b>",
            " 𝄞",
            "<img src=x onerror=alert(1)>",
            "€\n",
            "x",
        ]
    ]
    stream = b": a comment\n\n" + b"".join(encoded(by_token(tokens)))

    def pieces():  # cut in each character of several bytes, and in "\n\n"
        start = 0
        for cut in re.finditer(rb"[\xc0-\xff]|\n(?=\n)", stream):
            yield stream[start : cut.end()]
            time.sleep(0.03)  # or the pieces would travel together
            start = cut.end()
        yield stream[start:]

    server.chunks = pieces()
    page.type("prompt", "Say <i>: ")
    generated = "".join(text for text, _ in tokens)
    assert page.generate() == f"Say <i>: {generated}"
    assert (
        page.script("document.querySelectorAll('#text :not(span)').length") == 0
    )
    assert [text for text, *_ in page.tokens()] == [text for text, _ in tokens]
    assert page["tokens"].text == "5"
    assert page["finish"].text == "stop"
    assert page["mean"].text == "0.50 nats"
    assert page["first"].text.endswith(" ms")
    assert float(page["rate"].text.replace(",", "")) > 0


def likeliest(tokens):
    """The answer to a request for what could stand in a place."""
    logprobs = {"top_logprobs": [tokens]}
    return [json.dumps({"choices": [{"logprobs": logprobs}]}).encode()]


def test_pointing_at_a_token_shows_the_others(page, server):
    server.streams(by_token([("a", -0.5), ("b", -3.0), ("c", -1.0)]))
    page.type("prompt", "Say ")
    page.generate()
    server.chunks = likeliest(
        {"x": -0.25, " ": -1.5, "<|endoftext|>": -2.5, "bytes:\\xe2": -2.7}
    )
    spans = page.driver.find_elements("css selector", "#text [data-nats]")
    ActionChains(page.driver).move_to_element(spans[1]).perform()
    page.wait(lambda: page["others"].is_displayed())
    asked = server.bodies[-1]
    assert asked["prompt"] == "Say a"
    assert (asked["max_tokens"], asked["logprobs"]) == (1, 5)
    shown = [button.text.split() for button in page.others()]
    assert shown == [["x", "77.9", "%"], ["\u2423", "22.3", "%"],
                     ["<|endoftext|>", "8.2", "%"],
                     ["bytes:\\xe2", "6.7", "%"],
                     ["b", "5.0", "%"]]  # fmt: skip
    # What no prompt can have cannot be chosen.
    enabled = [button.is_enabled() for button in page.others()]
    assert enabled == [True, True, False, False, True]
    page.keys(Keys.ESCAPE)
    assert not page["others"].is_displayed()
    # Asked once; a click goes on from there.
    count = len(server.bodies)
    spans[1].click()
    page.wait(lambda: page["others"].is_displayed())
    assert len(server.bodies) == count
    server.streams(by_token([("y", -1.0)]))
    page.others()[0].click()
    assert page.ended() == "Say axy"
    assert server.bodies[-1]["prompt"] == "Say ax"
    assert not page["others"].is_displayed()
    page["back"].click()
    assert page["prompt"].get_property("value") == "Say "
    assert not page["back"].is_displayed()


def test_tokens_are_reached_by_keys(page, server):
    server.streams(by_token([("a", -0.5), ("b", -3.0)]))
    page.type("prompt", "")
    page.generate()
    server.chunks = likeliest({"x": -0.25})
    page.script("document.getElementById('text').focus()")
    for expected in ("", "a", "a"):
        page.keys(Keys.ARROW_RIGHT)
        page.wait(lambda: page["others"].is_displayed())
        assert server.bodies[-1]["prompt"] == expected
    page.keys(Keys.ARROW_LEFT)
    current = page.driver.find_elements("css selector", "#text .current")
    assert [span.text for span in current] == ["a"]
    # Asked again after another request: the model may be another version.
    server.streams(by_token([("a", -0.5)]))
    page.generate()
    server.chunks = likeliest({"z": -0.25})
    page.script("document.getElementById('text').focus()")
    page.keys(Keys.ARROW_RIGHT)
    page.wait(lambda: "z" in page["others"].text)


def test_a_refusal_stands_in_place_of_the_others(page, server):
    server.streams(by_token([("a", -0.5)]))
    page.generate()
    server.status = 400
    server.chunks = [b'{"error": {"message": "The prompt is too long"}}']
    page.driver.find_element("css selector", "#text [data-nats]").click()
    page.wait(lambda: "The prompt is too long" in page["others"].text)
    assert page["error"].text == ""


@pytest.mark.parametrize(
    "pieces, spans",
    [
        (["e", "\u0301", "a"], ["e\u0301", "a"]),
        (["\U0001f469", "\u200d", "\U0001f4bb", "b"],
         ["\U0001f469\u200d\U0001f4bb", "b"]),
        (["\U0001f44d", "\U0001f3fd"], ["\U0001f44d\U0001f3fd"]),
        (["\u0644", "\u0627"], ["\u0644", "\u0627"]),
    ],
)  # fmt: skip
def test_a_character_is_never_cut(pieces, spans, page, server):
    """Of several code points: the tokens share one colour, their sum."""
    server.streams(by_token([(piece, -1.0) for piece in pieces]))
    page.type("prompt", "")
    assert page.generate() == "".join(pieces)
    tokens = page.tokens()
    assert [text for text, *_ in tokens] == spans
    assert sum(float(nats) for _, nats, _ in tokens) == len(pieces)


def test_the_address_has_the_prompt_and_the_changed_settings(page, server):
    page.type("prompt", "a & b")
    page.type("temperature", "0.5")
    page.wait(lambda: "temperature=0.5" in page.driver.current_url)
    address = page.driver.current_url
    assert address.endswith("#temperature=0.5&prompt=a+%26+b")
    page.driver.get("about:blank")
    page.driver.execute_cdp_cmd(
        "Storage.clearDataForOrigin",
        {"origin": server.origin, "storageTypes": "local_storage"},
    )
    page.driver.get(address)
    page.wait(lambda: "language model" in page["card"].text)
    assert page["prompt"].get_property("value") == "a & b"
    server.streams(by_token([("x", -1.0)]))
    page.generate()
    assert server.bodies[-1]["temperature"] == 0.5
    assert not server.paths[-1].count("#")
    # A link leaves a long one out; reloading the page keeps it.
    page.driver.execute_script(
        "const box = document.getElementById('prompt');"
        "box.value = arguments[0];"
        "box.dispatchEvent(new Event('input', {bubbles: true}));",
        "ab " * 700,
    )
    page.wait(lambda: "prompt=" not in page.driver.current_url)
    page.driver.refresh()
    page.wait(lambda: "language model" in page["card"].text)
    assert page["prompt"].get_property("value") == "ab " * 700


def test_a_page_from_before_the_server_was_ready_keeps_the_prompt(
    driver, page, server, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(server, "models", [])
        driver.get(server.origin)
        page.wait(lambda: "no model" in page["error"].text)
    server.streams(by_token([("b", -1.0)]))
    page.type("prompt", "a")
    assert page.generate() == "ab"
    assert page["continue"].get_attribute("aria-disabled") == "false"
    assert page["drawn"].text != "null"


def test_a_link_keeps_its_model_and_resets_the_other_settings(
    driver, page, server
):
    """Also while the list of models is not there."""
    page.type("top_k", "40")  # is remembered
    server.models = [
        {"id": "one", "card": ["A first language model."]},
        {"id": "two", "card": ["A second language model."]},
    ]
    server.key = "my-key"
    driver.get("about:blank")
    driver.get(f"{server.origin}/#model=two&temperature=0.5")
    page.wait(lambda: "asks for an API key" in page["card"].text)
    page.type("prompt", "a")
    page.wait(lambda: driver.current_url.endswith("&prompt=a"))
    assert "#model=two&temperature=0.5&" in driver.current_url
    page.type("key", "my-key")
    page.keys(Keys.TAB)
    page.wait(lambda: page["card"].text == "A second language model.")
    assert page["temperature"].get_property("value") == "0.5"
    assert page["top_k"].get_property("value") == "0"


def chat_stream(tokens):
    """A stream of a chat, two tokens per event, of their bytes and log p."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(tokens), 2):
        text, content = "", []
        for token, log_prob in tokens[start : start + 2]:
            text += decoder.decode(token)
            name = token.decode("utf-8", "backslashreplace")
            if "\\x" in name:
                name = f"bytes:{name}"
            content.append(
                {"token": name, "logprob": log_prob, "bytes": [*token]}
            )
        yield {
            "choices": [
                {"delta": {"content": text}, "logprobs": {"content": content}}
            ]
        }
    yield {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}
    yield {"choices": [], "usage": {"completion_tokens": len(tokens)}}
    yield "[DONE]"


def test_a_chat_sends_all_messages(page, server):
    assert not page["modes"].is_displayed()
    server.models = [{"id": "pydoc", "card": CARD, "chat": True}]
    page.driver.refresh()
    page.wait(lambda: page["modes"].is_displayed())
    page.driver.find_element("css selector", "[value=chat]").click()
    assert page["generate"].text == "Send"
    messages = []
    for number, reply in enumerate(["Hi", "Yes"]):
        server.streams(chat_stream([(reply.encode(), -0.5), (b"!", -2.0)]))
        page.type("prompt", f"Question {number}")
        page.generate()
        assert server.paths[-1] == "/v1/chat/completions"
        messages.append({"role": "user", "content": f"Question {number}"})
        assert server.bodies[-1]["messages"] == messages
        assert "prompt" not in server.bodies[-1]
        messages.append({"role": "assistant", "content": f"{reply}!"})
    assert page["text"].text.split("\n") == [
        "You", "Question 0", "pydoc", "Hi!", "You", "Question 1", "pydoc",
        "Yes!",
    ]  # fmt: skip
    assert [text for text, *_ in page.tokens()] == ["Hi", "!", "Yes", "!"]
    assert "chat.completions" in page.script(
        "document.getElementById('python').textContent"
    )
    page["clear"].click()
    assert page["text"].text == "" == page["status"].text
    server.streams(
        chat_stream(
            [(b"x", -3.0), (b"\xc3", -1.0), (b"\xa9", -1.5), (b"y", -0.5)]
        )
    )
    page.type("prompt", "a")
    page.generate()
    assert [token[:2] for token in page.tokens()] == [
        ["x", "3.0"], ["\u00e9", "2.5"], ["y", "0.5"],
    ]  # fmt: skip


def test_what_clears_the_text_ends_the_request(page, server):
    """The rest of the stream is in no later chat, and in no other text."""

    def choose(mode):
        page.driver.find_element("css selector", f"[value={mode}]").click()

    def begin(prompt):
        """Sends a message whose answer does not end."""
        server.closed.clear()
        server.chunks = endless(server)
        page.type("prompt", prompt)
        page["generate"].click()
        page.wait(page.tokens)

    def is_clear():
        assert server.closed.wait(PATIENCE)
        assert page["text"].get_property("textContent") == ""
        assert page["status"].text == "" == page["error"].text
        assert page["generate"].get_attribute("aria-disabled") == "false"

    def answer(prompt):
        """Sends a message; returns all messages."""
        server.streams(chat_stream([(b"b", -1.0)]))
        page.type("prompt", prompt)
        assert page.generate().endswith("b")
        return server.bodies[-1]["messages"]

    server.models = [
        {"id": "one", "card": ["A language model."], "chat": True},
        {"id": "two", "card": ["Another language model."], "chat": True},
    ]
    page.driver.refresh()
    page.wait(lambda: page["modes"].is_displayed())
    choose("chat")
    begin("first")
    page.type("prompt", "second")
    page["clear"].click()
    is_clear()
    assert page["prompt"].get_property("value") == "second"
    assert answer("second") == [{"role": "user", "content": "second"}]
    begin("third")
    page.choose("two")
    is_clear()
    assert answer("fourth") == [{"role": "user", "content": "fourth"}]
    begin("fifth")
    choose("text")
    is_clear()
    server.streams(by_token([("b", -1.0)]))
    page.type("prompt", "a")
    assert page.generate() == "ab"


def test_a_link_chooses_the_mode_and_reset_leaves_it(page, server):
    server.models = [{"id": "pydoc", "card": CARD, "chat": True}]
    page.driver.refresh()
    page.wait(lambda: page["modes"].is_displayed())
    # Names that are no settings have no effect.
    page.driver.execute_script("location.hash = 'mode=chat&top_k=3&length=5'")
    page.wait(lambda: page["generate"].text == "Send")
    assert page["top_k"].get_property("value") == "3"
    page.driver.find_element("css selector", "[value=lines]").click()
    page["reset"].click()
    assert page["top_k"].get_property("value") == "0"
    assert page["generate"].text == "Send"
    assert page["result"].get_attribute("className") == "lines"
    server.streams(chat_stream([(b"b", -1.0)]))
    page.generate()
    assert server.paths[-1] == "/v1/chat/completions"


def test_what_the_model_does_not_know_is_counted(page, server):
    server.unknown = "\ufffd"
    server.streams(by_token([("b", -1.0)]))
    page.type("prompt", "th\u00e9 ")
    page.generate()
    page.wait(
        lambda: (
            page["unknown"].text
            == "Not in the vocabulary: 1 of 4 tokens of the prompt."
        )
    )
    page["prompt"].send_keys("a")
    assert page["unknown"].text == ""


def test_events_may_be_separated_by_crlf(page, server):
    stream = b"".join(encoded(by_token([("a", -1.0), ("b", -1.0)])))
    server.chunks = [stream.replace(b"\n", b"\r\n")]
    page.type("prompt", "")
    assert page.generate() == "ab"


def test_surprise_is_shown_as_colour_line_and_number(page, server):
    server.streams(by_token([("sure", -0.01), ("odd", -9.0), ("\n", -1.0)]))
    page.generate()
    (_, low, pale), (_, high, dark), _ = page.tokens()
    assert (low, high) == ("0.0", "9.0")
    assert pale != dark
    spans = page.driver.find_elements("css selector", "#text [data-nats]")
    about = spans[1].get_attribute("data-about")
    assert about == "9.00 nats, probability 0.00012"

    def background():
        return page.script(
            "getComputedStyle(arguments[0]).background", spans[1]
        )

    def number(span=spans[1]):
        return page.script(
            "getComputedStyle(arguments[0], '::after').content", span
        )

    def choose(view):
        page.driver.find_element("css selector", f"[value={view}]").click()

    choose("lines")
    assert "linear-gradient" in background()
    assert number() == "none"
    choose("numbers")
    assert number() == '"9.0"'
    assert number(spans[0]) == "none"  # those of 1 and more
    choose("plain")
    assert page.tokens()[0][2] == page.tokens()[1][2]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (  # the bytes of a character, in two events
            [
                event("", [("bytes:\\xe2", -0.5)], [0]),
                event(
                    "€!",
                    [("bytes:\\x82", -1.0), ("bytes:\\xac", -1.0), ("!", -2.0)],
                    [0, 0, 1],
                ),
            ],
            [["€", "2.5"], ["!", "2.0"]],
        ),
        (  # the same as other servers name it
            [event(" €", [(" \ufffd", -1.0), ("", -2.0)], [0, 1])],
            [[" ", "1.0"], ["€", "2.0"]],
        ),
        (  # offsets that each event counts anew
            [
                event("ab", [("a", -1.0), ("b", -2.0)], 0),
                event("cd", [("c", -3.0), ("d", -4.0)], 0),
            ],
            [["a", "1.0"], ["b", "2.0"], ["c", "3.0"], ["d", "4.0"]],
        ),
        (  # offsets that begin after the prompt
            [
                event("ab", [("a", -1.0), ("b", -2.0)], 7),
                event("cd", [("c", -3.0), ("d", -4.0)], 9),
            ],
            [["a", "1.0"], ["b", "2.0"], ["c", "3.0"], ["d", "4.0"]],
        ),
        (  # text that is held back: it could be the beginning of a stop string
            [
                event("a", [("a", -1.0), ("b", -2.0)], 0),
                event("bc", [("c", -3.0)], 2),
                event("", [("de", -4.0)], 3),
                event("d", []),
            ],
            [["a", "1.0"], ["b", "2.0"], ["c", "3.0"], ["d", "4.0"]],
        ),
        (  # a token that comes when its last character does
            [
                event("a", [("a", -1.0)], 0),
                event("he"),
                event("l p", [("hel", -2.0), (" p", -3.0)], 1),
            ],
            [["a", "1.0"], ["hel", "2.0"], [" p", "3.0"]],
        ),
        (  # code points, not the halves of JavaScript
            [event("𝄞𝄞x", [("𝄞", -1.0), ("𝄞", -2.0), ("x", -3.0)], 0)],
            [["𝄞", "1.0"], ["𝄞", "2.0"], ["x", "3.0"]],
        ),
        (  # offsets that do not fit: one colour an event, of the mean
            [
                event("éa", [("é", -1.0), ("xyz", -2.0), ("a", -6.0)], 0),
                event("b", [("b", -5.0)], 1),
            ],
            [["éa", "3.0"], ["b", "5.0"]],
        ),
        ([{"choices": [{"text": "no log p"}]}], []),
    ],
)
def test_tokens_are_shown_as_text(page, server, events, expected):
    server.streams([*events, event(finish="length"), "[DONE]"])
    page.type("prompt", "")
    text = "".join(e["choices"][0]["text"] for e in events)
    assert page.generate() == text
    assert [token[:2] for token in page.tokens()] == expected


def endless(server):
    """A stream that ends when the client leaves."""
    for number in itertools.count():
        yield from encoded([event("a", [("a", -1.0)], number)])
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_closes_the_connection(page, server, how):
    server.chunks = endless(server)
    page["generate"].click()
    page.wait(lambda: len(page.tokens()) > 2)
    if how == "button":
        page["stop"].click()
    else:
        page.keys(Keys.ESCAPE)
    assert page.ended().startswith("The aaa")
    assert server.closed.wait(PATIENCE)
    assert page["finish"].text == "you"
    assert page["error"].text == ""
    server.streams(by_token([("b", -1.0)]))
    assert page.generate() == "The b"  # and it can begin again


def test_a_refusal_is_shown(page, server):
    server.status = 400
    server.chunks = [
        json.dumps({"error": {"message": "top_p: <b>no</b>"}}).encode()
    ]
    page.generate()
    assert page["error"].text == "top_p: <b>no</b> (400 Bad Request)"
    server.status = 200
    server.streams(by_token([("b", -1.0)]))
    assert page.generate() == "The b"
    assert page["error"].text == ""


def test_a_key_is_asked_for_and_sent(driver, page, server):
    assert not page["key"].is_displayed()
    server.key = "my-key"
    server.streams(by_token([("a", -1.0)]))
    driver.get(server.origin)
    page.wait(lambda: "asks for an API key" in page["card"].text)
    assert page["error"].text == ""
    assert driver.switch_to.active_element == page["key"]
    page.keys("wrong", Keys.TAB)
    page.wait(lambda: "missing API key (401" in page["error"].text)
    assert server.paths.count("/v1/models") == 3
    page.type("key", "my-key")
    page.keys(Keys.TAB)
    page.wait(lambda: "language model" in page["card"].text)
    assert page["error"].text == ""
    assert page.generate() == "The a" and len(server.bodies) == 1
    assert "my-key" not in page.script("JSON.stringify({...localStorage})")
    page["call"].find_element("css selector", "summary").click()
    assert "Bearer YOUR-KEY" in page["curl"].text
    assert 'api_key="YOUR-KEY"' in page["python"].text
    driver.get_log("browser")


def test_an_error_in_the_middle_keeps_the_text(page, server):
    server.streams(
        [event("b", [("b", -1.0)], 0), {"error": {"message": "too late"}}]
    )
    assert page.generate() == "The b"
    assert page["error"].text == "too late"


def test_a_stream_that_breaks_off_is_an_error(page, server):
    server.streams([event("b", [("b", -1.0)], 0)])
    assert page.generate() == "The b"
    assert "closed too early" in page["error"].text


def test_settings_are_sent_and_remembered(page, server):
    server.streams(by_token([("b", -1.0)]))
    page.type("prompt", "Once\nupon")
    page.type("temperature", "1.254")
    page["top_p-slider"].send_keys(Keys.ARROW_LEFT * 3)
    page.type("top_k", "40")
    page.type("repetition_penalty", "1.1")
    page.type("max_tokens", "4000")
    page.type("seed", "7")
    page.type("stops", "\\n\\n\n end\n\n")
    page.generate()
    assert server.bodies == [
        {
            "model": "pydoc",
            "prompt": "Once\nupon",
            "temperature": 1.254,
            "top_p": 0.97,
            "top_k": 40,
            "repetition_penalty": 1.1,
            "max_tokens": 4000,
            "seed": 7,
            "stop": ["\n\n", " end"],
            "logprobs": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    page.driver.refresh()
    page.wait(lambda: "language model" in page["card"].text)
    server.streams(by_token([("b", -1.0)]))
    page.type("prompt", "Once\nupon")
    page.generate()
    assert server.bodies[0] == server.bodies[1]
    assert page["temperature-slider"].get_property("value") == "1.25"
    page["reset"].click()
    assert page["temperature"].get_property("value") == "0.8"


def test_a_random_seed_is_shown_and_kept(page, server):
    server.streams(by_token([("b", -1.0)]))
    page.generate()
    seed = server.bodies[0]["seed"]
    assert page["drawn"].text == str(seed)
    assert "stop" not in server.bodies[0]
    server.streams(by_token([("b", -1.0)]))
    page.generate()
    assert server.bodies[1]["seed"] != seed
    page["keep"].click()
    assert page["seed"].get_property("value") == page["drawn"].text
    assert page.script("document.activeElement.id") == "seed"


def test_a_value_out_of_range_is_not_sent(page, server):
    page.type("temperature", "3")
    page["generate"].click()
    assert page.script("document.activeElement.id") == "temperature"
    assert server.bodies == []


def test_control_enter_generates_and_continue_goes_on(page, server):
    server.streams(by_token([("b", -1.0), ("c", -1.0)]))
    page.type("prompt", "a")
    page.chord(Keys.CONTROL, Keys.ENTER)
    assert page.ended() == "abc"
    server.streams(by_token([("d", -1.0)]))
    page["continue"].click()
    page.wait(lambda: len(server.bodies) == 2)
    assert page.ended() == "abcd"
    assert server.bodies[1]["prompt"] == "abc"
    assert page["prompt"].get_property("value") == "abc"
    assert len(page.tokens()) == 3  # the colours of before are still there
    page["prompt"].send_keys("!")
    assert page["continue"].get_attribute("aria-disabled") == "true"


def test_copy_puts_the_text_on_the_clipboard(page, server):
    server.streams(by_token([("b", -1.0)]))
    page["copy"].click()  # there is no text
    assert page["copy"].text == "Copy"
    page.generate()
    page["copy"].click()
    page.wait(lambda: page["copy"].text == "Copied")
    page["prompt"].clear()
    page["prompt"].click()
    page.chord(Keys.CONTROL, "v")
    assert page["prompt"].get_property("value") == "The b"
    page.driver.execute_script(
        "Object.defineProperty(navigator, 'clipboard', { value: null });"
        "document.execCommand = () => false;"
    )
    page["copy"].click()
    page.wait(lambda: page["copy"].text == "Not copied")


def test_one_of_several_models_can_be_chosen(page, server):
    server.models = [
        {"id": "one", "card": ["A first language model."]},
        {"id": "two", "card": ["A second language model."]},
    ]
    server.streams(by_token([("b", -1.0)]))
    page.driver.refresh()
    page.wait(lambda: page["card"].text == "A first language model.")
    page["model"].send_keys("two")
    assert page["card"].text == "A second language model."
    page.generate()
    assert server.bodies[0]["model"] == "two"


def test_a_single_model_needs_no_choice(page):
    assert page["card"].text == f"pydoc. {' '.join(CARD)}"
    assert not page["model"].is_displayed()


def test_shown_api_calls_match_the_form(page, server, monkeypatch, capsys):
    prompt = """It's "so" \\n\n"""
    page.type("prompt", prompt)
    page.type("seed", "7")
    page.type("stops", "\\n")
    server.streams(by_token([("b", -1.0)]))
    page.generate()
    (asked,) = server.bodies
    for name in ("stream", "stream_options", "logprobs"):
        del asked[name]
    assert asked["prompt"] == prompt

    page.driver.find_element("css selector", "summary").click()
    _, address, *_, body = shlex.split(page["curl"].text)
    assert address == f"{server.origin}/v1/completions"
    assert json.loads(body) == asked

    openai = mock.Mock()
    create = openai.OpenAI.return_value.completions.create
    create.return_value = [mock.Mock(choices=[mock.Mock(text="b")])]
    monkeypatch.setitem(sys.modules, "openai", openai)
    exec(page["python"].text, {})
    assert openai.OpenAI.call_args.kwargs["base_url"] == f"{server.origin}/v1"
    options = create.call_args.kwargs
    assert options.pop("stream") is True
    assert options.pop("extra_body") | options == asked
    assert capsys.readouterr().out == "b"


def test_the_keyboard_reaches_everything(page):
    controls = page.script(
        "[...document.querySelectorAll('button, input, select, textarea, "
        "summary, #text')].filter(e => e.checkVisibility() "
        "&& (e.type !== 'radio' || e.checked)).map(e => e.id || e.localName)"
    )
    reached = []
    for _ in range(len(controls)):
        page.keys(Keys.TAB)
        reached.append(
            page.script(
                "document.activeElement.id || document.activeElement.localName"
            )
        )
    assert reached == controls


def test_every_control_has_an_accessible_name(page):
    page.driver.find_element("css selector", "summary").click()
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
    nodes = [
        (node["role"]["value"], node["name"]["value"])
        for node in tree["nodes"]
        if not node["ignored"]
        and any(p["name"] == "focusable" for p in node.get("properties", []))
    ]
    assert ("slider", "Temperature") in nodes
    assert ("button", "Copy the curl command") in nodes
    assert [role for role, name in nodes if not name.strip()] == []


def test_screen_readers_hear_the_beginning_and_the_end_only(page, server):
    live = page.script(
        "[...document.querySelectorAll('[role=status], [role=alert], "
        "[aria-live]')].map(e => e.id)"
    )
    assert live == ["error", "status"]
    server.streams(by_token([("b", -1.0)] * 5))
    page.driver.execute_script(
        "const status = document.getElementById('status'); window.said = [];"
        "new MutationObserver(() => said.push(status.textContent))"
        ".observe(status, {childList: true})"
    )
    page.generate()
    assert page.script("said") == ["Generating …", "5 tokens, ended by stop."]


@contextlib.contextmanager
def emulated(driver, **settings):
    for command, values in settings.items():
        driver.execute_cdp_cmd(f"Emulation.{command}", values)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_narrow_screens_scroll_vertically_only(driver, page, server):
    server.streams(by_token([("a" * 200, -1.0)]))
    screen = {
        "width": 320,
        "height": 640,
        "deviceScaleFactor": 1,
        "mobile": True,
    }
    with emulated(driver, setDeviceMetricsOverride=screen):
        page.type("prompt", "a" * 50)
        page.driver.find_element("css selector", "summary").click()
        for view in ("numbers", "colours"):
            driver.find_element("css selector", f"[value={view}]").click()
        page.generate()
        assert page.script("innerWidth") == 320
        assert page.script("document.documentElement.scrollWidth") == 320


CONTRASTS = """(() => {
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const drawn = (...colours) => {
    for (const colour of colours) {
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
    }
    const levels = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3)
      .map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * levels[0] + 0.7152 * levels[1] + 0.0722 * levels[2];
  };
  const results = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some(
      (node) => node.nodeType === 3 && node.data.trim());
    if (!hasText || !element.checkVisibility()) continue;
    if (element.ariaDisabled === "true") continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) {
      behind.unshift(getComputedStyle(at).backgroundColor);
    }
    const paper = drawn("white", ...behind);
    const ink = drawn("white", ...behind, getComputedStyle(element).color);
    const [low, high] = [paper, ink].sort((a, b) => a - b);
    results.push([element.id || element.localName,
                  (high + 0.05) / (low + 0.05)]);
  }
  return results;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(driver, page, server, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    server.streams(
        [
            event("odd", [("odd", -9.0)], 0),
            event("sure", [("sure", -0.1)], 3),
            {"error": {"message": "an error"}},
        ]
    )
    with emulated(driver, setEmulatedMedia={"features": features}):
        page.generate()
        driver.find_element("css selector", "summary").click()
        contrasts = page.script(CONTRASTS)
        paper = page.script("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(250, 249, 246)") == (scheme == "light")
    assert len(contrasts) > 40
    assert [(name, c) for name, c in contrasts if c < 4.5] == []


def test_animation_stops_where_reduced_motion_is_preferred(
    driver, page, server
):
    server.chunks = endless(server)
    page["generate"].click()
    page.wait(lambda: page.tokens())

    def animation():
        return page.script(
            "getComputedStyle(document.getElementById('text'), '::after')"
            ".animationName"
        )

    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    assert animation() == "blink"
    with emulated(driver, setEmulatedMedia={"features": features}):
        assert animation() == "none"
    page.keys(Keys.ESCAPE)
    page.ended()


def test_the_page_asked_no_other_server(driver, page, server):
    log = [
        json.loads(entry["message"])["message"]
        for entry in driver.get_log("performance")
    ]
    addresses = {
        message["params"]["request"]["url"]
        for message in log
        if message["method"] == "Network.requestWillBeSent"
    }
    assert f"{server.origin}/v1/models" in addresses
    assert [
        address
        for address in addresses
        if not address.startswith((server.origin, "data:"))
    ] == []


# A classifier -----------------------------------------------------------------


@pytest.fixture
def labels(page, server):
    """The page of a server with a classifier and a language model."""
    server.models = [
        {"id": "films", "card": ["A classifier."], "task": "classifier"},
        {"id": "pydoc", "card": CARD, "task": "language_model"},
    ]
    server.predicts(
        labels="good", scores=[0.125, 0.875], classes=["bad", "good"]
    )
    page.driver.refresh()
    page.wait(lambda: "language model" in page["card"].text)
    page.choose("films")
    assert page["card"].text == "A classifier."
    return page


def test_a_classifier_shows_labels(labels, server):
    labels.type("prompt", "it's fine")
    assert labels["generate"].text == "Label"
    assert not labels["settings"].is_displayed()
    labels["generate"].click()
    labels.wait(lambda: labels["status"].text == "Label: good.")
    assert server.paths[-1] == "/v1/models/films:predict"
    assert server.bodies == [{"instances": ["it's fine"]}]
    assert labels["text"].text.split() == [
        "good",
        "87.5",
        "%",
        "bad",
        "12.5",
        "%",
    ]
    names = labels.script(
        "[...document.querySelectorAll('meter')].map(one => [one.value, "
        "one.ariaLabel])"
    )
    assert names == [[0.875, "good: 87.5 %"], [0.125, "bad: 12.5 %"]]
    command = labels["curl"].get_property("textContent")
    words = shlex.split(command.replace("\\\n", ""))
    assert words[1] == f"{server.origin}/v1/models/films:predict"
    assert json.loads(words[-1]) == server.bodies[0]


def test_choosing_a_language_model_shows_the_generator_again(labels):
    labels["generate"].click()
    labels.wait(lambda: "Label" in labels["status"].text)
    labels["model"].send_keys("pydoc")
    labels.wait(lambda: labels["generate"].text == "Generate")
    assert labels["settings"].is_displayed()
    assert labels["text"].text == ""


def test_a_failed_prediction_is_shown(labels, server):
    server.status = 404
    server.chunks = [b'{"error": "draining"}']
    labels["generate"].click()
    labels.wait(lambda: "draining (404" in labels["error"].text)


# A seq2seq model --------------------------------------------------------------


@pytest.fixture
def rewrites(page, server):
    """The page of a server with a seq2seq and a language model."""
    server.models = [
        {"id": "dates", "card": ["A translator."], "task": "seq2seq"},
        {"id": "pydoc", "card": CARD, "task": "language_model"},
    ]
    server.predicts(
        outputs="b c",
        scores=-0.2,
        attention=[[0.998, 0.002], [0.25, 0.75], [0.0, 1.0], [0.5, 0.5]],
        text_tokens=["abc", ""],
        output_tokens=["b", " ", "c", ""],
    )
    page.driver.refresh()
    page.wait(lambda: "language model" in page["card"].text)
    page.choose("dates")
    assert page["card"].text == "A translator."
    return page


def test_a_seq2seq_model_rewrites(rewrites, server, capsys):
    rewrites.type("prompt", """it's "abc" """)
    assert rewrites["generate"].text == "Rewrite"
    assert not rewrites["settings"].is_displayed()
    assert not rewrites["attention"].is_displayed()
    rewrites["generate"].click()
    rewrites.wait(lambda: rewrites["status"].text == "Probability: 81.9 %.")
    assert rewrites["text"].text == "b c"
    assert set(server.paths[-2:]) == {"/v1/models/dates:predict"}
    whole, align = server.bodies
    assert whole == {"instances": ["""it's "abc" """]}
    assert align == {
        "signature_name": "align",
        "instances": [{"texts": """it's "abc" """, "outputs": "b c"}],
    }

    command = rewrites["curl"].get_property("textContent")
    words = shlex.split(command.replace("\\\n", ""))
    assert words[1] == f"{server.origin}/v1/models/dates:predict"
    assert json.loads(words[-1]) == whole
    exec(rewrites["python"].get_property("textContent"), {})
    assert server.bodies[2:] == [whole]
    assert "'outputs': 'b c'" in capsys.readouterr().out


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_attention_is_shown_as_a_map(driver, rewrites, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    with emulated(driver, setEmulatedMedia={"features": features}):
        rewrites["generate"].click()
        rewrites.wait(lambda: rewrites["map"].is_displayed())
        contrasts = rewrites.script(CONTRASTS)
    assert ["td", "th"] == sorted(
        {name for name, _ in contrasts} & {"td", "th"}
    )
    assert [(name, c) for name, c in contrasts if c < 4.5] == []
    assert rewrites.script(
        "[...document.querySelectorAll('#map tr')].map(row => "
        "[...row.cells].map(cell => cell.textContent))"
    ) == [
        ["", "abc", "end"],
        ["b", "100", ""],
        ["\u2423", "25", "75"],
        ["c", "", "100"],
        ["end", "50", "50"],
    ]
    scopes = "[...document.querySelectorAll('#map th')].map(one => one.scope)"
    assert rewrites.script(scopes) == ["col"] * 2 + ["row"] * 4
    rewrites["model"].send_keys("pydoc")
    rewrites.wait(lambda: rewrites["generate"].text == "Generate")
    assert not rewrites["map"].is_displayed()


def test_a_wide_map_scrolls_within_the_page(driver, rewrites, server):
    server.predicts(
        outputs="b", scores=-0.2, attention=[[0.01] * 100] * 2,
        text_tokens=["a"] * 99 + [""], output_tokens=["b", ""],
    )  # fmt: skip
    screen = {
        "width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": True,
    }  # fmt: skip
    with emulated(driver, setDeviceMetricsOverride=screen):
        rewrites["generate"].click()
        rewrites.wait(lambda: rewrites["map"].is_displayed())
        assert rewrites.script(
            "document.getElementById('map').offsetWidth > 999"
        )
        assert rewrites.script("document.documentElement.scrollWidth") == 320


def test_long_texts_have_no_attention_map(rewrites, server):
    server.predicts(outputs="b" * 2000, scores=-0.2)
    rewrites.type("prompt", "a" * 11)
    rewrites["generate"].click()
    rewrites.wait(lambda: "Probability" in rewrites["status"].text)
    assert len(server.bodies) == 1
    assert not rewrites["attention"].is_displayed()

"""Models in one HTML page: the numbers in it, and the page in a browser.

The script has no modules: its functions are called by name.
"""

import dataclasses
import html.parser
import json
import random
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import configs, inference, tokenizers
from stacked_rnn.decoding import samplers
from stacked_rnn.export import html_page, runtimes
from tests.helpers import browsers, exports
from tests.helpers.small_models import build_generator

# Beside those of the fixtures: a GRU, an LSTM, and a GRU with an end token.
ARCHITECTURES = {
    "simple_rnn": {
        "cell": "simple_rnn", "num_layers": 1, "readout_layers": "concat",
    },
    "dense": {
        "cell": "lstm", "num_layers": 3, "cap_input_gate": True,
        "embedding_to_all_layers": True, "readout_layers": "concat",
    },
    "projected": {
        "cell": "lstm", "tie_embeddings": True, "readout_layers": "concat",
        "residual": True,
    },
    "same_widths": {
        "num_layers": 3, "embedding_dim": 6, "tie_embeddings": True,
        "readout_layers": "sum", "residual": True,
    },
}  # fmt: skip
AWKWARD = (
    "", " ", "\n", "abc", "  two  spaces ", "Caf\u00e9 e\u0301\u0300",
    "\U0001f469\u200d\U0001f52c\U0001f1e9\U0001f1ea!",
    "a\r\nb\rc\td\x0be\x0cf", "\u00a0x\u2003y\u3000z\x85\u2028\u2029",
    "it's we'll 'tis ''so''s x1 12345", "\ufffd\ufeff\u0000\x7f",
    "\u65e5\u672c\u8a9e\u306e\u3002\u0928\u092e\u0938",
    "<unk></script><!--", "snake_case_ \u00bd\u0663 --==--",
    "the the\n\n  the", "a\\nb\n#\n\n#\n", "x" * 300 + "\u20ac" * 100,
    "THE Cat, the\tdog", "a\u20acb\u20ac\u20ac",
)  # fmt: skip
CORPUS = "the cat and the dog\n  it's the \u20ac and caf\u00e9 12\n" * 9


class Page:
    """A page that the browser has opened from the disk."""

    def __init__(self, driver, path):
        self.driver = driver
        driver.get(path.as_uri())

    def __getitem__(self, id):
        return self.driver.find_element("id", id)

    def script(self, source, *arguments):
        return self.driver.execute_script(source, *arguments)

    def value(self, expression, *arguments):
        return self.script(f"return {expression}", *arguments)

    def wait(self):
        """Waits until everything is read and written; returns the text."""
        waits = pytest.importorskip("selenium.webdriver.support.wait")
        waits.WebDriverWait(self.driver, 30, 0.02).until(
            lambda _: not self.value("isLooping")
        )
        return self["text"].get_property("value")

    def type(self, text):
        """Replaces the text, as a person does."""
        self.script(
            "$('text').value = arguments[0];"
            "$('text').dispatchEvent(new Event('input'));",
            text,
        )
        return self.wait()

    def write(self, **settings):
        """Presses the button; returns the whole text."""
        for name, value in settings.items():
            self.script("$(arguments[0]).value = arguments[1]", name, value)
        self["go"].click()
        return self.wait()

    def forces(self, token_ids):
        """Lets the page draw these tokens, and then the first of them."""
        self.script(
            "window.forced = [...arguments[0]];"
            "draw = () => forced.length ? forced.shift() : arguments[0][0];",
            token_ids,
        )


@pytest.fixture
def open_page(browser, tmp_path):
    """Writes a model as a page, opens it; fails on errors in the browser."""
    browser.get_log("browser")

    def write_and_open(model, weights="float32"):
        path = tmp_path / "model.html"
        runtimes.write(model, path, weights)
        return Page(browser, path)

    yield write_and_open
    assert browser.get_log("browser") == []


@pytest.fixture(
    scope="module", params=["letters", "others", "lines", *ARCHITECTURES]
)
def model(request, loaded, saved_models, loaded_lines, tmp_path_factory):
    if request.param == "letters":
        return loaded
    if request.param == "lines":
        return loaded_lines
    if request.param == "others":
        return inference.load(saved_models / "others")
    generator = build_generator(**ARCHITECTURES[request.param])
    with exports.in_memory():
        return inference.load(generator.save(tmp_path_factory.mktemp("model")))


def with_tokenizer(model, tokenizer):
    """A model with another tokenizer, which does not fit its vocabulary."""
    description = dataclasses.replace(model.description, tokenizer=tokenizer)
    return dataclasses.replace(model, description=description)


def expected_logits(model, token_ids):
    """The logits of `decode_step` after each token, [tokens, vocabulary]."""
    states, found = model.initial_states(1), []
    for token_id in token_ids:
        new = model.functions.signatures["decode_step"](
            token_ids=tf.constant([token_id]),
            **{name: tf.constant(states[name]) for name in states},
        )
        found.append(new["logits"][0].numpy())
        states = {name: new[name].numpy() for name in states}
    return np.stack(found)


JS_LOGITS = """
let state = initialState();
return arguments[0].map((id) => {
  const found = step(id, state);
  state = found.state;
  return [...found.logits];
});
"""


def token_ids_of(rng, model, count=60):
    size = model.model_config.vocabulary_size
    return rng.integers(size, size=count, dtype="i4").tolist()


# Numbers ----------------------------------------------------------------------


def test_the_page_computes_what_the_saved_model_does(model, tmp_path, rng):
    """In NumPy, for every architecture, with the state carried."""
    path = tmp_path / "model.html"
    runtimes.write(model, path, "float32")
    run = runtimes.load(path)
    token_ids = token_ids_of(rng, model)
    states, found = model.initial_states(1), []
    for token_id in token_ids:
        logits, states = run(np.array([token_id], np.int32), states)
        found.append(logits[0])
    expected = expected_logits(model, token_ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@browsers.needed
def test_the_script_computes_what_the_saved_model_does(model, open_page, rng):
    token_ids = token_ids_of(rng, model)
    found = open_page(model).script(JS_LOGITS, token_ids)
    expected = expected_logits(model, token_ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@browsers.needed
@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_the_script_reads_small_weights_as_load_does(
    loaded, open_page, weights, tmp_path, rng
):
    """What --text measures is what the page computes."""
    token_ids = token_ids_of(rng, loaded)
    found = open_page(loaded, weights).script(JS_LOGITS, token_ids)
    run = runtimes.load(tmp_path / "model.html")
    states = loaded.initial_states(1)
    for token_id, logits in zip(token_ids, found):
        expected, states = run(np.array([token_id], np.int32), states)
        np.testing.assert_allclose(logits, expected[0], atol=1e-5)
    exact = expected_logits(loaded, token_ids)
    assert np.abs(exact - found).max() > 1e-4  # they are rounded


def test_rounding_to_int8_errs_by_half_a_step_at_most(rng):
    matrix = rng.normal(size=[20, 30]).astype(np.float32)
    matrix *= np.logspace(-4, 4, 20, dtype=np.float32)[:, None]
    matrix[3] = 0
    scales, rounded = html_page.quantize(matrix)
    assert scales.dtype == np.float32 and rounded.dtype == np.int8
    assert rounded.min() >= -127 and not rounded[3].any()
    assert (np.abs(rounded).max(axis=1) == 127).sum() == 19
    error = np.abs(matrix - rounded * scales[:, None])
    assert (error <= 0.5001 * scales[:, None]).all()


def test_an_lstm_of_two_layers_fits_into_a_megabyte(loaded, tmp_path):
    """At the size of `make demo`: 2 x 192, 97 characters."""
    characters = "".join(map(chr, range(32, 127)))
    generator = build_generator(
        "lstm", tokenizers.build("char", characters.encode()), units=192,
        embedding_dim=128, embedding_to_all_layers=True,
        readout_layers="concat",
    )  # fmt: skip
    model = dataclasses.replace(
        loaded,
        functions=generator,
        description=dataclasses.replace(
            loaded.description,
            model_config=generator.model.config,
            tokenizer=generator.tokenizer,
        ),
    )
    path = tmp_path / "demo.html"
    runtimes.write(model, path)
    assert path.stat().st_size < 1_000_000


def test_the_size_of_a_large_page_is_said(
    loaded, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(html_page, "_LARGE", 10_000)
    runtimes.write(loaded, tmp_path / "a.html", "float16")
    note = capsys.readouterr().err
    assert re.fullmatch(r"note: the page has 0\.\d MB; --weights=.*\n", note)
    runtimes.write(loaded, tmp_path / "a.html")
    assert "--weights" not in capsys.readouterr().err


def test_weights_of_another_architecture_are_refused(loaded, tmp_path):
    description = dataclasses.replace(
        loaded.description,
        model_config=dataclasses.replace(
            loaded.model_config, tie_embeddings=True
        ),
    )
    other = dataclasses.replace(loaded, description=description)
    with pytest.raises(configs.UserError, match=r"readout/kernel.*export it"):
        runtimes.write(other, tmp_path / "a.html")
    assert not any(tmp_path.iterdir())


# The file ---------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Collects the scripts of a page and the names of its elements."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.elements, self.title = {}, [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag == "script":
            self.scripts.setdefault(attributes.get("id"), data)
        elif tag == "title" and not self.title:
            self.title = data


HOSTILE = "</script><script>document.title = 'no'</script><!--<script>\"'&"


def hostile_model(loaded, directory):
    """A model with markup in its name, its vocabulary and its description."""
    tokenizer = tokenizers.WordTokenizer(["<unk>", HOSTILE, "'\"\\ \u2028"])
    named = with_tokenizer(loaded, tokenizer)
    path = shutil.copytree(
        loaded.path, directory / HOSTILE.replace("/", "") / "1"
    )
    description = dataclasses.replace(
        named.description,
        path=path,
        training={"corpus": HOSTILE, "characters": 1, "epochs": 1},
    )
    return dataclasses.replace(named, description=description)


def test_markup_in_a_model_stays_text(loaded, tmp_path):
    model = hostile_model(loaded, tmp_path)
    path = tmp_path / "a.html"
    runtimes.write(model, path)
    reader = Reader(path.read_text(encoding="utf-8"))
    assert reader.title == model.name
    assert reader.scripts.keys() == {"model", "weights", None}
    data = json.loads(reader.scripts["model"])
    assert data["name"] == model.name
    assert data["tokenizer"] == model.tokenizer.to_dict()
    assert HOSTILE in " ".join(data["about"])


@browsers.needed
def test_markup_in_a_model_does_nothing_in_the_page(
    loaded, open_page, tmp_path
):
    model = hostile_model(loaded, tmp_path)
    page = open_page(model)
    page.forces([1])
    assert page.write(max_new_tokens=2) == HOSTILE * 2
    assert page.driver.title == model.name
    assert page["name"].text == model.name
    assert page.value("document.scripts.length") == 3
    assert page.value("$('colours').querySelectorAll('script').length") == 0


def test_the_page_names_no_address_and_forbids_requests(loaded, tmp_path):
    path = tmp_path / "a.html"
    runtimes.write(loaded, path)
    page = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s'\"`]+", page)) == {
        "http://www.w3.org/2000/svg"  # a name, never fetched
    }
    (policy,) = (
        attributes["content"]
        for tag, attributes in Reader(page).elements
        if tag == "meta" and "http-equiv" in attributes
    )
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy and "connect-src" not in policy
    assert "{{" not in page


@browsers.needed
def test_the_browser_enforces_the_policy(loaded, open_page):
    page = open_page(loaded)
    assert page.value("performance.getEntriesByType('resource').length") == 0
    refused = page.driver.execute_async_script(
        "const done = arguments[0];"
        "fetch('http://127.0.0.1:9/').then(() => done('sent'),"
        "  () => done('refused'));"
    )
    assert refused == "refused"
    log = page.driver.get_log("browser")  # or the fixture would fail
    assert any("Content Security Policy" in entry["message"] for entry in log)


def test_a_page_that_cannot_be_written_leaves_nothing(loaded, tmp_path):
    path = tmp_path / "a.html"
    path.mkdir()
    with pytest.raises(configs.UserError, match=r"--output=.*a\.html"):
        runtimes.write(loaded, path)
    assert [*tmp_path.iterdir()] == [path]


# Tokenizers and sampling ------------------------------------------------------


MERGES = (
    "t h", "th e", "\u0120 the", "c a", "ca t", "' s", "\u010a \u010a",
    "\u00e2 \u0124", "a n", "an d", "x x", "xx xx", "\u0120 \u0120",
    "\u00e2\u0124 \u00ac", "e \u0120", "1 2", "\u00c3 \u00a9",
)  # fmt: skip


def build_tokenizer(kind, options):
    if kind == "subword":
        return tokenizers.SubwordTokenizer(MERGES, **options)
    return tokenizers.build(kind, CORPUS.encode(), **options)


def random_texts(count=60):
    """Texts of the corpus' characters and of others, always the same."""
    drawn = random.Random(5)
    alphabet = [*CORPUS, *"".join(AWKWARD), "the", "'s", "'ll", "  ", "\u20ac"]
    return [
        "".join(drawn.choices(alphabet, k=drawn.randrange(40)))
        for _ in range(count)
    ]


@browsers.needed
@pytest.mark.parametrize("kind", ["char", "byte", "word", "subword"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"letters_only": True},
        {"document_separator": r"\n\n"},
        {"document_separator": "\u20ac", "letters_only": True},
    ],
    ids=["plain", "letters", "documents", "letters_of_documents"],
)
def test_the_script_tokenizes_as_the_tokenizer_does(
    loaded, open_page, kind, options
):
    tokenizer = build_tokenizer(kind, options)
    texts = [*AWKWARD, *random_texts()]
    expected = tokenizer.tokenize(texts)
    page = open_page(with_tokenizer(loaded, tokenizer))
    found = page.value("arguments[0].map(tokenize)", texts)
    for text, cut, ids in zip(texts, found, expected.to_list()):
        assert cut["ids"] == ids, repr(text)
        ends = cut["ends"]
        length = len(text.encode("utf-16-le")) // 2
        assert ends == sorted(ends) and ends[-1:] == [length] * bool(ends)
    tokens = page.value("KIND.tokens.map((token) => [...token])")
    all_ids = tf.range(len(tokens))[:, None]
    content = tokenizer.detokenize(tf.RaggedTensor.from_tensor(all_ids))
    assert [bytes(token) for token in tokens] == content.numpy().tolist()


@browsers.needed
def test_random_numbers_are_those_of_the_samplers(loaded, open_page):
    seeds = [0, 1, 2**31, 2**32 - 1, 2**40 + 7, 2**53 - 1]
    positions = [0, 1, 1000, 2**20]
    found = open_page(loaded).value(
        "arguments[0].map((seed) => arguments[1].map((position) =>"
        " uniform(seed, position)))",
        seeds,
        positions,
    )
    expected = samplers.uniforms(
        tf.constant(seeds, tf.int64),
        tf.constant([[position] * len(seeds) for position in positions]),
    )
    assert found == expected.numpy().T.tolist()


@browsers.needed
def test_tokens_are_drawn_as_the_samplers_do(loaded, open_page, rng):
    logits = rng.normal(0, 2, [200, 11]).astype(np.float32)
    logits[:, 0] = -np.inf  # the unknown token, as in generate.py
    random_numbers = rng.random(200).astype(np.float32)
    options = {
        "temperature": rng.choice([0, 0.3, 1, 2], 200).astype(np.float32),
        "top_k": rng.choice([0, 1, 3, 20], 200).astype(np.int32),
        "top_p": rng.choice([0.01, 0.5, 0.9, 1], 200).astype(np.float32),
    }
    expected = samplers.sample(logits, random_numbers, options).numpy()
    logits[:, 0] = 50  # the page never draws it
    rows = [
        {name: float(values[row]) for name, values in options.items()}
        for row in range(200)
    ]
    found = open_page(loaded).value(
        "arguments[0].map((logits, i) => draw(Float32Array.from(logits),"
        " arguments[1][i], arguments[2][i]))",
        logits.tolist(),
        random_numbers.tolist(),
        rows,
    )
    assert found == expected.tolist() and len({*found}) > 5


# The page ---------------------------------------------------------------------


@browsers.needed
@pytest.mark.parametrize(("cell", "scale"), [("gru", 0.8), ("lstm", 1.0)])
def test_the_likeliest_text_is_that_of_generate(
    cell, scale, open_page, tmp_path
):
    """Character for character, over 500.

    The weights are scaled so that the text does not repeat itself soon, and so
    that it stays the same if they change by a ten-thousandth.
    """
    generator = build_generator(cell, units=32)
    for weight in generator.model.weights:
        is_recurrent = "recurrent" in weight.path
        weight.assign(weight * (scale if is_recurrent else 2))
    with exports.in_memory():
        model = inference.load(generator.save(tmp_path / "model"))
    sampling = configs.SamplingConfig(max_new_tokens=500, temperature=0)
    page = open_page(model)
    for prompt in ("", "hgf edc\nba"):
        [expected] = model.continuations([prompt], sampling)
        assert len(expected.text) == 500 and len({*expected.text}) > 4
        page.type(prompt)
        text = page.write(max_new_tokens=500, temperature=0)
        assert text == prompt + expected.text


@browsers.needed
def test_surprisals_are_those_of_the_saved_model(loaded, open_page):
    page = open_page(loaded)
    page.type("hgf edc")
    text = page.write(max_new_tokens=30)
    _, expected = loaded.token_nats(text)
    first, *nats = page.value("nats")
    assert first is None
    np.testing.assert_allclose(nats, expected, atol=1e-4)
    assert page["mean"].text == f"{expected.mean():.2f} nats"
    assert page["tokens"].text == "37"
    shown = page.value(
        "[...document.querySelectorAll('#colours [data-nats]')].map((span) =>"
        " [span.textContent, span.dataset.nats, span.className])"
    )
    assert "".join(piece for piece, *_ in shown) == text
    for (_, surprise, _), value in zip(shown[1:], expected, strict=True):
        assert float(surprise) == pytest.approx(value, abs=0.006)
    assert [kind for *_, kind in shown] == ["typed"] * 7 + [""] * 30


@browsers.needed
def test_a_seed_repeats_a_text_however_often_it_is_stopped(loaded, open_page):
    page = open_page(loaded)
    page.type("abc")
    whole = page.write(max_new_tokens=60, seed=7, temperature=1)
    page.type("abc")
    page.write(max_new_tokens=20)
    assert page.write(max_new_tokens=40) == whole
    page.type("abc")
    assert page.write(max_new_tokens=60, seed=8) != whole
    page["again"].click()
    assert page.wait()[:3] == "abc" and page["seed"].get_property("value")


COUNT_STEPS = """
window.steps = 0;
const original = step;
step = (...values) => { steps += 1; return original(...values); };
"""


@browsers.needed
def test_an_edit_reads_again_only_what_changed(loaded, open_page):
    page = open_page(loaded)
    page.type("hgf edc\nba" * 40)
    page.script(COUNT_STEPS)
    text = page.write(max_new_tokens=50)
    assert page.value("steps") == 50
    page.script("steps = 0")
    edited = text[:-20] + "abc"
    page.type(edited)
    assert page.value("steps") < 3 + 33
    found = page.value("[[...logits], nats]")
    page.type("")
    page.type(edited)
    expected = page.value("[[...logits], nats]")
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(found[1][1:], expected[1][1:], atol=1e-6)
    assert page.value("$('colours').textContent").rstrip("\u200b") == edited


@browsers.needed
def test_what_was_drawn_stays_before_an_edit(loaded, open_page):
    """Though the tokenizer cuts the same text into other tokens."""
    words = ["<unk>", "a", "b", "ab", " a", ","]
    page = open_page(with_tokenizer(loaded, tokenizers.WordTokenizer(words)))
    page.forces([1, 2, 4])
    assert page.write(max_new_tokens=3) == "ab a"
    page.script(COUNT_STEPS)
    page.type("ab a,")
    assert page.value("ids.slice(1)") == [1, 2, 4, 5]
    assert page.value("isDrawn") == [True, True, True, True, False]
    assert page.value("steps") == 1 and page["unknown"].text == ""
    page.type("ab b,")
    assert page.value("ids.slice(1)") == [1, 2, 0, 5]
    assert page.value("isDrawn") == [True, True, True, False, False]
    assert page["unknown"].text == "Not in the vocabulary: 1 word."
    page.type("b")
    assert page.value("ids") == [2] and page["unknown"].text == ""


@browsers.needed
def test_colours_lie_under_their_text_after_any_edits(loaded, open_page):
    page = open_page(loaded)
    drawn = random.Random(1)
    text = ""
    for _ in range(25):
        place = drawn.randrange(len(text) + 1)
        end = min(len(text), place + drawn.randrange(9))
        new = "".join(drawn.choices("ab \n\n\u00e9", k=drawn.randrange(12)))
        text = text[:place] + new + text[end:]
        page.type(text)
        assert page.value("[ids, ends]") == page.value(
            "Object.values(tokenize(arguments[0]))", text
        )
        shown, blocks, heights = page.value(
            "[$('colours').textContent, $('colours').children.length,"
            " [$('colours').scrollHeight, $('text').scrollHeight]]"
        )
        assert shown == text + "\u200b"
        assert blocks == text.count("\n") + 1
        assert heights[0] == heights[1]
    page.type("b\u00e9\u00e9")
    assert page["unknown"].text == "Not in the vocabulary: 2 characters."


@browsers.needed
def test_a_character_of_several_bytes_is_shown_whole(loaded_bytes, open_page):
    page = open_page(loaded_bytes)
    content = "\u20ac\U0001f469\u200d\U0001f52ce\u0301!\r\n\ufeff.".encode()
    page.forces([*content])
    page.script(
        "window.texts = [];"
        "const original = addDrawn;"
        "addDrawn = (id) => { original(id); texts.push(text); }"
    )
    text = page.write(max_new_tokens=len(content))
    assert text == content.decode().replace("\r", "")
    assert "\ufffd" not in "".join(page.value("texts"))
    pieces = page.value("spans.map(({ element }) => element.textContent)")
    assert pieces[:4] == [
        "\u20ac", "\U0001f469\u200d\U0001f52c", "e\u0301", "!",
    ]  # fmt: skip


@browsers.needed
def test_an_end_token_ends_the_text(loaded_lines, open_page):
    page = open_page(loaded_lines)
    end_id = loaded_lines.tokenizer.end_id
    page.forces([1, 2, end_id])
    assert page.write(max_new_tokens=50) == "ab"
    assert page["status"].text == "The model ended the text after 2 tokens."
    page.type("")
    page.type("ab\nc")
    assert page.value("ids") == [1, 2, end_id, 3]


@browsers.needed
def test_stop_and_keys_end_the_writing(loaded, open_page):
    from selenium.webdriver.common.keys import Keys

    page = open_page(loaded)
    page.script("$('slow').checked = true")
    page["text"].send_keys("ab", Keys.CONTROL, Keys.ENTER)
    assert page["status"].text.startswith("Writing")
    page["text"].send_keys(Keys.ESCAPE)
    assert page["status"].text.startswith("Stopped after ")
    page.script("$('max_new_tokens').value = 1000000")
    page["go"].click()
    page["text"].send_keys("c")  # an edit stops it, too
    text = page.wait()
    assert text.count("c") >= 1 and len(text) < 10_000
    page["go"].click()
    page["stop"].click()
    assert page.wait().startswith("ab")


@browsers.needed
def test_settings_out_of_range_write_nothing(loaded, open_page):
    page = open_page(loaded)
    assert page.write(temperature=-1) == ""
    assert page["status"].text == ""
    page["reset"].click()
    defaults = loaded.defaults
    assert page["temperature"].get_property("value") == str(
        defaults.temperature
    )
    assert len(page.write()) == defaults.max_new_tokens
    page.type("a")
    fine = page.write(temperature=0.125, top_p=0.995, max_new_tokens=2)
    assert len(fine) == 3


@browsers.needed
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_the_window_and_names_its_fields(
    loaded, open_page, width
):
    page = open_page(loaded)
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": True},
    )
    page.type("abcdefgh " * 50 + "a" * 200)
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.value(
        "[...document.querySelectorAll('input, textarea')].every((field) =>"
        " field.labels.length || field.hasAttribute('aria-labelledby'))"
    )
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@browsers.needed
def test_the_picture_has_a_column_per_token(loaded, open_page):
    """Orange and blue where the state is positive and negative."""
    page = open_page(loaded)
    page.type("abc")
    states, alphas, colours = page.value(
        "(() => { const { data } = pen.getImageData(COLUMNS - 3, 0, 3, 14);"
        " const cells = [...Array(42).keys()].map((i) => 4 * i);"
        " return [kept.length && [...state], cells.map((i) => data[i + 3]),"
        "  cells.map((i) => data[i] > data[i + 2])]; })()"
    )
    alphas = np.reshape(alphas, [14, 3])
    newest = np.array(states).reshape(2, 6)[::-1]  # the top layer above
    for rows, h in zip((slice(0, 6), slice(8, 14)), newest):
        np.testing.assert_allclose(alphas[rows, 2], 255 * np.abs(h), atol=1)
        is_warm = np.reshape(colours, [14, 3])[rows, 2]
        seen = np.abs(h) > 0.05
        assert (is_warm[seen] == (h > 0)[seen]).all()
    assert not alphas[6:8].any() and alphas[:6].all(axis=1).any()


@browsers.needed
def test_the_picture_loses_the_columns_of_removed_tokens(loaded, open_page):
    page = open_page(loaded)
    pictures = []
    for text in ("", "abc", "abcdef", "abc", "abc" * 100, ""):
        page.type(text)
        pictures.append(page.value("picture.toDataURL()"))
    empty, three, six, back, _, cleared = pictures
    assert empty != three != six
    assert (back, cleared) == (three, empty)


@browsers.needed
def test_a_token_is_described_with_what_else_could_stand_there(
    loaded, open_page
):
    page = open_page(loaded)
    page.type("hgf edc")
    page.script("describe(3)")
    logits = expected_logits(loaded, page.value("ids.slice(0, 3)"))[-1]
    log_probs = tf.nn.log_softmax(logits).numpy()
    known = page["token"].text
    space = loaded.tokenizer.tokenize([" "]).values.numpy()[0]
    assert known.startswith(
        f"\u201c\u2423\u201d: {-log_probs[space]:.2f} nats, probability "
    )
    likeliest = 100 * np.exp(log_probs.max())
    assert re.search(
        rf"Likeliest here: \u201c.\u201d {likeliest:.0f} %,", known
    )


@browsers.needed
def test_the_first_character_of_a_text_that_the_model_began_is_described(
    loaded, open_page
):
    """The start token predicts it, which has no text itself."""
    page = open_page(loaded)
    page.write(max_new_tokens=3)
    page.script("describe(0)")
    assert page.value("[spans[0].first, spans[0].last]") == [1, 1]
    assert re.search(r" nats, probability .*Likeliest here", page["token"].text)

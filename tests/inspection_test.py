"""stacked-rnn inspect: states and gates, units and features, and the page."""

import base64
import html.parser
import json
import shutil
import tarfile

import numpy as np
import pytest

from stacked_rnn import configs, inference, metrics, reference
from stacked_rnn.cli import inspect
from stacked_rnn.inference import activations
from stacked_rnn.metrics import inspection
from stacked_rnn.models import read_saved_model
from stacked_rnn.reports import inspection_html
from tests.helpers import ROOT, browsers, exports
from tests.helpers.processes import run
from tests.helpers.small_models import build_generator

COMMAND = "stacked-rnn inspect"
TEXT = "bad (cab)\nfed a hag\n" * 20
ALL_OPTIONS = {
    "residual": True, "embedding_to_all_layers": True, "cap_input_gate": True,
    "num_layers": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(loaded, loaded_lines, tmp_path_factory):
    """Loaded models by name."""
    made = {"gru": loaded, "ends of texts": loaded_lines}
    for name, cell, changes in (
        ("simple_rnn", "simple_rnn", {"residual": True}),
        ("lstm", "lstm", ALL_OPTIONS),
    ):
        generator = build_generator(cell, **changes)
        with exports.in_memory():
            made[name] = inference.load(
                generator.save(tmp_path_factory.mktemp("inspected") / cell)
            )
    return made


def weights_of(model):
    keras_model = read_saved_model(model.description)
    return {weight.path: weight.numpy() for weight in keras_model.weights}


# States and gates -------------------------------------------------------------


@pytest.mark.parametrize("name", ["gru", "ends of texts", "simple_rnn", "lstm"])
def test_the_equations_lead_to_the_states_of_the_exported_step(
    models, name, monkeypatch
):
    """They follow from what each layer read and from the states before."""
    monkeypatch.setattr(activations, "_CHUNK", 25)
    model = models[name]
    token_ids = model.tokenizer.tokenize([TEXT]).flat_values.numpy()[:60]
    states = activations.states_of_text(model, token_ids)
    layers = [
        *activations.layer_inputs(model, weights_of(model), token_ids, states)
    ]
    config = model.model_config
    assert len(layers) == config.num_layers
    for layer, (inputs, before, arguments) in enumerate(layers):
        new = reference.CELLS[config.cell](inputs, before, *arguments)
        for part, state in zip(("h", "c"), new):
            np.testing.assert_allclose(state, states[layer, part], atol=1e-5)
    if name == "ends of texts":  # the state was reset: this is no idle test
        assert model.tokenizer.end_id in token_ids


def test_the_gates_of_an_lstm_connect_its_states(models):
    model = models["lstm"]
    token_ids = model.tokenizer.tokenize([TEXT]).flat_values.numpy()[:60]
    states = activations.states_of_text(model, token_ids)
    read = activations.read_activations(model, weights_of(model), token_ids)
    for layer, gates in enumerate(read.gates):
        h, c = states[layer, "h"], states[layer, "c"]
        np.testing.assert_allclose(read.values[:, layer], np.tanh(c), atol=1e-6)
        np.testing.assert_allclose(gates["o"] * np.tanh(c), h, atol=1e-5)
        added = np.abs(c[1:] - gates["f"][1:] * c[:-1])
        assert (added <= gates["i"][1:] + 1e-5).all()  # |tanh| is at most 1
        assert (gates["i"] + gates["f"] <= 1 + 1e-6).all()  # it is capped


def test_the_gates_of_a_gru_connect_its_states(models):
    model = models["gru"]
    token_ids = model.tokenizer.tokenize([TEXT]).flat_values.numpy()[:60]
    read = activations.read_activations(model, weights_of(model), token_ids)
    for layer, gates in enumerate(read.gates):
        assert gates.keys() == {"z", "r"}
        h = read.values[:, layer]
        added = np.abs(h[1:] - gates["z"][1:] * h[:-1])
        assert (added <= 1 - gates["z"][1:] + 1e-5).all()


# Features and units -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("inside quotation marks", "a 'b c' don't", "0011110000000"),
        ("inside quotation marks", 'a "b 5" x', "001111000"),
        ("inside quotation marks", "\u2018it\u2019s\u2019 a", "11111000"),
        ("inside brackets", "a (b) [c]", "001100110"),
        ("place in the line", "ab\ncd\n", "120120"),
        ("place in the word", "ab, c", "12001"),
        ("place in the sentence", "ab. c", "12012"),
        ("length of the line before", "ab\nc\nd", "000332"),
        ("a capital letter", "aBC", "011"),
        ("a digit", "a1", "01"),
        ("a vowel", "abE", "101"),
        ("a punctuation mark", "a,b!", "0101"),
        ("a space", "a b", "010"),
        ("a line break", "a\nb", "010"),
    ],
)
def test_features_of_a_text(name, text, expected):
    features = inspection.features_of_text([*text])
    assert "".join(f"{value:g}" for value in features[name]) == expected


def test_features_are_those_at_the_end_of_each_piece():
    features = inspection.features_of_text(["ab", "c\n", "d"])
    assert features["place in the line"].tolist() == [2, 0, 1]
    assert "a digit" not in features  # it does not vary


def test_units_are_found_by_what_they_follow(rng):
    length = 400
    values = rng.normal(0, 0.3, (length, 12))
    brackets = (np.arange(length) % 70 > 50).astype(float)
    place = np.arange(length) % 37.0
    values[:, 7] = 0.5 - brackets + 0.1 * values[:, 7]
    values[:, 3] = place / 40 + 0.1 * values[:, 3]
    values[:, 9] = np.sin(np.arange(length) / 60)  # slow, and follows nothing
    values[:, 1] = 0.3  # constant
    search = metrics.UnitSearch(
        values,
        {
            "brackets": brackets,
            "place": place,
            "the same place": place + rng.normal(size=length),
            "noise": rng.normal(size=length),
        },
    )
    first, second, *rest = search.choose(num_for_memory=1)
    assert {first.column, second.column} == {7, 3}
    assert {first.feature, second.feature} == {"brackets", "place"}
    of_brackets = search.describe(7)
    assert of_brackets.feature == "brackets"
    assert of_brackets.correlation == pytest.approx(
        np.corrcoef(values[:, 7], brackets)[0, 1]
    )
    assert rest[-1].column == 9 and rest[-1].is_for_memory
    assert search.describe(1).memory == 0
    columns = [unit.column for unit in search.choose()]
    assert len(columns) == len(set(columns))


def test_a_feature_that_no_unit_follows_is_left_out(rng):
    """The chance is the best correlation with the feature elsewhere."""
    values = rng.normal(size=(200, 30))
    feature = rng.normal(size=200)
    values[:, 4] = np.roll(feature, 50)  # elsewhere, the unit follows it
    search = metrics.UnitSearch(values, {"noise": feature})
    assert [unit for unit in search.choose() if not unit.is_for_memory] == []
    assert search.describe(0).chance == pytest.approx(1.0)


def test_memory_is_when_the_autocorrelation_has_fallen():
    steps = np.repeat([0.0, 1.0] * 20, 10)
    constant = np.zeros_like(steps)
    slow, none = inspection.memories(np.stack([steps, constant], axis=1))
    centred = steps - steps.mean()
    lags = [
        lag
        for lag in range(1, len(steps))
        if centred[lag:] @ centred[: len(steps) - lag]
        < centred @ centred / np.e
    ]
    assert slow == lags[0] and none == 0


def test_saturation_counts_closed_and_open_gates():
    closed, opened = metrics.saturation(
        np.array([[0.05, 0.5], [0.95, 0.91], [0.01, 0.1], [0.5, 0.9]])
    )
    assert closed.tolist() == [0.5, 0.0] and opened.tolist() == [0.25, 0.25]


def test_nearest_tokens_of_the_most_frequent_ones():
    embeddings = np.array([[9.0, 9], [1, 0], [0, 1], [2, 0.1], [0.1, -3]])
    found = metrics.nearest_tokens(
        embeddings, [1, 1, 2, 0, 0, 0], {0}, most=2, neighbours=2
    )
    assert [token_id for token_id, _ in found] == [1, 2]
    assert [other for other, _ in found[0][1]] == [3, 4]
    assert found[0][1][0][1] == pytest.approx(2 / np.hypot(2, 0.1))


# The page ---------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Collects the elements of a page, its texts and its data."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.reading, self.data = [], [], None
        self._place = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.elements.append((tag, values))
        if values.get("id") in ("reading", "page-data"):
            self._place = values["id"]
        elif tag == "span" and self._place == "reading":
            self.reading.append("")

    def handle_endtag(self, tag):
        if tag in ("p", "script"):
            self._place = None

    def handle_data(self, data):
        if self._place == "reading":
            self.reading[-1] += data
        elif self._place == "page-data":
            self.data = json.loads(data)

    def count(self, tag, **values):
        return sum(
            tag == name and values.items() <= attributes.items()
            for name, attributes in self.elements
        )


@pytest.mark.parametrize("name", ["gru", "ends of texts", "simple_rnn", "lstm"])
def test_the_page_holds_the_text_and_the_values_of_all_units(models, name):
    model = models[name]
    found = inference.inspect_text(model, TEXT.encode(), "a text", [])
    page = Reader(inspection_html.page(found))
    shown = "".join(page.reading)
    assert len(shown) == len(TEXT) and shown.count("\n") == TEXT.count("\n")
    assert set(shown) - set(TEXT) <= {"\ufffd"}  # of unknown characters
    config, data = model.model_config, page.data
    values = np.frombuffer(base64.b64decode(data["values"]), np.int8)
    values = values.reshape(config.num_layers * config.units, -1).T / 127
    expected = found.values.reshape(len(page.reading), -1)
    np.testing.assert_allclose(values, expected, atol=0.5 / 127 + 1e-6)
    gates = {"gru": 2, "lstm": 3, "simple_rnn": 0}[config.cell]
    assert page.count("figure") == gates
    assert page.count("circle") == gates * config.num_layers * config.units
    assert page.count("canvas") == len(found.chosen) > 0


def test_the_page_of_bytes_joins_them_to_characters(loaded_bytes):
    text = "a\u20acb\U0001f600"
    found = inference.inspect_text(loaded_bytes, text.encode(), "a text", [])
    page = Reader(inspection_html.page(found))
    assert page.reading == [*text]
    token_ids = loaded_bytes.tokenizer.tokenize([text]).flat_values.numpy()
    states = activations.states_of_text(loaded_bytes, token_ids)
    last = [0, 3, 4, 8]  # the last byte of each character
    np.testing.assert_allclose(
        found.values[:, 1], states[1, "h"][last], atol=1e-6
    )


def test_a_loaded_model_looks_inside_itself(models):
    found = models["gru"].inspect(TEXT)
    expected = inference.inspect_text(models["gru"], TEXT.encode(), "", [])
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.pieces == expected.pieces and found.chosen
    with pytest.raises(configs.UserError, match="shorter than two"):
        models["gru"].inspect("a")


def test_a_text_of_one_character_has_a_page(loaded_bytes):
    """Nothing in it varies: no unit is chosen, and all can be looked at."""
    found = inference.inspect_text(loaded_bytes, b"\xe2\x82\xac", "a text", [])
    page = Reader(inspection_html.page(found))
    assert page.reading == ["\u20ac"] and found.chosen == []
    assert page.data["best"] == [-1] * len(page.data["columns"])
    found = inference.inspect_text(loaded_bytes, b"\xe2\x82\xac", "a text", [3])
    assert [unit.column for unit in found.chosen] == [3]


def small_inspection(pieces, **changes):
    values = np.zeros([len(pieces), 1, 2])
    search = metrics.UnitSearch(values.reshape(len(pieces), 2), {})
    settings = {
        "name": "</script><b>", "about": ["<i>"], "cell": "gru",
        "tokens": [(piece.encode(), 1.0, False) for piece in pieces],
        "pieces": pieces, "values": values,
        "gates": [{"z": values[:, 0], "r": values[:, 0]}], "search": search,
        "chosen": [search.describe(1)], "is_own_choice": True,
        "embedding_dim": 4,
        "neighbours": [(b"</td>\xff", [(b" \n", -0.5)])],
    }  # fmt: skip
    return inspection_html.Inspection(**settings | changes)


def test_everything_from_the_model_is_escaped_and_nothing_is_loaded():
    pieces = ("</script>", "{{data}}", "&")
    text = inspection_html.page(small_inspection(pieces))
    page = Reader(text)
    assert page.reading == [*pieces]
    assert page.count("b") == 3 and page.count("i") == 1  # the page's own
    assert page.count("script") == 2 and text.count("</script>") == 2
    addresses = {"src", "href", "action", "data"}
    assert not [
        values for _, values in page.elements if addresses & values.keys()
    ]
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text
    assert "&lt;/td&gt;\\xff" in text and "\u2423\u21b5" in text


def test_a_page_of_too_many_units_has_the_chosen_ones(monkeypatch):
    monkeypatch.setattr(inspection_html, "_MOST_VALUES", 5)
    found = small_inspection(("a", "b", "c"))
    page = Reader(inspection_html.page(found))
    assert page.data["columns"] == [1]
    assert len(base64.b64decode(page.data["values"])) == 3
    assert page.count("select") == 0
    assert "page too large" in inspection_html.page(found)


@browsers.needed
def test_the_page_works_in_a_browser(models, browser, tmp_path):
    found = inference.inspect_text(models["lstm"], TEXT.encode(), "a text", [4])
    path = tmp_path / "page.html"
    path.write_text(inspection_html.page(found), encoding="utf-8")
    browser.get_log("browser")  # what other tests have caused
    browser.get(path.as_uri())
    painted = "return document.querySelectorAll('#reading span')[0].style"
    caption = browser.find_element("id", "caption")
    assert caption.text.startswith("Layer 1, unit 5.")
    before = browser.execute_script(f"{painted}.background")
    tone = "negative" if found.values[0, 0, 4] < 0 else "positive"
    assert f"--{tone}" in before
    unit = browser.find_element("id", "unit")
    unit.clear()
    unit.send_keys("2")
    assert caption.text.startswith("Layer 1, unit 2.")
    assert browser.execute_script(f"{painted}.background") != before
    card = browser.find_element("class name", "unit")
    assert card.get_attribute("aria-pressed") == "false"
    card.click()
    assert card.get_attribute("aria-pressed") == "true"
    assert browser.get_log("browser") == []


# The command ------------------------------------------------------------------


@pytest.fixture
def directory(letters, tmp_path):
    shutil.copytree(letters, tmp_path / "saved_models/letters/1")
    (tmp_path / "text.txt").write_text("bad cab\nfed a hag\n" * 9)
    return tmp_path


def test_the_command_writes_a_page_under_the_name_of_the_model(directory):
    ran = run(
        directory, COMMAND, "--text=text.txt", "--characters=50",
        "--units=2:6,1:1",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    path = directory / "letters-inspect.html"
    size = f"{path.stat().st_size:,} bytes"
    assert f"Wrote letters-inspect.html ({size})" in ran.stdout
    assert "the first 50 characters" in ran.stdout
    assert "layer 2, unit 6" in ran.stdout and "layer 1, unit 1" in ran.stdout
    page = Reader(path.read_text(encoding="utf-8"))
    assert len(page.reading) == 50 and page.data["first"] == 11


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--text=FILE is missing"),
        (["--text=nowhere"], "--text=nowhere"),
        (["--text=text.txt", "--units=3:1"], "--units=3:1: the model has"),
        (["--text=text.txt", "--units=1-1"], "--units=1-1: write LAYER:UNIT"),
        (
            ["--text=text.txt", "--output=a.txt"],
            "--output=a.txt: the name must",
        ),
        (["--text=text.txt", "--output=a.html"], "--output=a.html: cannot"),
        (["--text=text.txt", "--characters=1"], "--characters=1: expected"),
        (["--text=letter.txt"], "--text: the text is shorter than two tokens"),
        (["--text=text.txt", "--saved_model=films"], "films/1 is a classifier"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(directory, flags, words):
    (directory / "a.html").mkdir()
    (directory / "letter.txt").write_text("a")
    with tarfile.open(ROOT / "tests/released/classifier.tar.xz") as content:
        content.extractall(directory / "films", filter="data")
    ran = run(directory, COMMAND, "--saved_model=saved_models/letters", *flags)
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr.startswith("stacked-rnn inspect: error: ")
    assert words in ran.stderr and len(ran.stderr.splitlines()) == 1
    assert not [path for path in directory.glob("*.html*") if path.is_file()]


def test_the_first_characters_of_bytes_are_bytes():
    assert (
        inspect.first_characters("a\u20acbc".encode(), 3) == "a\u20acb".encode()
    )
    assert inspect.first_characters(b"\xff\xfea", 2) == b"\xff\xfe"


def test_units_are_counted_from_one():
    config = configs.InspectConfig(units="1:1,2:3,1:1")
    assert config.unit_columns(num_layers=2, num_units=4) == [0, 6]

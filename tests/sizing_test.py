"""Settings that are chosen to fit the text: what, when, and once."""

import math
import types

import pytest

from stacked_rnn import configs, tasks
from stacked_rnn.training import sizing
from stacked_rnn.training.warm_start import WarmStart
from tests.helpers import ROOT

FAST, SLOW = (4e11, 8e11), (1e11, 1e11)


@pytest.fixture(autouse=True)
def rates(monkeypatch):
    monkeypatch.setattr(sizing, "matmul_rates", lambda: FAST)


def choose(
    characters, given=(), past=None, model=None, is_list=False,
    most_minutes=math.inf, **changes,
):  # fmt: skip
    corpus = types.SimpleNamespace(
        num_characters=characters, digest="abc", is_list=is_list
    )
    return sizing.for_language_model(
        corpus, configs.ModelConfig(**model or {}),
        configs.TrainConfig(**changes), frozenset(given), past, most_minutes,
    )  # fmt: skip


def test_a_larger_text_gets_a_wider_model_and_more_time():
    sizes = [60_000, 1_000_000, 20_000_000]
    chosen = [choose(size).settings for size in sizes]
    units = [settings["units"] for settings in chosen]
    minutes = [settings["max_minutes"] for settings in chosen]
    assert units == sorted(units) and len({*units}) == 3
    assert 0.5 <= minutes[0] < minutes[1] == 2 < minutes[2]
    assert chosen[0]["dropout"] >= chosen[2]["dropout"]
    # Validating takes the same small share of the time, however long an epoch.
    fractions = [settings["validation_fraction"] for settings in chosen]
    assert fractions[0] == 0.1 and fractions[1] == 0.05 > 2 * fractions[2]


def test_the_time_that_is_chosen_has_a_limit():
    long, short = (
        choose(size, most_minutes=minutes).settings
        for size, minutes in ((20_000_000, 3.0), (20_000, 0.2))
    )
    assert (long["max_minutes"], short["max_minutes"]) == (3.0, 0.2)
    assert long["units"] < choose(20_000_000).settings["units"]
    given = choose(20_000_000, {"max_minutes"}, max_minutes=9.0)
    assert "max_minutes" not in given.settings


def test_more_minutes_and_a_faster_machine_widen_the_model(monkeypatch):
    def units(**changes):
        given = {*changes}
        return choose(1_000_000, given, **changes).settings["units"]

    assert units(max_minutes=25.0) > units(max_minutes=2.0)
    fast = units(max_minutes=8.0)
    monkeypatch.setattr(sizing, "matmul_rates", lambda: SLOW)
    assert units(max_minutes=8.0) < fast


@pytest.mark.parametrize("tokenizer", ["word", "subword"])
def test_a_text_of_one_character_has_settings(tokenizer):
    """Its error comes with its tokens."""
    assert choose(1, tokenizer=tokenizer).settings["units"] > 0


def test_workers_choose_by_no_measurement(monkeypatch):
    monkeypatch.setattr(sizing, "matmul_rates", None)
    wide = {"units": 768}
    settings = choose(10**6, {"units"}, model=wide, strategy="multi_worker")
    assert settings.settings["mixed_precision"] is False


def test_what_is_given_is_kept():
    given = {"units": 64, "dropout": 0.9, "carry_state": False}
    settings = choose(1_000_000, given).settings
    assert not {*given} & {*settings}
    assert "max_minutes" in settings and settings["epochs"] == 0
    for name in ("epochs", "max_minutes"):
        settings = choose(1_000_000, {name}).settings
        assert not {"epochs", "max_minutes"} & {*settings}


def test_the_rest_suits_the_width_and_the_epochs_that_are_given():
    few, many = (
        choose(1_000_000, {"epochs"}, epochs=epochs).settings
        for epochs in (2, 40)
    )
    assert few["dropout"] == 0.0 < many["dropout"]
    narrow, wide = (
        choose(1_000_000, {"units"}, model={"units": units}).settings
        for units in (64, 1024)
    )
    assert (narrow["learning_rate"], wide["learning_rate"]) == (0.004, 0.003)
    assert (narrow["embedding_dim"], wide["embedding_dim"]) == (64, 128)


def test_a_trained_model_keeps_its_architecture():
    settings = choose(10**6, init_from="saved_models/cats").settings
    assert "units" not in settings and "cell" not in settings
    assert settings["carry_state"]
    for units, rate in ((64, 0.004), (1024, 0.003)):  # the rest suits it
        settings = choose(
            10**6, init_from="saved_models/cats", model={"units": units}
        ).settings
        assert settings["learning_rate"] == rate
        assert settings["mixed_precision"] == (units == 1024)


def test_an_earlier_run_on_the_same_text_is_followed(monkeypatch):
    first = choose(1_000_000)
    model, train = configs.replace_settings(
        (configs.ModelConfig(), configs.TrainConfig()), first.settings
    )
    past = {
        "digest": "abc", "model": model.to_dict(),
        "settings": train.to_dict(),
        "length": {name: first.settings[name]
                   for name in ("epochs", "max_minutes")},
    }  # fmt: skip
    monkeypatch.setattr(sizing, "matmul_rates", lambda: SLOW)
    again = choose(1_000_000, past=past)
    assert again.settings == first.settings
    units, dropout = (first.settings[name] for name in ("units", "dropout"))
    assert f" of {units} units, dropout {dropout:g}.\n" in again.reason
    # More time continues a run.
    longer = choose(1_000_000, {"max_minutes"}, past, max_minutes=9.0)
    assert longer.settings["units"] == units
    changed = choose(1_000_000, {"dropout"}, past).settings
    assert changed == {
        name: value
        for name, value in first.settings.items()
        if name != "dropout"
    }
    other_text = past | {"digest": "other"}
    assert choose(1_000_000, past=other_text).settings != first.settings
    for other in ({"tokenizer": "word"}, {"init_from": "saved_models/cats"}):
        anew = choose(1_000_000, past=past, **other)
        assert anew.settings == choose(1_000_000, **other).settings
    for other in ({"units": 64}, {"cell": "gru"}):
        settings = choose(1_000_000, {*other}, past, other).settings
        assert settings == choose(1_000_000, {*other}, None, other).settings
    same = choose(1_000_000, {"cell"}, past, {"cell": "lstm"}).settings
    assert same["learning_rate"] == first.settings["learning_rate"]


def test_a_run_of_a_version_that_chose_nothing_goes_on():
    past = {
        "digest": "abc",
        "model": {"cell": "gru", "units": 192},
        "settings": {"carry_state": False, "learning_rate": 0.004},
    }
    settings = choose(1_000_000, past=past).settings
    older = {name: past[name] for name in ("digest", "model")}
    assert choose(1_000_000, past=older).settings["units"] == 192
    assert settings == {
        "cell": "gru", "units": 192, "carry_state": False,
        "learning_rate": 0.004, "epochs": 4, "max_minutes": 0.0,
        "validation": "end",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "changes", "has_chosen"),
    [(None, {}, False), (frozenset(), {}, True),
     (frozenset(), {"train_windows": 10}, False)],
)  # fmt: skip
def test_only_a_command_leaves_settings_open(
    given, changes, has_chosen, tmp_path
):
    path = tmp_path / "a.txt"
    path.write_text("abcdefgh " * 500)
    start = WarmStart(
        configs.ModelConfig(cap_input_gate=True),  # of an LSTM
        configs.TrainConfig(corpus=str(path), **changes),
        given=given,
    )
    task = tasks.TASKS["language_model"].read(start)
    assert bool(task.chosen) == has_chosen
    if has_chosen:
        assert task.data.training.carries_state
        start = start.with_settings(task.chosen.settings)
        assert start.train_config.epochs == 0
        assert task.complete(start.model_config).cell == "lstm"
    else:
        with pytest.raises(configs.UserError, match="has no such gate"):
            task.complete(start.model_config)


NAMES = ["Meier", "de la Cruz", "Johannsen"] * 20
REVIEWS = ["a long and rather dull mess of a film"] * 20


@pytest.mark.parametrize(
    ("texts", "given", "past", "expected"),
    [
        (NAMES, {}, None, "char"),
        (REVIEWS, {}, None, None),
        (NAMES, {"tokenizer"}, None, None),
        (NAMES, {}, {"settings": {"tokenizer": "word"}}, None),
        (NAMES, {}, {"length": {"epochs": 12}}, "char"),
    ],
)
def test_a_classifier_reads_short_strings_by_their_characters(
    texts, given, past, expected
):
    choice = sizing.for_classifier(texts, given, past)
    assert (choice and choice.settings["tokenizer"]) == expected


def test_a_classifier_keeps_what_is_given():
    choice = sizing.for_classifier(NAMES, {"max_minutes", "dropout"}, None)
    assert not {"epochs", "dropout"} & {*choice.settings}


def test_the_settings_of_short_strings_are_those_of_the_recipe():
    lines = (ROOT / "recipes/short_strings.flags").read_text().splitlines()
    flags = {
        line.partition("=")[0][2:]: line for line in lines if line[0] != "#"
    }
    assert {*flags} == {*sizing._SHORT_STRINGS, "task"}
    for name, value in sizing._SHORT_STRINGS.items():
        expected = f"--{name}" if value is True else f"--{name}={value}"
        assert flags[name].removesuffix(".0") == expected.removesuffix(".0")


def test_the_lines_of_a_list_are_texts():
    choice = choose(10_000, is_list=True)
    assert choice.settings["document_separator"] == r"\n"
    assert "Each line is a text" in choice.reason
    choice = choose(10_000, {"document_separator"}, is_list=True)
    assert "document_separator" not in choice.settings
    assert "document_separator" not in choose(10_000).settings


def test_names_are_generated_one_by_one(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES))
    start = WarmStart(
        configs.ModelConfig(),
        configs.TrainConfig(corpus=str(path)),
        given=frozenset(),
    )
    task = tasks.TASKS["language_model"].read(start)
    assert task.data.tokenizer.end_id is not None
    assert task.data.held_out == "documents"

"""A version that is not as the one before it is said to be so."""

import dataclasses
import json
import shutil

import pytest

from stacked_rnn import configs, saved_models, tokenizers, version_changes


def description(**changes):
    values = {
        "path": None,
        "task": "language_model",
        "model_config": configs.ModelConfig(units=192, vocabulary_size=4),
        "tokenizer": tokenizers.build("char", b"abc"),
        "training": None,
        "entries": {"labels": ["bad", "good"], "several_labels": False},
    }
    return saved_models.Description(**values | changes)


def validated(task="language_model", **validation):
    return description(task=task, training={"validation": validation})


@pytest.mark.parametrize(
    ("task", "old", "new", "text"),
    [
        ("language_model", 1.72, 5.56, "5.560 bits/char, not 1.720 bits/char"),
        ("language_model", 1.72, 1.80, ""),  # another seed moves it so far
        ("language_model", 1.72, 1.82, "1.820 bits/char, not 1.720 bits/char"),
        ("language_model", 1.72, 0.5, ""),
        ("language_model", 1.72, float("nan"), "nan bits/char"),
        ("classifier", 0.80, 0.785, ""),
        ("classifier", 0.80, 0.77, "accuracy 0.770, not accuracy 0.800"),
        ("seq2seq", 0.98, 0.97, ""),
        ("seq2seq", 0.98, 0.9, "90.0% exact, not 98.0%"),
    ],
)
def test_a_clearly_worse_validation(task, old, new, text):
    figure = configs.TASKS[task].quality
    found = version_changes.differences(
        validated(task, **{figure: old}), validated(task, **{figure: new})
    )
    assert len(found) == bool(text)
    if text:
        assert found[0].startswith("it validates worse (") and text in found[0]


def test_a_task_in_which_nothing_is_exact_has_its_loss():
    old = validated("seq2seq", exact_match=0.0, loss=1.0)
    new = validated("seq2seq", exact_match=0.0, loss=1.2)
    [worse] = version_changes.differences(old, new)
    assert "loss 1.200, not loss 1.000" in worse
    assert version_changes.differences(new, old) == []


@pytest.mark.parametrize(
    "training", [None, {}, [], {"validation": None}, {"validation": {"a": 1}}]
)
def test_without_a_figure_nothing_is_said(training):
    known = validated(bits_per_character=1.5)
    unknown = description(training=training)
    assert version_changes.differences(known, unknown) == []
    assert version_changes.differences(unknown, known) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"model_config": configs.ModelConfig(units=100, vocabulary_size=4)},
            "its architecture differs (units: 100, not 192)",
        ),
        (
            {"tokenizer": tokenizers.build("byte", b"")},
            "its tokenizer differs (byte of 256 tokens, not char of 4 tokens)",
        ),
        (
            {"tokenizer": tokenizers.build("char", b"abd")},
            "its tokenizer differs (char of 4 tokens, but not the same ones)",
        ),
        ({"task": "classifier"}, "it is a classifier, not a language model"),
        (
            {
                "model_config": configs.ModelConfig(
                    units=192,
                    vocabulary_size=4,
                    dropout=0.5,
                    embedding_stddev=0.1,
                )
            },
            None,
        ),
        ({}, None),
    ],
)
def test_another_model(changes, text):
    found = version_changes.differences(description(), description(**changes))
    assert found == ([text] if text else [])


def test_other_labels():
    entries = {"labels": ["good", "bad"], "several_labels": False}
    old = description(task="classifier")
    new = description(task="classifier", entries=entries)
    assert version_changes.differences(old, new) == ["its labels differ"]


def write(path, bits, **model):
    for name, value in (
        (
            saved_models.CONFIG_FILE,
            {
                "model": configs.ModelConfig(**model).to_dict(),
                "sampling": {},
                "training": {"validation": {"bits_per_character": bits}},
            },
        ),
        (
            saved_models.TOKENIZER_FILE,
            tokenizers.build("char", b"ab").to_dict(),
        ),
        (saved_models.GRAPH_FILE, {}),
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(value))
    return path


def test_the_last_words_of_a_training(tmp_path):
    only = write(tmp_path / "m" / "4", 1.72)
    assert version_changes.warning(only) == ""
    worse = write(tmp_path / "m" / "5", 5.56, units=100)
    text = version_changes.warning(worse)
    for part in (
        f"{worse} takes the place of version 4 and is served now",
        "5.560 bits/char, not 1.720 bits/char",
        "units: 100, not 192",
        f"give --saved_model={only};",
        f"delete {worse};",
    ):
        assert part in text
    assert "\n" not in text
    assert (
        version_changes.warning(write(tmp_path / "m" / "6", 5.5, units=100))
        == ""
    )
    shutil.rmtree(worse / "assets")  # of a damaged one nothing is known
    shutil.rmtree(tmp_path / "m" / "6")
    assert version_changes.warning(write(tmp_path / "m" / "7", 9.0)) == ""


def test_every_setting_of_the_model_is_of_some_kind():
    names = {
        field.name for field in dataclasses.fields(configs.ModelConfig)
    }  # fmt: skip
    known = {*version_changes._TRAINING_ONLY, *version_changes._TOKENIZER_ONLY}
    assert known < names

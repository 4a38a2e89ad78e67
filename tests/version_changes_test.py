"""Differences between a version and the one it replaces are reported."""

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
        "fingerprint": None,
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
        ("language_model", 1.72, 1.80, ""),  # within the effect of another seed
        ("language_model", 1.72, 1.82, "1.820 bits/char, not 1.720 bits/char"),
        ("language_model", 1.72, 0.5, ""),
        ("language_model", 1.72, float("nan"), "nan bits/char"),
        ("classifier", 0.80, 0.785, ""),
        ("classifier", 0.80, 0.77, "accuracy 0.770, not accuracy 0.800"),
        ("seq2seq", 0.98, 0.97, ""),
        ("seq2seq", 0.98, 0.9, "90.0% exact, not 98.0%"),
    ],
)
def test_a_clearly_worse_validation_is_reported(task, old, new, text):
    figure = configs.TASKS[task].quality
    found = version_changes.differences(
        validated(task, **{figure: old}), validated(task, **{figure: new})
    )
    assert len(found) == bool(text)
    if text:
        assert found[0].startswith("it validates worse (") and text in found[0]


def test_the_loss_is_compared_where_nothing_is_exact():
    old = validated("seq2seq", exact_match=0.0, loss=1.0)
    new = validated("seq2seq", exact_match=0.0, loss=1.2)
    [worse] = version_changes.differences(old, new)
    assert "loss 1.200, not loss 1.000" in worse
    assert version_changes.differences(new, old) == []


@pytest.mark.parametrize(
    "training", [None, {}, [], {"validation": None}, {"validation": {"a": 1}}]
)
def test_missing_figures_are_not_compared(training):
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
def test_differences_of_the_model_are_reported(changes, text):
    found = version_changes.differences(description(), description(**changes))
    assert found == ([text] if text else [])


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


def test_a_training_warns_of_a_worse_takeover(tmp_path):
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
    shutil.rmtree(worse / "assets")  # a damaged one cannot be compared
    shutil.rmtree(tmp_path / "m" / "6")
    assert version_changes.warning(write(tmp_path / "m" / "7", 9.0)) == ""


def test_lists_of_settings_name_existing_ones():
    names = {
        field.name for field in dataclasses.fields(configs.ModelConfig)
    }  # fmt: skip
    known = {*version_changes._TRAINING_ONLY, *version_changes._TOKENIZER_ONLY}
    assert known < names

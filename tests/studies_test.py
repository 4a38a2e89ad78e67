"""The studies of experiments/: what they split, choose, refuse and save."""

import dataclasses
import json
import subprocess
import sys
import types

import numpy as np
import pytest

from stacked_rnn import configs, datasets
from stacked_rnn.configs import ModelConfig, TrainConfig, UserError
from tests.helpers import ROOT, exports, small_tasks

sys.path.append(str(ROOT / "experiments"))

import cells
import classification
import corpus_size
import quality
import study

# Classifiers ------------------------------------------------------------------


def test_equal_texts_are_on_the_same_side_of_a_split():
    texts = [f"text {number // 3}{' ' * (number % 3)}" for number in range(300)]
    labels = [("ab"[number // 3 % 2],) for number in range(300)]
    examples = datasets.LabelledTexts(texts, labels)
    rest, test = classification.split(examples, seed=1)
    assert len(rest.texts) + len(test.texts) == 300
    assert test.counts == {"a": 15, "b": 15}
    assert not {t.strip() for t in rest.texts} & {t.strip() for t in test.texts}


@pytest.mark.parametrize("label", ["x;y", ""])
def test_a_study_of_classifiers_needs_one_label_for_each_text(tmp_path, label):
    path = tmp_path / "texts.tsv"
    path.write_text(f"text\tlabel\none\tx\ntwo\t{label}\n")
    config = TrainConfig(
        task="classifier", corpus=str(path), label_separator=";"
    )
    with pytest.raises(UserError, match=r"--corpus=.*'two' has [02] labels"):
        classification.read(config)
    path.write_text("text\tlabel\none\tx; \ntwo\t;y\n")
    assert classification.read(config).labels == [("x",), ("y",)]


def test_short_strings_are_read_by_characters_as_train_py_does(tmp_path):
    path = small_tasks.write_corpus("classifier", tmp_path)
    given = {"units", "num_layers", "epochs", "jit_compile"}
    model_config, train_config = configs.with_task_defaults(
        ModelConfig(units=8, num_layers=1),
        TrainConfig(
            task="classifier", corpus=str(path), epochs=1, jit_compile=False
        ),
        given,
    )
    rest, test = classification.split(classification.read(train_config), 0)
    with exports.in_memory():
        scores, seconds, tokenizer = classification.score_this_project(
            rest, test, model_config, train_config, given
        )
    assert tokenizer == "char"
    assert 0 <= scores["accuracy"] <= 1 and seconds > 0


# Recipes ----------------------------------------------------------------------


@pytest.fixture
def scored(monkeypatch):
    """Replaces train.py and evaluate.py by their answers."""
    found = {
        "nats_per_token": 5.0,
        "bits_per_character": 1.5,
        "characters": 100,
    }

    def run(script, *arguments):
        return json.dumps(found) if script == "evaluate.py" else "", 60.0

    monkeypatch.setattr(quality, "run", run)
    monkeypatch.setattr(quality, "temperature", lambda model: 1.1)
    monkeypatch.setattr(
        quality, "split", lambda corpus, directory: ("learned", "new")
    )


@pytest.mark.parametrize("corpus", ["shakespeare", "timemachine"])
def test_recipes_are_scored_by_the_character(
    scored, monkeypatch, tmp_path, corpus
):
    """Published results on Shakespeare are shown beside that text alone."""
    drawn = []
    plot = quality.plot
    monkeypatch.setattr(
        quality,
        "plot",
        lambda results, others, report: (
            drawn.append(others),
            plot(results, others, report),
        ),
    )
    quality.main(
        quality.StudyConfig(
            output_dir=str(tmp_path), corpus=corpus, recipes="words"
        )
    )
    (result,) = json.loads((tmp_path / "quality.json").read_text())["results"]
    assert result["nats"] == pytest.approx(1.5 * np.log(2))
    assert bool(*drawn) == (corpus == "shakespeare")


def test_recipes_of_other_tasks_are_refused(tmp_path):
    for name in ("reviews", "short_strings"):
        config = quality.StudyConfig(output_dir=str(tmp_path), recipes=name)
        with pytest.raises(UserError, match=f"--recipes: no {name} among defa"):
            quality.main(config)
    assert "words" in quality.RECIPES


def test_a_killed_recipe_leaves_those_before_it(scored, monkeypatch, tmp_path):
    run, trained = quality.run, []

    def killed(script, *arguments):
        trained.append(script)
        if trained.count("train.py") == 2:
            raise study.common.failure(script, -9, "")
        return run(script, *arguments)

    monkeypatch.setattr(quality, "run", killed)
    config = quality.StudyConfig(output_dir=str(tmp_path), seeds="1,2")
    with pytest.raises(UserError, match=r"^train\.py ended with -9$"):
        quality.main(dataclasses.replace(config, recipes="default"))
    saved = json.loads((tmp_path / "quality.json").read_text())["results"]
    assert [result["seed"] for result in saved] == [1]


def test_a_script_that_fails_is_quoted(monkeypatch):
    for errors, message in (
        ("a warning\ntrain.py: error: --corpus=x\n", ": train.py: error: --co"),
        ("", "$"),
    ):
        ran = types.SimpleNamespace(returncode=2, stdout="", stderr=errors)
        monkeypatch.setattr(subprocess, "run", lambda *args, ran=ran, **kw: ran)
        with pytest.raises(UserError, match="^train.py ended with 2" + message):
            quality.run("train.py")


# Cells, sizes of the corpus ---------------------------------------------------


def curve(steps=12):
    """What `study.fit` returns."""
    places = [13 * number for number in range(1, steps + 1)]
    return {
        "steps": places,
        "nats": [2.0] * steps,
        "seconds_a_step": 0.1,
        "weights": 7,
    }


def test_runs_of_one_text_are_in_a_report_of_cells(monkeypatch, tmp_path):
    """Each is saved when it ends; those of another text are refused."""

    def accuracy(cells, shapes, config):
        yield shapes[0], cells[0], curve()
        raise KeyboardInterrupt

    monkeypatch.setitem(cells.PARTS, "accuracy", accuracy)
    config = cells.StudyConfig(output_dir=str(tmp_path), corpus="a.txt")
    with pytest.raises(KeyboardInterrupt):
        cells.main(config)
    saved = json.loads((tmp_path / "cells.json").read_text())
    assert saved["accuracy"] == {"1x128": {"gru": curve()}}
    assert saved["settings"] == {
        "corpus": "a", "epochs": cells.EPOCHS, "learning_rate": cells.RATE
    }  # fmt: skip
    other = dataclasses.replace(config, corpus="b.txt")
    with pytest.raises(UserError, match="--corpus=b.txt: the runs in .* 'a'"):
        cells.main(other)
    cells.main(dataclasses.replace(other, parts=""))  # the report again
    assert "1x128" in (tmp_path / "cells.md").read_text()


def test_the_text_of_the_report_of_cells_is_known():
    path = ROOT / "experiments/results/cells.json"
    saved = json.loads(path.read_text())
    cells.check_same(saved, cells.StudyConfig())


def test_a_training_that_ends_before_its_first_score_is_refused(tmp_path):
    trainer = small_tasks.make_trainer("language_model", tmp_path)
    with pytest.raises(UserError, match="too short.*longer --corpus"):
        study.fit(trainer, trainer.data.training, trainer.total_steps + 1)


def test_each_size_of_the_corpus_is_saved(monkeypatch, tmp_path):
    def measure(corpora):
        yield {64: {16384: {"perplexity": 9.0}}}
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus_size, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        corpus_size.main(corpus_size.StudyConfig(output_dir=str(tmp_path)))
    saved = json.loads((tmp_path / "corpus_size.json").read_text())
    assert saved["results"] == {"64": {"16384": {"perplexity": 9.0}}}

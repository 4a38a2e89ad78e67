"""Runs that begin with a trained model (--init_from)."""

import contextlib
import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import (
    configs,
    datasets,
    export,
    inference,
    models,
    pipeline,
    saved_models,
    tasks,
    tokenizers,
    training,
)
from stacked_rnn.training import warm_start
from tests.helpers import exports
from tests.helpers.small_models import (
    ALPHABET,
    build_generator,
    mirrored,
    small_config,
)

# With characters that the trained models never saw. What is held out is too
# short for two streams: its score is that of the whole text.
TEXT = "the bad age had a deaf \u00e9 face, z he fed a bad \u00e9gg\n" * 10
CONFIG = pathlib.Path("models/1") / saved_models.CONFIG_FILE
VARIABLES = pathlib.Path("models/1/variables/variables")
RECORD = pathlib.Path("old/checkpoints/model.json")
# All that does not contradict a trained model, so that nothing is chosen.
GIVEN = frozenset(
    (
        *configs.TASKS["language_model"].free_settings,
        *configs.TrainConfig().to_dict(),
    )
) - {"tokenizer", "letters_only", "document_separator"}


@pytest.fixture(scope="module")
def generator():
    """An LSTM with residual connections and tied embeddings."""
    return build_generator("lstm", residual=True, tie_embeddings=True)


@pytest.fixture(scope="module")
def workplace(generator, tmp_path_factory):
    """A directory with models and runs.

    text.txt   a new text
    models/1   the generator, exported
    old        a run on old.txt that has learned, and at the end forgotten all
    new        a run on text.txt that began with the weights of old
    """
    directory = tmp_path_factory.mktemp("workplace")
    with contextlib.chdir(directory):
        pathlib.Path("text.txt").write_text(TEXT, encoding="utf-8")
        with exports.in_memory():
            generator.save("models")
        pathlib.Path("old.txt").write_text("a bad cabbage had a face\n" * 20)
        config = train_config(corpus="old.txt")
        data = datasets.load_language_data(config)
        size = data.tokenizer.vocabulary_size()
        model_config = small_config(dropout=0.1, vocabulary_size=size)
        trainer = training.Trainer(
            model_config, config, tasks.LanguageModelTask(data), "old"
        )
        train(trainer, 2 * data.training.steps_per_epoch)
        trainer.model.set_weights([0 * w for w in trainer.model.get_weights()])
        train(trainer, trainer.step + 1)
        train(make_trainer("old", "new"), 10)
    return directory


@pytest.fixture(autouse=True)
def here(workplace, tmp_path, monkeypatch):
    """Every test works in a copy of the workplace."""
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def train_config(**changes):
    settings = {
        "corpus": "text.txt",
        "sequence_length": 5,
        "batch_size": 4,
        "validation_fraction": 0.1,
        "widen_vocabulary": False,
        "jit_compile": False,  # compiling takes longer than these few steps
    } | changes
    return configs.TrainConfig(**settings)


def prepare(init_from, model_dir="another", model=None, given=(), **changes):
    return warm_start.resolve_init_from(
        configs.ModelConfig(**model or {}),
        train_config(init_from=init_from, **changes),
        model_dir,
        given,
    )


def read_task(start):
    return tasks.LanguageModelTask.read(start)


def make_trainer(init_from, model_dir="another", strategy=None, **changes):
    start, task, model_config = pipeline.read(
        configs.ModelConfig(**changes.pop("model", {})),
        train_config(init_from=init_from, **changes),
        model_dir,
        GIVEN,
    )
    return training.Trainer(
        model_config,
        start.train_config,
        task,
        model_dir,
        strategy,
        initial_weights=task.initial_weights(start, model_config),
    )


def train(trainer, total_steps):
    trainer.total_steps = total_steps
    trainer.fit(verbose=0)


def assert_weights(trainer, weights):
    for got, expected in zip(trainer.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, expected)


# What is kept


@exports.in_memory()
def test_a_run_begins_with_the_weights_of_a_saved_model(generator):
    trainer = make_trainer(
        "models", model={"dropout": 0.2, "recurrent_dropout": 0.1}
    )
    assert trainer.step == 0 and int(trainer.optimizer.iterations) == 0
    assert trainer.model.config == dataclasses.replace(
        generator.model.config, dropout=0.2, recurrent_dropout=0.1
    )
    token_ids = tf.constant([[3, 1, 4, 1, 5, 9, 2, 6]])
    np.testing.assert_allclose(
        trainer.model(token_ids), generator.model(token_ids), atol=1e-6
    )
    score = trainer.evaluate(trainer.data.validation)
    held_out = TEXT[int(len(TEXT) * 0.9) :]
    expected = inference.load("models").evaluate(held_out.encode())
    assert score.tokens == expected["tokens"]
    assert score.nats_per_token == pytest.approx(
        expected["nats_per_token"], rel=1e-5
    )


def test_a_run_begins_with_the_best_weights_of_another():
    record = json.loads(RECORD.read_text())
    trainer = make_trainer("old")
    assert trainer.step == 0 and int(trainer.optimizer.iterations) == 0
    assert trainer.data.tokenizer.to_dict() == record["tokenizer"]
    assert trainer.model.config.to_dict() == record["model"] | {"dropout": 0.0}
    old = training.Trainer(
        configs.ModelConfig.from_dict(record["model"]),
        train_config(corpus="old.txt"),
        tasks.LanguageModelTask(
            dataclasses.replace(trainer.data, digest=record["digest"])
        ),
        "old",
    )
    best = old.best_model().get_weights()
    assert_weights(trainer, best)
    assert np.abs(best[0] - old.model.get_weights()[0]).max() > 0.1
    old.model.set_weights(best)
    windows = trainer.data.validation
    assert trainer.evaluate(windows) == old.evaluate(windows)


def test_without_a_best_checkpoint_the_last_is_used():
    best = prepare("old").model.get_weights()
    shutil.rmtree("old/checkpoints/best")
    last = prepare("old").model.get_weights()
    assert np.abs(last[0]).max() < 0.1 < np.abs(best[0]).max()


def test_the_last_weights_are_averages_where_the_run_has_them():
    """As in the export of a run that has validated nothing."""
    trainer = make_trainer(
        "old", "averaged", average_decay=0.9, validation_fraction=0.0
    )
    train(trainer, 5)
    averages = trainer.weights()
    assert np.abs(trainer.model.get_weights()[0] - averages[0]).max() > 1e-4
    weights = prepare("averaged").model.get_weights()
    for got, expected in zip(weights, averages, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_all_replicas_begin_with_the_weights(generator):
    trainer = make_trainer("models/1", strategy=mirrored())
    for variable, expected in zip(
        trainer.model.weights, generator.model.get_weights(), strict=True
    ):
        copies = trainer.strategy.experimental_local_results(variable.value)
        assert len(copies) == 2
        for copy in copies:
            np.testing.assert_array_equal(copy, expected)


@pytest.mark.parametrize("windows", [{}, {"train_windows": 100}])
def test_the_vocabulary_is_kept_and_unknown_characters_are_listed(
    generator, windows
):
    data = read_task(prepare("models", tokenizer="word", **windows)).data
    assert data.tokenizer == generator.tokenizer
    assert data.unknown_parts == ["t", "\u00e9", ",", "z"]
    assert 0 in data.training.token_ids


def test_without_init_from_nothing_changes():
    start = prepare("", model={"units": 7})
    assert start.model_config == configs.ModelConfig(units=7)
    assert start.train_config == train_config()
    assert start.tokenizer is start.model is start.path is None


# What is refused


def test_flags_that_contradict_the_trained_model_are_refused():
    asked = {
        "model": {"cell": "lstm", "units": 7, "num_layers": 3, "dropout": 0.5},
        "letters_only": True,
    }
    given = {"cell", "units", "dropout", "tokenizer", "letters_only", "epochs"}
    with pytest.raises(configs.UserError) as error:
        prepare("models", given=given, **asked)
    assert str(error.value) == (
        "--init_from=models: the architecture and the tokenizer of a trained "
        "model are kept: leave out --units=7 (it has 6), --letters_only=True "
        "(it has False)"
    )
    start = prepare("models", given={"dropout"}, **asked)
    assert (start.model_config.units, start.model_config.dropout) == (6, 0.5)


DENSE = {
    "readout_layers": "concat",
    "embedding_to_all_layers": True,
    "end_of_text": True,
}


def resolve(settings):
    """What --init_from leads to with the flags of a command."""
    model_and_train_config = configs.replace_settings(
        (configs.ModelConfig(), configs.TrainConfig()), settings
    )
    return warm_start.resolve_init_from(
        *configs.with_task_defaults(*model_and_train_config, settings),
        "another",
        settings,
    )


@exports.in_memory()
@pytest.mark.parametrize(
    ("task", "wiring"),
    [
        ("language_model", DENSE),
        ("classifier", DENSE),
        ("classifier", {"tie_embeddings": True}),
    ],
)
def test_recorded_flags_repeat_the_run(task, wiring):
    """They are all that the task does not ignore, the trained model's too."""
    separator = r"\n" if "end_of_text" in wiring else ""
    tokenizer = tokenizers.build(
        "char", ALPHABET.encode(), document_separator=separator
    )
    version = build_generator("lstm", tokenizer, **wiring).save("trained")
    start = resolve({"task": task, "init_from": str(version)})
    settings = start.model_config.to_dict() | start.train_config.to_dict()
    written = configs.to_flags(
        start.model_config, start.train_config,
        ignored=configs.TASKS[task].ignored,
    )  # fmt: skip
    again = resolve(
        {
            name: value
            for name, value in settings.items()
            if re.search(f"^--(no)?{name}(=|$)", written, re.MULTILINE)
        }
    )
    assert again.model_config == start.model_config
    assert again.train_config == start.train_config


def test_init_from_its_own_run_is_refused():
    with pytest.raises(
        configs.UserError, match="--init_from=old .*--model_dir"
    ):
        prepare("old", "models/../old")


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def add_a_layer(path):
    path.write_text(path.read_text().replace('rs": 2', 'rs": 3'))


@pytest.mark.parametrize(
    ("init_from", "damage", "message"),
    [
        ("nowhere", None, "no such directory"),
        ("text.txt", None, "no such directory"),
        ("old/checkpoints", None, "neither a SavedModel .* nor a run"),
        ("models/1", CONFIG.unlink, "not a SavedModel of stacked_rnn"),
        ("models/1", lambda: cut_short(CONFIG), "damaged"),
        ("models/1", lambda: CONFIG.write_text("{}"), "damaged"),
        ("models/1", lambda: CONFIG.write_text("[]"), "damaged"),
        ("models/1", lambda: add_a_layer(CONFIG), "not of this model"),
        (
            "models/1",
            lambda: cut_short(VARIABLES.with_suffix(".index")),
            "weights are damaged",
        ),
        (
            "models/1",
            VARIABLES.with_suffix(".data-00000-of-00001").unlink,
            "weights are damaged",
        ),
        ("old", lambda: cut_short(RECORD), "damaged"),
        ("old", lambda: RECORD.write_text("{}"), "not of this project"),
        ("old", lambda: RECORD.write_text("[]"), "not of this project"),
        ("old", lambda: add_a_layer(RECORD), "not of this model"),
        (
            "old",
            lambda: cut_short(next(RECORD.parent.glob("best/*.data*"))),
            "weights are damaged",
        ),
        (
            "old",
            lambda: [shutil.rmtree(path) for path in RECORD.parent.glob("*t")],
            "no checkpoint",
        ),
    ],
)
def test_a_bad_init_from_is_one_line(init_from, damage, message):
    if damage:
        damage()
    with pytest.raises(configs.UserError, match=message) as error:
        prepare(init_from)
    assert str(error.value).startswith(f"--init_from={init_from}: ")
    assert "\n" not in str(error.value)
    assert not pathlib.Path("another").exists()


# The same command again


def test_a_begun_run_resumes_without_the_trained_model():
    begun = prepare("old", "another").model.get_weights()
    shutil.rmtree("old")
    pathlib.Path("text.txt").rename("moved.txt")
    trainer = make_trainer("old", "new", corpus="moved.txt")
    assert trainer.step == 10
    assert np.abs(begun[0] - trainer.model.get_weights()[0]).max() > 0
    train(trainer, 11)
    again = make_trainer("old", "new", corpus="moved.txt")
    assert again.step == 11
    assert_weights(again, trainer.model.get_weights())
    pathlib.Path("moved.txt").rename("text.txt")
    # The weights now come from "new"; the error names the flag.
    with pytest.raises(configs.UserError, match="^--init_from=old: the arch"):
        prepare("old", "new", model={"units": 7}, given={"units"})


def test_a_run_without_a_checkpoint_starts_over():
    for _ in range(2):  # the first is killed before its first step
        trainer = make_trainer("old")
        assert trainer.step == 0
        assert_weights(trainer, prepare("old").model.get_weights())


@pytest.mark.parametrize(
    "changes",
    [
        {"resume": False},
        {"model": {"dropout": 0.1}},
        {"learning_rate": 0.001},
        {"corpus": "text.txt,text.txt"},
        {"init_from": "models/../old"},
    ],
)
def test_another_run_in_the_way_is_moved_aside(changes):
    """The new run begins with the weights asked for."""
    trainer = make_trainer(**{"init_from": "old", "model_dir": "new"} | changes)
    assert trainer.step == 0
    assert pathlib.Path("new.1/checkpoints/last").exists()
    assert_weights(trainer, prepare("old").model.get_weights())


def test_a_run_begun_without_init_from_is_not_resumed_with_it():
    """Not even with the same architecture, vocabulary and corpus."""
    record = pathlib.Path("new/checkpoints/model.json")
    description = json.loads(record.read_text())
    assert description.pop("init_from") == "old"  # as earlier versions wrote
    del description["settings"]
    record.write_text(json.dumps(description))
    with pytest.raises(configs.UserError, match="init_from: '', not 'old'"):
        make_trainer("old", "new", resume=True)
    start = dataclasses.replace(prepare("old"), train_config=train_config())
    task = read_task(start)
    plain = training.Trainer(
        task.complete(start.model_config), start.train_config, task, "new"
    )
    assert plain.step == 10
    assert make_trainer("old", "new").step == 0


# A classifier -----------------------------------------------------------------


@pytest.fixture
def labelled(here):
    """Labelled texts beside the models."""
    lines = ["text\tlabel"] + ["a bad face\tx", "he had an egg\ty"] * 20
    pathlib.Path("labelled.tsv").write_text("\n".join(lines))


def classifier_task(bidirectional=False, model_dir="classified", **changes):
    start = warm_start.resolve_init_from(
        small_config(bidirectional=bidirectional, residual=True, pooling="max"),
        configs.TrainConfig(
            task="classifier", corpus="labelled.tsv", **changes
        ),
        model_dir,
        {"bidirectional", "residual", "pooling"},
    )
    task = tasks.ClassifierTask.read(start)
    return start, task, task.complete(start.model_config)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_classifier_begins_with_the_backbone_of_a_language_model(
    bidirectional, generator, labelled
):
    start, task, config = classifier_task(bidirectional, init_from="models")
    assert task.data.tokenizer == generator.tokenizer
    assert config.bidirectional == bidirectional
    assert config.cell == "lstm"
    assert not config.tie_embeddings
    trainer = training.Trainer(
        config, start.train_config, task,
        initial_weights=task.initial_weights(start, config),
    )  # fmt: skip
    model, trained = trainer.model, generator.model
    taken = [model.embedding.embeddings, *forwards(model, 0)]
    expected = [
        trained.embedding.embeddings,
        *trained.recurrent_layers[0].weights,
    ]
    if not bidirectional:
        taken += forwards(model, 1)
        expected += trained.recurrent_layers[1].weights
    for weight, other in zip(taken, expected, strict=True):
        np.testing.assert_array_equal(weight, other)
    assert task.taken_weights(start, config) == (
        "the embedding and 1 of 2 layer(s), forwards only,"
        if bidirectional
        else "the embedding and 2 of 2 layer(s)"
    )


def forwards(model, index):
    """The weights of the forward layer."""
    layer = model.stack[index]
    return getattr(layer, "forward_layer", layer).weights


def test_a_classifier_begun_with_a_language_model_resumes(labelled):
    for epochs in (1, 2):
        start, task, config = classifier_task(
            init_from="models", epochs=epochs, jit_compile=False
        )
        trainer = training.Trainer(
            config, start.train_config, task, "classified",
            initial_weights=task.initial_weights(start, config),
        )  # fmt: skip
        assert trainer.step == (epochs - 1) * task.data.training.steps_per_epoch
        trainer.fit(verbose=0)


def test_init_from_a_classifier_is_refused(labelled):
    _, task, config = classifier_task(model_dir="plain")
    classifier = export.TextClassifier(
        models.build_classifier(config, 2),
        task.data.tokenizer, task.data.labels, 9,
    )  # fmt: skip
    with exports.in_memory():
        version = classifier.save("classifiers")
    with pytest.raises(
        configs.UserError, match="a classifier: a run can start"
    ):
        classifier_task(init_from=str(version), model_dir="another")

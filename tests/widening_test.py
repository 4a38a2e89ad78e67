"""Fine-tuning that adds new characters or words to the vocabulary."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from stacked_rnn import configs, inference, tasks, tokenizers, training
from stacked_rnn.training import warm_start
from tests.helpers import exports
from tests.helpers.small_models import ALPHABET, build_generator

TEXT = "a bee \u00e9gg had a z\n" * 30  # the model knows the letters a to h
NEW = ["z", "\u00e9"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("text.txt").write_text(TEXT, encoding="utf-8")


@pytest.fixture
def of_letters(here, letters):
    """A model of the letters a to h, in `models`."""
    shutil.copytree(letters, "models/1")


@pytest.fixture(scope="module")
def exported_words(tmp_path_factory):
    """A model of five words, exported."""
    tokenizer = tokenizers.build("word", b"a bee face\n", 5)
    with exports.in_memory():
        return build_generator(tokenizer=tokenizer).save(
            tmp_path_factory.mktemp("words")
        )


@pytest.fixture
def of_words(here, exported_words):
    """The model of five words, in `models`."""
    shutil.copytree(exported_words, "models/1")


def make_trainer(given=(), vocabulary_size=0, **changes):
    """What train.py makes of --init_from=models."""
    settings = {
        "corpus": "text.txt", "init_from": "models", "sequence_length": 5,
        "batch_size": 4, "jit_compile": False, "learning_rate": 0.02,
        "learning_rate_schedule": "constant",
    } | changes  # fmt: skip
    start = warm_start.resolve_init_from(
        configs.ModelConfig(vocabulary_size=vocabulary_size),
        configs.TrainConfig(**settings),
        "run",
        given,
    )
    task = tasks.LanguageModelTask.read(start)
    model_config = task.complete(start.model_config)
    return training.Trainer(
        model_config,
        start.train_config,
        task,
        "run",
        initial_weights=task.initial_weights(start, model_config),
    )


def train(trainer, total_steps):
    trainer.total_steps = total_steps
    trainer.fit(verbose=0)


@pytest.mark.parametrize(
    ("separator", "architecture"),
    [
        ("", {}),
        (r"\n", {"readout_layers": "concat", "cell": "lstm"}),
        (r"\n", {"num_layers": 1, "tie_embeddings": True, "units": 5}),
        ("", {"tie_embeddings": True, "readout_layers": "concat"}),
        # As many units as tokens: the shapes do not tell them apart.
        (r"\n", {"num_layers": 1, "tie_embeddings": True, "embedding_dim": 11,
                "units": 11}),
        ("", {"num_layers": 1, "embedding_dim": 11, "units": 11}),
    ],
)  # fmt: skip
@exports.in_memory()
def test_old_tokens_keep_their_weights_and_logits(separator, architecture):
    tokenizer = tokenizers.build(
        "char", ALPHABET.encode(), document_separator=separator
    )
    generator = build_generator(
        tokenizer=tokenizer, end_of_text=bool(separator), **architecture
    )
    generator.save("models")
    trainer = make_trainer()
    assert trainer.data.tokenizer.to_dict()["vocabulary"].endswith("hz\u00e9")
    old, new = generator.model, trainer.model
    size = old.config.vocabulary_size
    old_ids = np.arange(size)
    if separator:  # the last token ends a document
        old_ids[-1] += 2
    for weight, trained in zip(new.weights, old.weights, strict=True):
        values = weight.numpy()
        if weight.path == "embedding/embeddings":
            values = values[old_ids]
        elif weight.path.startswith("readout/"):
            values = values[..., old_ids]
        np.testing.assert_array_equal(values, trained)
    text = ["a bad\nhad a bee\n"]
    logits = new(trainer.data.tokenizer.tokenize(text).to_tensor()).numpy()
    np.testing.assert_allclose(
        logits[..., old_ids],
        old(tokenizer.tokenize(text).to_tensor()),
        atol=1e-6,
    )
    new_ids = [size - bool(separator), size - bool(separator) + 1]
    assert np.ptp(new.embedding.embeddings.numpy()[new_ids], axis=0).all()
    if not old.config.tie_embeddings:
        lowest = old.readout.bias.numpy().min()
        np.testing.assert_array_equal(logits[..., new_ids], lowest)


@pytest.mark.parametrize(
    ("tie_embeddings", "average_decay"), [(False, 0.0), (True, 0.5)]
)
@exports.in_memory()
def test_new_characters_are_learned_exported_and_generated(
    tie_embeddings, average_decay
):
    build_generator(tie_embeddings=tie_embeddings).save("models")
    trainer = make_trainer(
        epochs=8, learning_rate=0.05, average_decay=average_decay
    )
    held_out = TEXT[int(len(TEXT) * 0.9) :].encode()
    before = trainer.evaluate(trainer.data.validation)
    trainer.fit(verbose=0)
    assert trainer.best_row["val_loss"] < before.nats_per_token / 3
    exported = trainer.task.exported(trainer.best_model())
    model = inference.load(exported.save("widened"))
    result = model.evaluate(held_out)
    assert result["unknown_tokens"] == 0
    assert result["nats_per_token"] == pytest.approx(
        trainer.best_row["val_loss"], rel=1e-4
    )
    sampling = configs.SamplingConfig(temperature=0.0, max_new_tokens=17)
    [continuation] = model.continuations(["a bee"], sampling)
    assert continuation.text.startswith(" \u00e9gg had a z\n")


def test_one_line_names_the_new_tokens(of_letters, capsys):
    trainer = make_trainer()
    trainer.task.warn()
    assert capsys.readouterr().err.startswith(
        "note: 2 new characters join the vocabulary of models: 'z' '\u00e9'\n"
    )


def test_only_the_training_part_has_new_tokens(of_letters):
    pathlib.Path("text.txt").write_text(TEXT + "\u00fc", encoding="utf-8")
    trainer = make_trainer(validation="end")
    assert trainer.model.config.vocabulary_size == 13
    assert trainer.data.unknown_parts == ["\u00fc"]


def test_without_widening_the_vocabulary_is_kept(generator, of_letters):
    trainer = make_trainer(widen_vocabulary=False)
    assert trainer.data.tokenizer == generator.tokenizer
    assert trainer.data.unknown_parts == ["\u00e9", "z"]
    for weight, trained in zip(
        trainer.model.weights, generator.model.weights, strict=True
    ):
        np.testing.assert_array_equal(weight, trained)


@exports.in_memory()
def test_documents_end_as_before():
    tokenizer = tokenizers.build("char", b"abcdefgh ", document_separator=r"\n")
    build_generator(tokenizer=tokenizer, end_of_text=True).save("models")
    pathlib.Path("text.txt").write_text(
        "".join(f"a bad z, {number}\n" for number in range(100))
    )
    data = make_trainer().data
    assert data.held_out == "documents" and not data.unknown_parts
    assert data.tokenizer.end_id == data.tokenizer.vocabulary_size() - 1
    assert np.count_nonzero(data.training.token_ids == data.tokenizer.end_id)


# Words ------------------------------------------------------------------------


def words_of(trainer):
    return trainer.data.tokenizer.to_dict()["vocabulary"]


def test_words_join_up_to_the_vocabulary_size(of_words, capsys):
    old = ["<unk>", "a", " bee", " face", "\n"]
    assert words_of(make_trainer(resume=False)) == [
        *old, " \u00e9gg", " had", " a", " z"
    ]  # fmt: skip
    limited = make_trainer({"vocabulary_size"}, 7, resume=False)
    assert words_of(limited) == [*old, " \u00e9gg", " had"]
    assert limited.data.unknown_parts == [" a", " z"]
    full = make_trainer({"vocabulary_size"}, 5, resume=False)
    assert words_of(full) == old
    full.task.warn()
    assert "join" not in capsys.readouterr().err
    with pytest.raises(configs.UserError, match="vocabulary_size=4 .it has 5"):
        make_trainer({"vocabulary_size"}, 4)
    with pytest.raises(configs.UserError, match="vocabulary_size=7 .it has 5"):
        make_trainer({"vocabulary_size"}, 7, widen_vocabulary=False)


# Resuming ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "size"), [("of_letters", 0), ("of_words", 7)]
)
def test_the_same_command_resumes_the_widened_run(models, size, request):
    request.getfixturevalue(models)
    given = {"vocabulary_size"} if size else ()
    first = make_trainer(given, size)
    train(first, 3)
    shutil.rmtree("models")
    again = make_trainer(given, size)
    assert again.step == 3
    assert again.data.tokenizer == first.data.tokenizer
    assert again.data.unknown_parts == first.data.unknown_parts
    assert "join" not in " ".join(again.data.notes)
    for got, expected in zip(again.model.weights, first.model.weights):
        np.testing.assert_array_equal(got, expected)
    train(again, 4)
    assert make_trainer(given, size).step == 4


@pytest.mark.parametrize(
    ("size", "changes"), [(6, {}), (0, {"widen_vocabulary": False})]
)
def test_another_vocabulary_is_another_run(size, changes, of_words):
    train(make_trainer(), 3)
    trainer = make_trainer({"vocabulary_size"}, size, **changes)
    assert trainer.step == 0 and pathlib.Path("run.1").exists()
    assert len(words_of(trainer)) == (size or 5)
    assert np.abs(trainer.model.embedding.embeddings[1]).max() > 0.2


def test_a_widened_run_is_the_start_of_another(of_letters):
    train(make_trainer(), 3)
    pathlib.Path("run").rename("models.run")
    pathlib.Path("text.txt").write_text("!" + TEXT, encoding="utf-8")
    trainer = make_trainer(init_from="models.run")
    assert trainer.data.tokenizer.to_dict()["vocabulary"].endswith("hz\u00e9!")


def test_a_run_of_an_earlier_version_is_not_widened(of_letters):
    train(make_trainer(widen_vocabulary=False), 3)
    record = pathlib.Path("run/checkpoints/model.json")
    description = json.loads(record.read_text())
    del description["vocabulary_limit"]
    del description["settings"]["widen_vocabulary"]
    record.write_text(json.dumps(description))
    trainer = make_trainer()
    assert trainer.step == 3 and trainer.data.unknown_parts == ["\u00e9", "z"]

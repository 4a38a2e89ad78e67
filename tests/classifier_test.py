"""The classifier: masks, pooling, labels, training, export, predictions."""

import itertools
import json
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from stacked_rnn import (
    configs,
    datasets,
    export,
    inference,
    metrics,
    models,
    tasks,
    training,
)
from stacked_rnn.cli import predict
from stacked_rnn.configs import UserError
from stacked_rnn.training import warm_start
from tests.helpers.live_server import completion, request, serving
from tests.helpers.small_models import randomized_model, small_config

LENGTHS = np.array([6, 3, 1, 0])
MASK = np.arange(6)[None] < LENGTHS[:, None]
POOLINGS = ("last", "mean", "max", "mean_max")


def build(rng, num_classes=3, multi_label=False, **changes):
    """Builds a classifier with random weights, biases included."""
    config = small_config(
        **{"embedding_dim": 5, "vocabulary_size": 11, "num_layers": 2} | changes
    )
    model = models.build_classifier(config, num_classes, multi_label)
    model.set_weights(
        [rng.normal(0, 0.5, w.shape).astype("float32") for w in model.weights]
    )
    return model


def token_ids_of(rng):
    return rng.integers(0, 11, MASK.shape).astype("int32")


@pytest.mark.parametrize(
    ("cell", "pooling", "bidirectional", "residual", "jit_compile"),
    [
        *itertools.product(["gru"], POOLINGS, [False, True], [True], [None]),
        ("lstm", "last", True, False, None),
        ("simple_rnn", "max", True, False, None),
        ("gru", "mean_max", True, True, False),
        ("gru", "mean_max", True, True, True),
    ],
)
def test_padding_never_changes_logits(
    cell, pooling, bidirectional, residual, jit_compile, rng
):
    """Neither its length nor its content."""
    model = build(
        rng, cell=cell, pooling=pooling, bidirectional=bidirectional,
        residual=residual,
    )  # fmt: skip
    call = model
    if jit_compile is not None:
        call = tf.function(model, jit_compile=jit_compile)
    token_ids = token_ids_of(rng)
    logits = call({"token_ids": token_ids, "mask": MASK})
    other = np.where(MASK, token_ids, 7)
    padded = call(
        {
            "token_ids": np.pad(other, ((0, 0), (0, 5)), constant_values=3),
            "mask": np.pad(MASK, ((0, 0), (0, 5))),
        }
    )
    np.testing.assert_allclose(padded, logits, atol=1e-6)
    if jit_compile is not None:  # each length would be compiled
        return
    for row, length in enumerate(LENGTHS[:3]):
        alone = call(
            {
                "token_ids": token_ids[row : row + 1, :length],
                "mask": np.ones((1, length), bool),
            }
        )
        np.testing.assert_allclose(alone[0], logits[row], atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_logits_equal_stock_keras_layers(pooling, bidirectional, rng):
    """Stock layers, text by text without padding, pooled by NumPy."""
    model = build(
        rng, cell="gru", pooling=pooling, bidirectional=bidirectional,
        residual=True, num_layers=2,
    )  # fmt: skip
    kernel = model.residual_projection.kernel.numpy()
    token_ids = token_ids_of(rng)
    logits = model({"token_ids": token_ids, "mask": MASK}).numpy()
    for row, length in enumerate(LENGTHS[:3]):
        x = model.embedding.embeddings.numpy()[
            token_ids[row : row + 1, :length]
        ]
        for index, layer in enumerate(model.stack):
            is_top = index == 1
            stock = keras.layers.GRU(
                model.config.units,
                return_sequences=not (is_top and pooling == "last"),
            )
            if bidirectional:
                stock = keras.layers.Bidirectional(stock)
            y = stock(x).numpy()
            stock.set_weights(layer.get_weights())
            y = stock(x).numpy()
            if not (is_top and pooling == "last"):
                y = y + (x @ kernel if index == 0 else x)
            x = y
        pooled = {
            "last": lambda x: x,
            "mean": lambda x: x.mean(1),
            "max": lambda x: x.max(1),
            "mean_max": lambda x: np.concatenate([x.mean(1), x.max(1)], -1),
        }[pooling](x)
        np.testing.assert_allclose(
            model.readout(pooled)[0], logits[row], atol=1e-5
        )


def test_all_layers_but_the_last_return_sequences():
    model = models.build_classifier(small_config(num_layers=3), 3)
    assert [layer.return_sequences for layer in model.stack] == [
        True, True, False,
    ]  # fmt: skip


def test_scores_are_sigmoid_or_softmax_of_logits(rng):
    logits = rng.normal(0, 2, (5, 1)).astype("float32")
    binary = models.build_classifier(small_config(), 2)
    p = 1 / (1 + np.exp(-logits[:, 0]))
    np.testing.assert_allclose(
        binary.scores(logits), np.stack([1 - p, p], 1), atol=1e-6
    )
    logits = rng.normal(0, 2, (5, 3)).astype("float32")
    several = models.build_classifier(small_config(), 3, multi_label=True)
    np.testing.assert_allclose(
        several.scores(logits), 1 / (1 + np.exp(-logits)), atol=1e-6
    )
    one = models.build_classifier(small_config(), 3).scores(logits).numpy()
    np.testing.assert_allclose(one.sum(1), 1, atol=1e-6)
    assert (one.argmax(1) == logits.argmax(1)).all()


@pytest.mark.parametrize(
    ("trained", "changes", "count"),
    [
        ({}, {}, 2),
        ({}, {"bidirectional": True}, 1),
        ({"residual": True}, {"residual": True}, 2),
        ({"residual": True}, {}, 1),
        ({"embedding_to_all_layers": True, "embedding_dim": 6}, {}, 1),
        (
            {"embedding_to_all_layers": True, "embedding_dim": 6},
            {"bidirectional": True}, 1,
        ),
    ],
)  # fmt: skip
def test_layers_are_taken_where_their_inputs_mean_the_same(
    trained, changes, count
):
    """The kernels of the last case have the same shapes, too."""
    language_model = randomized_model(small_config(**trained))
    trained = {name: trained[name] for name in trained if "all" not in name}
    config = small_config(**trained | {"residual": False} | changes)
    model = models.build_classifier(config, 3)
    model.load_backbone_from(language_model)
    pairs = zip(
        model.recurrent_layers[:: 1 + config.bidirectional],
        language_model.recurrent_layers,
    )
    is_taken = [
        all(map(np.array_equal, layer.get_weights(), other.get_weights()))
        for layer, other in pairs
    ]
    assert is_taken == [True, count == 2]
    if config.residual:
        np.testing.assert_array_equal(
            model.residual_projection.kernel,
            language_model.residual_projection.kernel,
        )


def test_keras_file_round_trip(rng, tmp_path):
    model = build(rng, bidirectional=True, residual=True, multi_label=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    inputs = {"token_ids": token_ids_of(rng), "mask": MASK}
    np.testing.assert_array_equal(loaded(inputs), model(inputs))
    assert loaded.multi_label


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"tie_embeddings": True}, 2, "--tie_embeddings"),
        ({"vocabulary_size": 0}, 2, "vocabulary_size=0"),
        ({}, 1, "num_classes=1: .* at least 2"),
    ],
)
def test_invalid_configs_are_refused(changes, classes, message):
    with pytest.raises(UserError, match=message):
        models.build_classifier(small_config(**changes), classes)


# Training ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """400 texts of letters; the class is a pair of neighbouring letters."""
    rng = np.random.default_rng(0)
    lines = ["text\tlabel"]
    for _ in range(400):
        letters = list("abcd" * 3)
        rng.shuffle(letters)
        text = "".join(letters[: rng.integers(4, 12)])
        place = rng.integers(len(text))
        pair = ["xy", "yx", "zz"][rng.integers(3)]
        lines.append(f"{text[:place]}{pair}{text[place:]}\t{pair}")
    path = tmp_path_factory.mktemp("corpus") / "a.tsv"
    path.write_text("\n".join(lines))
    return path


def make_trainer(corpus, model_dir=None, strategy=None, model=None, **changes):
    settings = {
        "task": "classifier", "corpus": str(corpus), "batch_size": 16,
        "epochs": 1, "jit_compile": False, "learning_rate": 0.01,
        "learning_rate_schedule": "constant",
    } | changes  # fmt: skip
    config = configs.TrainConfig(**settings)
    data = datasets.load_classification_data(config)
    options = {
        "units": 16, "num_layers": 1, "pooling": "max",
        "vocabulary_size": data.tokenizer.vocabulary_size(),
    } | (model or {})  # fmt: skip
    return training.Trainer(
        small_config(**options),
        config,
        tasks.ClassifierTask(data),
        model_dir,
        strategy,
    )


def test_training_learns_and_the_export_scores_the_same(corpus, tmp_path):
    trainer = make_trainer(corpus, epochs=12, model={"bidirectional": True})
    trainer.fit(verbose=0)
    score = trainer.evaluate(trainer.data.validation)
    assert score.accuracy > 0.9
    assert score.predictions == len(trainer.data.validation) == 39
    product = export.TextClassifier(
        trainer.best_model(), trainer.data.tokenizer, trainer.data.labels, 100
    )
    saved = inference.load(product.save(tmp_path / "model"))
    result = saved.evaluate(trainer.data.validation_texts)
    assert result["accuracy"] == pytest.approx(score.accuracy)
    assert result["examples"] == 39
    assert np.sum(result["confusion"]) == 39


@pytest.mark.parametrize("multi_label", [False, True])
def test_exported_confidence_is_calibrated(multi_label, tmp_path):
    """An overconfident model gets a temperature; its predictions stay."""
    rng = np.random.default_rng(1)
    rows = ["text\tlabel"]
    for _ in range(400):
        text = "".join(rng.choice(list("abc"), 3))
        label = text[0] if rng.uniform() < 0.8 else rng.choice(list("abc"))
        other = rng.choice(["", ",d"]) if multi_label else ""
        rows.append(f"{text}\t{label}{other}")
    corpus = tmp_path / "a.tsv"
    corpus.write_text("\n".join(rows))
    start = warm_start.WarmStart(
        small_config(units=8, num_layers=1),
        configs.TrainConfig(
            task="classifier",
            corpus=str(corpus),
            label_separator="," if multi_label else "",
        ),
    )
    task = tasks.ClassifierTask.read(start)
    model = task.build(task.complete(start.model_config), use_cudnn=False)
    model.apply_temperature(1 / 15)
    product = task.exported(model)
    texts = task.data.validation_texts
    targets = inference.classifier.label_matrix(texts, task.data.labels)

    def asked():
        scores = inference.classifier.compute_scores(
            product.serving_default, texts.texts
        )
        said = metrics.predicted_classes(scores, multi_label)
        report = metrics.classification_report(scores, targets, multi_label)
        return said, report["calibration_error"]

    said, error = asked()
    task.finish(product, **task.calibrate(product))
    said_now, error_now = asked()
    np.testing.assert_array_equal(said_now, said)
    assert error > 0.3 and error_now < 0.7 * error


def test_scores_are_computed_in_order_of_length(monkeypatch):
    monkeypatch.setattr(inference.classifier, "_BATCH_SIZE", 2)
    batches = []

    def serving_default(texts):
        batches.append(texts.numpy().tolist())
        return {"scores": tf.strings.length(texts)[:, None]}

    scores = inference.classifier.compute_scores(
        serving_default, ["aaa", "a", "aaaa", "", "aa"]
    )
    assert scores[:, 0].tolist() == [3, 1, 4, 0, 2]
    assert batches == [[b"", b"a"], [b"aa", b"aaa"], [b"aaaa"]]


def test_time_is_kept_to_read_the_validation_texts_twice(corpus, monkeypatch):
    """For the last validation, and to calibrate. A step takes a second."""
    trainer = make_trainer(corpus, epochs=0, max_minutes=1.0)
    validations, evaluate = [], trainer.evaluate

    def evaluate_noted(examples):
        validations.append(trainer.step)
        return evaluate(examples)

    monkeypatch.setattr(trainer, "evaluate", evaluate_noted)
    clock = types.SimpleNamespace(
        monotonic=lambda: trainer.step + 8.0 * len(validations),
        perf_counter=time.perf_counter,
    )
    for module in ("schedules", "trainer"):
        monkeypatch.setattr(f"stacked_rnn.training.{module}.time", clock)
    trainer.fit(verbose=0)
    assert len(validations) == 2
    assert 50 < clock.monotonic() <= 60 - 8 + 2


def test_the_best_epoch_has_the_highest_accuracy_then_the_lowest_loss(corpus):
    """The loss decides between equal accuracies."""
    epochs = [
        {"val_accuracy": 0.8, "val_loss": 0.4},
        {"val_accuracy": 0.9, "val_loss": 0.7},
        {"val_accuracy": 0.9, "val_loss": 0.6},
    ]
    task = make_trainer(corpus).task
    assert min(epochs, key=task.cost) == epochs[2]


@pytest.mark.parametrize("multi_label", [False, True])
def test_class_weights_do_not_change_the_count_of_texts(multi_label, rng):
    data = datasets.ClassificationData(
        tokenizer=None, labels=("a", "b"), multi_label=multi_label,
        training=None, validation=None, validation_texts=None,
        class_weights=np.array([0.2, 3.0], np.float32), max_tokens=9,
    )  # fmt: skip
    task = tasks.ClassifierTask(data)
    inputs = {"token_ids": token_ids_of(rng), "mask": MASK}
    targets = np.ones([len(MASK), 2 if multi_label else 1], np.int32)
    targets[-1] = -1  # an empty row of the batch
    model = build(rng, num_classes=2, multi_label=multi_label)
    sums, _ = task.sums(model, inputs, targets, ())
    assert task.count(sums.numpy()) == len(MASK) - 1


def test_a_run_with_other_labels_is_not_resumed(corpus, tmp_path):
    make_trainer(corpus, tmp_path / "run").fit(verbose=0)
    corpus = corpus.with_name("b.tsv")
    corpus.write_text(
        corpus.with_name("a.tsv").read_text().replace("\tzz", "\tother")
    )
    with pytest.raises(UserError, match="labels"):
        make_trainer(corpus, tmp_path / "run", resume=True)


# The SavedModel ---------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(corpus, tmp_path_factory):
    """An untrained export that reads four tokens of each text."""
    trainer = make_trainer(corpus)
    classifier = export.TextClassifier(
        trainer.best_model(), trainer.data.tokenizer, trainer.data.labels, 4
    )
    directory = tmp_path_factory.mktemp("saved") / "letters"
    classifier.save(directory, trainer.summary())
    return directory


def test_predictions_have_labels_and_scores(exported):
    model = inference.load(exported)
    texts = ["ab", "", "abcdx", "abcdy", "\u00e9"]
    one, empty, long, same, _ = model.predict(texts)
    assert one.text == "ab"
    assert list(one.scores) == ["xy", "yx", "zz"]
    assert sum(one.scores.values()) == pytest.approx(1)
    assert one.labels == (max(one.scores, key=one.scores.get),)
    assert long.scores == pytest.approx(same.scores)  # only four tokens count
    assert all(np.isfinite([*empty.scores.values()]))
    (alone,) = model.predict(["ab"])
    assert alone.scores == pytest.approx(one.scores, abs=1e-6)
    answer = model.functions.signatures["serving_default"](
        texts=tf.constant(["ab", "cd"])
    )
    assert answer["classes"].numpy().tolist() == [[b"xy", b"yx", b"zz"]] * 2
    best = answer["scores"].numpy().argmax(axis=1)
    assert answer["labels"].numpy().tolist() == [
        [b"xy", b"yx", b"zz"][number] for number in best
    ]


def test_predictions_do_not_wait_for_a_look_at_all_texts(
    exported, monkeypatch, capsys
):
    """As in `predict.py --texts_file=long.txt | head`."""

    def print_first(*_):
        raise BrokenPipeError

    monkeypatch.setattr(predict, "_print", print_first)
    with pytest.raises(BrokenPipeError):
        predict.main(
            configs.SavedModelConfig(saved_model=str(exported)),
            configs.PredictConfig(text=("\u00e9",)),
            configs.BeamConfig(),
        )
    assert capsys.readouterr().err == ""


def test_several_labels_are_learned_and_exported(rng, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"text": text, "label": [x for x in "ab" if x in text]})
            for size in rng.integers(1, 7, 120)
            for text in ["".join(rng.choice([*"abc"], size))]
        )
    )
    trainer = make_trainer(path, epochs=25, model={"pooling": "max"})
    assert trainer.data.multi_label
    trainer.fit(verbose=0)
    classifier = export.TextClassifier(
        trainer.best_model(), trainer.data.tokenizer, trainer.data.labels, 9
    )
    model = inference.load(classifier.save(tmp_path / "model"))
    assert [one.labels for one in model.predict(["ba", "c", "b"])] == [
        ("a", "b"), (), ("b",),
    ]  # fmt: skip
    answer = classifier.serving_default(tf.constant(["ba", "c", "b"]))
    assert answer["labels"].numpy().tolist() == [b"a,b", b"", b"b"]
    result = model.evaluate(trainer.data.validation_texts)
    score = trainer.evaluate(trainer.data.validation)
    assert result["accuracy"] == pytest.approx(score.accuracy) == 1.0
    assert "confusion" not in result
    read = datasets.LabelledTexts(["ab"], [("a|b",)])
    with pytest.raises(UserError, match="'a.b' .*: --label_separator is the"):
        model.evaluate(read)


def test_evaluating_unknown_labels_is_refused(exported):
    read = datasets.LabelledTexts(["a"], [("news",)])
    with pytest.raises(
        UserError, match="does not know: 'news' .it knows 'xy', 'yx', 'zz'.$"
    ):
        inference.load(exported).evaluate(read)


def test_loading_a_classifier_to_generate_is_refused(exported):
    with pytest.raises(UserError, match="a classifier: predict.py labels"):
        inference.load(exported, "language_model")


def test_a_classifier_is_served(exported):
    with serving(exported) as running:
        status, _, answer = request(
            running, "POST", "/v1/models/letters:predict",
            {"instances": ["ab", "c"]},
        )  # fmt: skip
        assert status == 200
        expected = inference.load(exported).predict(["ab", "c"])
        for got, one in zip(json.loads(answer)["predictions"], expected):
            assert (got["labels"],) == one.labels
            assert got["classes"] == list(one.scores)
            assert got["scores"] == pytest.approx([*one.scores.values()])
        _, _, models = request(running, "GET", "/v1/models")
        (listed,) = json.loads(models)["data"]
        assert "Its classes: xy, yx, zz." in listed["card"]
        _, _, metrics = request(running, "GET", "/metrics")
        assert b'stacked_rnn_model_info{model_name="letters"' in metrics
        status, refused = completion(running)
    assert status == 400
    assert "/v1/models/letters:predict" in refused["error"]["message"]

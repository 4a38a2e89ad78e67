"""Figures of a classifier against those of scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from stacked_rnn import metrics
from stacked_rnn.reports import plots


@pytest.fixture
def one_label(rng):
    """Scores and targets of 300 texts in 4 classes; some scores are equal."""
    scores = np.round(rng.dirichlet(np.ones(4), 300), 2).astype("float32")
    return scores, np.eye(4, dtype=bool)[rng.integers(0, 4, 300)]


@pytest.fixture
def multi_label(rng):
    return (
        rng.uniform(size=(200, 3)).astype("float32"),
        rng.uniform(size=(200, 3)) > 0.7,
    )


def test_figures_for_one_label_equal_scikit_learn(one_label):
    scores, targets = one_label
    said, truth = scores.argmax(axis=1), targets.argmax(axis=1)
    report = metrics.classification_report(scores, targets, multi_label=False)
    assert report["accuracy"] == sklearn_metrics.accuracy_score(truth, said)
    assert report["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(truth, said, average="macro")
    )
    np.testing.assert_allclose(
        report["f1"], sklearn_metrics.f1_score(truth, said, average=None)
    )
    areas = [
        sklearn_metrics.roc_auc_score(targets[:, number], scores[:, number])
        for number in range(4)
    ]
    assert report["auc"] == pytest.approx(np.mean(areas))
    np.testing.assert_array_equal(
        metrics.confusion_matrix(
            metrics.predicted_classes(scores, False), targets
        ),
        sklearn_metrics.confusion_matrix(truth, said),
    )


def test_figures_for_several_labels_equal_scikit_learn(multi_label):
    scores, targets = multi_label
    report = metrics.classification_report(scores, targets, multi_label=True)
    assert report["accuracy"] == ((scores > 0.5) == targets).mean()
    assert report["exact_match"] == sklearn_metrics.accuracy_score(
        targets, scores > 0.5
    )
    assert report["macro_f1"] == pytest.approx(
        sklearn_metrics.f1_score(targets, scores > 0.5, average="macro")
    )
    assert report["auc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(targets, scores, average="macro")
    )


def test_a_class_without_texts_is_left_out_of_the_means():
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], "float32")
    targets = np.eye(3, dtype=bool)[[0, 1]]
    report = metrics.classification_report(scores, targets, multi_label=False)
    assert report["f1"] == [1.0, 1.0, 0.0]
    # The means of those classes that have one.
    assert report["macro_f1"] == report["auc"] == 1.0
    report = metrics.classification_report(
        scores[:, 2:], targets[:, 2:], multi_label=True
    )
    assert report["macro_f1"] is report["auc"] is None


def test_auc_of_a_single_class_is_none():
    targets = np.ones(3, bool)
    assert metrics.area_under_curve(np.ones(3), targets) is None


def test_calibration_bins_and_error():
    """Confidence 0.9 where half of the texts are right, 0.6 where all are."""
    scores = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2)
    targets = np.eye(2, dtype=bool)[[0, 0, 1, 1, 1, 1]]
    said = metrics.predicted_classes(scores, False)
    bins = metrics.calibration(scores, said, targets)
    assert [one["answers"] for one in bins] == [2, 4]
    assert [one["accuracy"] for one in bins] == [1.0, 0.5]
    assert [one["confidence"] for one in bins] == pytest.approx([0.6, 0.9])
    assert metrics.calibration_error(bins) == pytest.approx(0.4)


def test_confusion_matrix_is_aligned_text():
    text = metrics.format_confusion([[1200, 3], [0, 7]], ["no", "maybe"])
    assert text.splitlines() == [
        "          no  maybe",
        "no     1,200      3",
        "maybe      0      7",
    ]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("factor", "expected"), [(1, 1), (4, 4), (0.5, 1)])
def test_best_temperature_undoes_overconfidence(
    multi_label, factor, expected, rng
):
    """Labels are drawn by logits; the scores come from `factor` times these."""
    logits = rng.normal(0, 2, (20_000, 3))

    def scores_at(logits):
        p = np.exp(logits)
        p = p / (1 + p if multi_label else p.sum(axis=1, keepdims=True))
        return p.astype("float32")

    drawn = rng.uniform(size=(20_000, 3))
    if multi_label:
        targets = drawn < scores_at(logits)
    else:  # the Gumbel trick
        targets = np.eye(3, dtype=bool)[
            np.argmax(logits - np.log(-np.log(drawn)), axis=1)
        ]
    found = metrics.best_temperature(
        scores_at(factor * logits), targets, multi_label
    )
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("multi_label", [False, True])
def test_best_temperature_of_certain_scores_is_bounded(multi_label):
    """The lowest one if always right, the highest if always wrong."""
    targets = np.eye(2, dtype=bool)[[0, 1, 0]]
    for scores, expected in ((targets, 1.0), (~targets, 20.0)):
        assert metrics.best_temperature(
            scores.astype("float32"), targets, multi_label
        ) == pytest.approx(expected)


def test_dollar_signs_in_labels_and_tokens_are_drawn(tmp_path):
    """Two of them would be a formula, and `$$` an error."""
    pytest.importorskip("matplotlib")
    result = {
        "confusion": [[1, 0], [2, 3]],
        "calibration": [{"confidence": 0.5, "accuracy": 0.25}],
        "calibration_error": 0.25,
    }
    path = tmp_path / "a.png"
    assert plots.draw_classification(result, ["$$", "$10-$20"], path)
    attention = np.ones([1, 2])
    assert plots.draw_attention([(["$$", "b"], ["$$"], attention)], path)

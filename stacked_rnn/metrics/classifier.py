"""Metrics of a classifier, in NumPy.

In all of them `scores` are probabilities [texts, classes], `predicted` and
`targets` are bool [texts, classes].
"""

import dataclasses

import numpy as np

_NUM_BINS = 10  # of confidence, for the calibration
_TEMPERATURES = np.geomspace(1.0, 20.0, 121)  # in steps of 2.5 %


@dataclasses.dataclass(frozen=True)
class ClassificationScore:
    """Loss and accuracy of a classifier, as sums over texts.

    Attributes:
        nats: weighted sum of -log p(label).
        weight: sum of the weights.
        correct: number of correct predictions.
        predictions: number of predictions: one per text, or one per text and
            class if a text may have several labels.
    """

    nats: float = 0.0
    weight: float = 0.0
    correct: float = 0.0
    predictions: float = 0.0

    @property
    def loss(self) -> float:
        """Mean cross-entropy, the loss of training."""
        return self.nats / max(self.weight, 1e-9)

    @property
    def accuracy(self) -> float:
        """Fraction of the predictions that are correct."""
        return self.correct / max(self.predictions, 1)

    def logs(self, prefix="") -> dict:
        """Returns the values for training curves by name."""
        return {f"{prefix}loss": self.loss, f"{prefix}accuracy": self.accuracy}


def predicted_classes(scores, multi_label) -> np.ndarray:
    """Returns the predicted classes of each text, bool [texts, classes].

    They are the most likely class or, if a text may have several labels, all
    classes with a probability above one half.
    """
    if multi_label:
        return scores > 0.5
    return np.eye(scores.shape[1], dtype=bool)[scores.argmax(axis=1)]


def confusion_matrix(predicted, targets) -> np.ndarray:
    """Counts texts by true class (rows) and predicted class (columns).

    Each text must have exactly one label. Returns int [classes, classes].
    """
    return targets.T.astype(int) @ predicted.astype(int)


def f1_scores(predicted, targets) -> np.ndarray:
    """Computes F1, the harmonic mean of precision and recall: [classes].

    It is 0 for a class that is neither predicted nor the label of any text.
    """
    correct = (predicted & targets).sum(axis=0)
    total = predicted.sum(axis=0) + targets.sum(axis=0)
    return 2 * correct / np.maximum(total, 1)


def area_under_curve(scores, targets) -> float | None:
    """Computes the area under the ROC curve of one class.

    This is the probability that a positive example has a higher score than a
    negative one, with ties counting half (Hanley and McNeil 1982).

    Args:
        scores: the probability of the class, [texts].
        targets: whether a text belongs to the class, bool [texts].

    Returns:
        The area, or None if all examples are positive or all are negative.
    """
    positive = int(targets.sum())
    negative = len(targets) - positive
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(
        scores, return_inverse=True, return_counts=True
    )
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    pairs_won = ranks[targets].sum() - positive * (positive + 1) / 2
    return float(pairs_won / (positive * negative))


def calibration(scores, predicted, targets) -> list[dict]:
    """Computes accuracy and mean confidence by confidence bin.

    The confidence of a prediction is the probability that the classifier gives
    it. If any text has, or is predicted to have, several labels or none, every
    class of every text counts as a prediction, yes or no.

    Args:
        scores: float32 [texts, classes].
        predicted: as `predicted_classes` returns them.
        targets: bool [texts, classes].

    Returns:
        A dict for each bin that is not empty: its mean "confidence", its
        "accuracy", and its number of predictions, "answers".
    """
    if (predicted.sum(axis=1) == 1).all() and (targets.sum(axis=1) == 1).all():
        confidence, correct = scores[predicted], targets[predicted]
    else:
        confidence = np.where(predicted, scores, 1 - scores).ravel()
        correct = (predicted == targets).ravel()
    bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == index].mean()),
            "accuracy": float(correct[bins == index].mean()),
            "answers": int((bins == index).sum()),
        }
        for index in np.unique(bins)
    ]


def calibration_error(bins) -> float:
    """Computes the expected calibration error (Guo et al. 2017).

    Args:
        bins: as `calibration` returns them.
    """
    errors = (
        entry["answers"] * abs(entry["confidence"] - entry["accuracy"])
        for entry in bins
    )
    return sum(errors) / sum(entry["answers"] for entry in bins)


def best_temperature(scores, targets, multi_label) -> float:
    """Finds the temperature that minimizes the negative log-likelihood.

    Temperature scaling (Guo et al. 2017, section 4.2): dividing the logits by
    it calibrates the probabilities and changes no prediction. It is between 1
    and 20; lower ones are not tried, because on a few texts that are all
    classified correctly the minimum would be at zero.

    Args:
        scores: float32 [texts, classes], at temperature 1.
        targets: bool [texts, classes].
        multi_label: whether a text may have several labels, or none.
    """
    if multi_label:  # each class is a choice of its own: yes or no
        scores = np.stack([scores, 1 - scores], axis=-1)
        targets = np.stack([targets, ~targets], axis=-1)
    log_p = np.log(np.maximum(scores, 1e-30))

    def nats(temperature):
        scaled = log_p / temperature
        normalizer = np.logaddexp.reduce(scaled, axis=-1)
        return normalizer.sum() - scaled[targets].sum()

    return float(min(_TEMPERATURES, key=nats))


def classification_report(scores, targets, multi_label) -> dict:
    """Computes all metrics of a classifier.

    Args:
        scores: float32 [texts, classes].
        targets: bool [texts, classes].
        multi_label: whether a text may have several labels, or none.

    Returns:
        A dict of JSON values:

        accuracy: fraction of the predictions that are correct, as in
            `ClassificationScore`.
        exact_match: fraction of the texts whose labels are all correct; only
            if a text may have several.
        macro_f1: mean of f1 over the classes that are predicted or the label of
            any text; None if no class is.
        auc: mean of `area_under_curve` over the classes that have one; None
            if no class has.
        calibration_error: see `calibration_error`.
        examples: number of texts.
        f1: list by class.
        calibration: see `calibration`.
        confusion: see `confusion_matrix`, a list of rows; only if each text
            has one label.
    """
    predicted = predicted_classes(scores, multi_label)
    f1 = f1_scores(predicted, targets)
    areas = [
        area_under_curve(scores[:, index], targets[:, index])
        for index in range(scores.shape[1])
    ]
    areas = [area for area in areas if area is not None]
    bins = calibration(scores, predicted, targets)
    is_right = predicted == targets
    is_exact = is_right.all(axis=1)
    occurs = (predicted | targets).any(axis=0)
    result = {
        "accuracy": float((is_right if multi_label else is_exact).mean()),
        "macro_f1": float(f1[occurs].mean()) if occurs.any() else None,
        "auc": float(np.mean(areas)) if areas else None,
        "calibration_error": calibration_error(bins),
        "examples": len(scores),
        "f1": f1.tolist(),
        "calibration": bins,
    }
    if multi_label:
        result["exact_match"] = float(is_exact.mean())
    else:
        result["confusion"] = confusion_matrix(predicted, targets).tolist()
    return result


def format_confusion(matrix, labels) -> str:
    """Formats a confusion matrix as a table of plain text.

    Args:
        matrix: counts, [true class][predicted class].
        labels: names of the classes.

    Returns:
        Lines, the first with the predicted labels, then one per true label.
    """
    label_width = max(map(len, labels))
    widths = [
        max(len(label), *(len(f"{row[column]:,}") for row in matrix))
        for column, label in enumerate(labels)
    ]
    head = "  ".join(map(str.rjust, labels, widths))
    lines = [" " * label_width + "  " + head]
    for label, row in zip(labels, matrix):
        cells = "  ".join(
            f"{count:,}".rjust(width) for count, width in zip(row, widths)
        )
        lines.append(f"{label.ljust(label_width)}  {cells}")
    return "\n".join(lines)

"""Metrics of a classifier.

NumPy alone. `scores` are probabilities [texts, classes], `targets` bool [texts,
classes].
"""

import dataclasses

import numpy as np

_BINS = 10  # of probability, for the calibration
_TEMPERATURES = np.geomspace(1.0, 20.0, 121)  # each 2.5 % above the one before


@dataclasses.dataclass(frozen=True)
class ClassificationScore:
    """What the labels of some texts cost a classifier.

    Attributes:
        nats: -log p of all labels together, each by its weight.
        weight: of all of them.
        right: answers that were.
        answers: one for each text, or for each of its classes where it may
            have several labels.
    """

    nats: float = 0.0
    weight: float = 0.0
    right: float = 0.0
    answers: float = 0.0

    @property
    def loss(self) -> float:
        """Mean cross-entropy, the loss of training."""
        return self.nats / max(self.weight, 1e-9)

    @property
    def accuracy(self) -> float:
        """Part of the answers that are right."""
        return self.right / max(self.answers, 1)

    def logs(self, prefix="") -> dict:
        """What a training curve shows, by name."""
        return {f"{prefix}loss": self.loss, f"{prefix}accuracy": self.accuracy}


def answers(scores, multi_label) -> np.ndarray:
    """What a classifier says, bool [texts, classes].

    The likeliest class, or with several labels each that is likelier than not.
    """
    if multi_label:
        return scores > 0.5
    return np.eye(scores.shape[1], dtype=bool)[scores.argmax(axis=1)]


def confusion_matrix(said, targets) -> np.ndarray:
    """How many texts of each class (rows) were said to be of each (columns).

    Of texts with one label.
    """
    return targets.T.astype(int) @ said.astype(int)


def f1_scores(said, targets) -> np.ndarray:
    """F1 of each class: the harmonic mean of precision and recall.

    0 for a class that neither is there nor was said.
    """
    both = (said & targets).sum(axis=0)
    either = said.sum(axis=0) + targets.sum(axis=0)
    return 2 * both / np.maximum(either, 1)


def area_under_curve(scores, targets) -> float | None:
    """How often a text of a class has a higher score than one of none.

    The area under the ROC curve by ranks, ties counting half (Hanley and McNeil
    1982).

    Args:
        scores, targets: [texts], of one class.

    Returns:
        None where all texts are of the class, or none.
    """
    positive = int(targets.sum())
    negative = len(targets) - positive
    if not positive or not negative:
        return None
    _, place, counts = np.unique(
        scores, return_inverse=True, return_counts=True
    )
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    above = ranks[targets].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def calibration(scores, said, targets) -> list[dict]:
    """How often answers are right that a classifier is so sure of.

    Args:
        scores: probabilities; of each answer that of what was said counts.
        said: `answers`.
        targets: the truth.

    Returns:
        For each range of confidence with answers in it: confidence, its mean;
        accuracy, the part that is right; and answers, how many.
    """
    if (said.sum(axis=1) == 1).all() and (targets.sum(axis=1) == 1).all():
        sure, right = scores[said], targets[said]
    else:  # each class is a question of its own
        sure = np.where(said, scores, 1 - scores).ravel()
        right = (said == targets).ravel()
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    return [
        {
            "confidence": float(sure[bins == number].mean()),
            "accuracy": float(right[bins == number].mean()),
            "answers": int((bins == number).sum()),
        }
        for number in np.unique(bins)
    ]


def calibration_error(bins) -> float:
    """Expected calibration error (Guo et al. 2017) by `calibration`."""
    total = sum(one["answers"] for one in bins)
    return (
        sum(
            one["answers"] * abs(one["confidence"] - one["accuracy"])
            for one in bins
        )
        / total
    )


def best_temperature(scores, targets, multi_label) -> float:
    """What to divide logits by, so that the scores say how sure to be.

    Temperature scaling (Guo et al. 2017, section 4.2): of the temperatures from
    1 to 20, that of the least nats. No answer changes. Not below 1: few texts,
    all of them answered right, would ask for any certainty.

    Args:
        scores: float32 [texts, classes], at temperature 1.
        targets: bool [texts, classes].
        multi_label: whether each class has a score of its own.
    """
    if multi_label:  # each class is a question of its own: yes or no
        scores = np.stack([scores, 1 - scores], axis=-1)
        targets = np.stack([targets, ~targets], axis=-1)
    log_p = np.log(np.maximum(scores, 1e-30))

    def nats(temperature):
        cooled = log_p / temperature
        total = np.logaddexp.reduce(cooled, axis=-1)
        return total.sum() - cooled[targets].sum()

    return float(min(_TEMPERATURES, key=nats))


def report(scores, targets, multi_label) -> dict:
    """All figures on a classifier, JSON values.

    Args:
        scores: float32 [texts, classes].
        targets: bool [texts, classes].
        multi_label: whether a text may have several labels, or none.

    Returns:
        accuracy (with several labels, of texts whose labels are all right),
        macro_f1, auc (the mean over the classes that it exists for, or None),
        calibration_error, examples; f1, a list by class; what `calibration`
        gives; and with one label a text the confusion, a row for each class.
    """
    said = answers(scores, multi_label)
    f1 = f1_scores(said, targets)
    areas = [
        area_under_curve(scores[:, number], targets[:, number])
        for number in range(scores.shape[1])
    ]
    areas = [area for area in areas if area is not None]
    bins = calibration(scores, said, targets)
    result = {
        "accuracy": float((said == targets).all(axis=1).mean()),
        "macro_f1": float(f1.mean()),
        "auc": float(np.mean(areas)) if areas else None,
        "calibration_error": calibration_error(bins),
        "examples": len(scores),
        "f1": f1.tolist(),
        "calibration": bins,
    }
    if not multi_label:
        result["confusion"] = confusion_matrix(said, targets).tolist()
    return result


def format_confusion(matrix, labels) -> str:
    """A confusion matrix as a table of text: rows are, columns were said.

    Args:
        matrix: counts, [classes][classes].
        labels: names of the classes.
    """
    first = max(map(len, labels))
    widths = [
        max(len(label), *(len(f"{row[column]:,}") for row in matrix))
        for column, label in enumerate(labels)
    ]
    head = "  ".join(map(str.rjust, labels, widths))
    lines = [" " * first + "  " + head]
    for label, row in zip(labels, matrix):
        cells = "  ".join(
            f"{count:,}".rjust(width) for count, width in zip(row, widths)
        )
        lines.append(f"{label.ljust(first)}  {cells}")
    return "\n".join(lines)

"""A classifier, loaded: labels for texts."""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from stacked_rnn import metrics
from stacked_rnn.configs import UserError
from stacked_rnn.inference import base

_ROWS = 256  # texts of a call


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier says of a text.

    Attributes:
        text: the text.
        labels: the name of its class, or with several labels those likelier
            than not.
        scores: the probability of each class, by name.
    """

    text: str
    labels: tuple[str, ...]
    scores: dict[str, float]


@dataclasses.dataclass(frozen=True)
class SavedClassifier(base.LoadedModel):
    """A classifier, loaded: finds the labels of texts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.description.labels

    @property
    def several_labels(self) -> bool:
        """Whether a text may have several labels, or none."""
        return self.description.several_labels

    @property
    def _label(self):
        return self.functions.signatures["serving_default"]

    def predict(self, texts):
        """Yields a `Prediction` for each of any number of strings, in order."""
        texts = iter(texts)
        while batch := list(itertools.islice(texts, _ROWS)):
            scores = scores_of(self._label, batch)
            said = metrics.answers(scores, self.several_labels)
            for text, row, is_said in zip(batch, scores.tolist(), said):
                yield Prediction(
                    text,
                    tuple(itertools.compress(self.labels, is_said)),
                    dict(zip(self.labels, row)),
                )

    def evaluate(self, read) -> dict:
        """Scores `datasets.LabelledTexts`.

        Returns:
            What `metrics.report` does, f1 by the name of the class.

        Raises:
            UserError: a text has a label that the classifier does not know.
        """
        unknown = sorted(set(read.counts) - set(self.labels))
        if unknown:
            raise UserError(
                f"--text: labels that the model does not know: "
                f"{', '.join(map(repr, unknown[:5]))} (it knows "
                f"{', '.join(map(repr, self.labels[:20]))})"
            )
        if not self.several_labels and any(
            len(names) != 1 for names in read.labels
        ):
            raise UserError(
                "--text: some texts have no label or several, and each text "
                "of this model has one"
            )
        result = metrics.report(
            scores_of(self._label, read.texts),
            targets_of(read, self.labels),
            self.several_labels,
        )
        result["f1"] = dict(zip(self.labels, result["f1"]))
        return result


def scores_of(label, texts) -> np.ndarray:
    """What a classifier says of texts.

    Args:
        label: `TextClassifier.serving_default`, or the signature of that name.
        texts: a list of strings.

    Returns:
        Probabilities, float32 [texts, classes].
    """
    encoded = base.encoded(texts)
    return np.concatenate(
        [
            label(texts=tf.constant(encoded[start : start + _ROWS]))["scores"]
            for start in range(0, len(encoded), _ROWS)
        ]
    )


def targets_of(read, labels) -> np.ndarray:
    """Which labels the texts of `LabelledTexts` have, bool [texts, labels]."""
    return np.array(
        [[label in names for label in labels] for names in read.labels]
    )

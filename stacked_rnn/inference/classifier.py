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
    """The predicted labels of a text.

    Attributes:
        text: the text.
        labels: the name of the likeliest class, or with several labels those
            of a probability above one half.
        scores: the probability of each class, by name.
        multi_label: whether a text may have several labels, or none.
    """

    text: str
    labels: tuple[str, ...]
    scores: dict[str, float]
    multi_label: bool = False

    def columns(self) -> tuple[str, ...]:
        """What a line of predict.py has."""
        scores = (f"{self.scores[label]:.3f}" for label in self.labels)
        return ",".join(self.labels), ",".join(scores), self.text

    def to_dict(self) -> dict:
        """The same and more, as JSON values."""
        return {
            "text": self.text,
            "label": self.labels if self.multi_label else self.labels[0],
            "scores": self.scores,
        }


@dataclasses.dataclass(frozen=True)
class SavedClassifier(base.LoadedModel):
    """A classifier, loaded: finds the labels of texts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(self.description.entries["labels"])

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several labels, or none."""
        return self.description.entries["several_labels"]

    @property
    def _label(self):
        return self.functions.signatures["serving_default"]

    def predict(self, texts):
        """Yields a `Prediction` for each of any number of strings, in order."""
        texts = iter(texts)
        while batch := list(itertools.islice(texts, _ROWS)):
            scores = scores_of(self._label, batch)
            said = metrics.answers(scores, self.multi_label)
            for text, row, is_said in zip(batch, scores.tolist(), said):
                yield Prediction(
                    text,
                    tuple(itertools.compress(self.labels, is_said)),
                    dict(zip(self.labels, row)),
                    self.multi_label,
                )

    def evaluate_files(self, config, search) -> dict:
        from stacked_rnn import datasets  # which `predict` does without

        return self.evaluate(
            datasets.read_labelled_texts(
                config.text,
                config.text_field,
                config.label_field,
                config.label_separator if self.multi_label else "",
                flag="text",
            )
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
        if not self.multi_label and any(
            len(names) != 1 for names in read.labels
        ):
            raise UserError(
                "--text: some texts have no label or several, and each text "
                "of this model has one"
            )
        result = metrics.report(
            scores_of(self._label, read.texts),
            targets_of(read, self.labels),
            self.multi_label,
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

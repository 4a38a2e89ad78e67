"""A loaded classifier, which labels texts."""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from stacked_rnn import metrics
from stacked_rnn.configs import UserError
from stacked_rnn.inference import base

_BATCH_SIZE = 256  # texts per call of the model


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A classifier's prediction for one text.

    Attributes:
        text: the text.
        labels: the predicted labels: the most likely class, or all classes
            with a probability above one half if `multi_label`.
        scores: the probability of each class by name.
        multi_label: whether a text may have several labels, or none.
    """

    text: str
    labels: tuple[str, ...]
    scores: dict[str, float]
    multi_label: bool = False

    def columns(self) -> tuple[str, ...]:
        """Returns the columns of a line that predict.py prints."""
        scores = (f"{self.scores[label]:.3f}" for label in self.labels)
        return ",".join(self.labels), ",".join(scores), self.text

    def to_dict(self) -> dict:
        """Returns JSON values: text, label (a list if multi_label), scores."""
        return {
            "text": self.text,
            "label": self.labels if self.multi_label else self.labels[0],
            "scores": self.scores,
        }


@dataclasses.dataclass(frozen=True, repr=False)
class SavedClassifier(base.LoadedModel):
    """A loaded classifier, which predicts the labels of texts.

    classifier = stacked_rnn.load("saved_models/rt-polarity")
    print(classifier.predict("a dull mess").labels)
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of all classes."""
        return self.description.entries["labels"]

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several labels, or none."""
        return self.description.entries["several_labels"]

    def _scores(self, texts):
        return compute_scores(
            self.functions.signatures["serving_default"], texts
        )

    def predict(self, texts):
        """Predicts the labels of texts, in batches.

        Args:
            texts: a string, a list of strings, or another iterable, which is
                read only a batch ahead of what is returned.

        Returns:
            The `Prediction` of a string; a list of a list's; an iterator over
            those of another iterable.
        """
        return base.results_for(texts, self._predictions, streams=True)

    def _predictions(self, texts):
        for batch in base.batched(texts, _BATCH_SIZE):
            scores = self._scores(batch)
            predicted = metrics.predicted_classes(scores, self.multi_label)
            for text, row, mask in zip(batch, scores.tolist(), predicted):
                yield Prediction(
                    text,
                    tuple(itertools.compress(self.labels, mask)),
                    dict(zip(self.labels, row)),
                    self.multi_label,
                )

    def evaluate_files(self, config, search) -> dict:
        from stacked_rnn import datasets  # imported late: predict needs none

        return self.evaluate(
            datasets.read_labelled_texts(
                config.text,
                config.text_field,
                config.label_field,
                config.label_separator if self.multi_label else "",
                flag="text",
            )
        )

    def evaluate(self, examples) -> dict:
        """Evaluates the classifier on labelled texts.

        Args:
            examples: a `datasets.LabelledTexts`.

        Returns:
            What `metrics.classification_report` does; "f1" is a dict by
            label.

        Raises:
            UserError: a label is not one of `labels`, or a text of a classifier
                without `multi_label` has not exactly one label.
        """
        unknown = sorted(set(examples.counts) - set(self.labels))
        if unknown:
            raise UserError(
                f"--text: labels that the model does not know: "
                f"{', '.join(map(repr, unknown[:5]))} (it knows "
                f"{', '.join(map(repr, self.labels[:20]))})"
                + (
                    ": --label_separator is the string between the labels"
                    if self.multi_label
                    else ""
                )
            )
        if not self.multi_label and any(
            len(names) != 1 for names in examples.labels
        ):
            raise UserError(
                "--text: this model predicts one label per text, but some "
                "texts have several, or none: leave those out"
            )
        result = metrics.classification_report(
            self._scores(examples.texts),
            label_matrix(examples, self.labels),
            self.multi_label,
        )
        result["f1"] = dict(zip(self.labels, result["f1"]))
        return result


def compute_scores(serving_default, texts) -> np.ndarray:
    """Computes the probabilities of all classes for texts.

    Args:
        serving_default: the signature of a SavedModel, or the method of an
            `export.TextClassifier`.
        texts: list of strings.

    Returns:
        float32 [texts, classes].
    """
    texts = np.array(base.encode(texts), object)
    # In order of length: a batch is as long as its longest text.
    order = np.argsort([*map(len, texts)], kind="stable")
    scores = np.concatenate(
        [
            serving_default(texts=tf.constant(texts[rows]))["scores"]
            for rows in base.batched(order, _BATCH_SIZE)
        ]
    )
    return scores[np.argsort(order)]


def label_matrix(examples, labels) -> np.ndarray:
    """Returns whether each text has each label, bool [texts, labels].

    Args:
        examples: a `datasets.LabelledTexts`.
        labels: the names of the columns.
    """
    return np.array(
        [[label in names for label in labels] for names in examples.labels]
    )

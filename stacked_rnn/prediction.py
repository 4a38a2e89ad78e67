"""A classifier's SavedModel, loaded: labels for texts.

Reads the directory alone; imports neither models nor training.
"""

import dataclasses
import itertools
import pathlib

import numpy as np
import tensorflow as tf

from stacked_rnn import artifact, classification
from stacked_rnn.configs import UserError

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
class SavedClassifier:
    """A SavedModel that `TextClassifier.save` wrote, loaded.

    Attributes:
        path: the directory of its version.
        labels: the names of the classes.
        several_labels: whether a text may have several, or none.
        functions: what `tf.saved_model.load` gave.
    """

    path: pathlib.Path
    labels: tuple[str, ...]
    several_labels: bool
    functions: object

    @property
    def _label(self):
        return self.functions.signatures["serving_default"]

    def predict(self, texts):
        """Yields a `Prediction` for each of any number of strings, in order."""
        texts = iter(texts)
        while batch := list(itertools.islice(texts, _ROWS)):
            scores = scores_of(self._label, batch)
            said = classification.answers(scores, self.several_labels)
            for text, row, is_said in zip(batch, scores.tolist(), said):
                yield Prediction(
                    text,
                    tuple(itertools.compress(self.labels, is_said)),
                    dict(zip(self.labels, row)),
                )

    def evaluate(self, read) -> dict:
        """Scores `datasets.LabelledTexts`.

        Returns:
            What `classification.report` does, f1 by the name of the class.

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
        result = classification.report(
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
    encoded = [text.encode("utf-8", "replace") for text in texts]
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


def load(saved_model="") -> SavedClassifier:
    """Loads a classifier.

    Args:
        saved_model: see `artifact.find`.

    Raises:
        UserError: naming what is missing or damaged.
    """
    description = artifact.find_of_task(saved_model, "classifier")
    return SavedClassifier(
        description.path,
        description.labels,
        description.several_labels,
        artifact.load_functions(description.path),
    )

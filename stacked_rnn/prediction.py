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

    def scores(self, texts) -> np.ndarray:
        """Probabilities, float32 [texts, classes], of a list of strings."""
        label = self.functions.signatures["serving_default"]
        encoded = [text.encode("utf-8", "replace") for text in texts]
        return np.concatenate(
            [
                label(texts=tf.constant(encoded[start : start + _ROWS]))[
                    "scores"
                ].numpy()
                for start in range(0, len(encoded), _ROWS)
            ]
        )

    def predict(self, texts):
        """Yields a `Prediction` for each of any number of strings, in order."""
        texts = iter(texts)
        while batch := list(itertools.islice(texts, _ROWS)):
            scores = self.scores(batch)
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
        targets = np.array(
            [[label in names for label in self.labels] for names in read.labels]
        )
        scores = self.scores(read.texts)
        result = classification.report(scores, targets, self.several_labels)
        result["f1"] = dict(zip(self.labels, result["f1"]))
        return result


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

"""Measures of what the units of a language model do while it reads a text.

After Karpathy, Johnson and Fei-Fei, "Visualizing and Understanding Recurrent
Networks" (2015): units that follow a feature of the text, and gates that are
open or closed most of the time. How well a unit follows a feature is their
correlation over the text. The best of many units follows anything a little: the
same search with the feature moved along the text says how well by chance.
"""

import dataclasses
import re

import numpy as np

_PAIRS_OF_QUOTES = (
    ('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"),
    ("\xab", "\xbb"),
)  # fmt: skip
# From the opening mark to the one that closes it, in the same paragraph.
_QUOTED = "|".join(
    rf"(?<!\w){opening}(?:(?!\n\n|{closing}(?!\w)).)+{closing}(?!\w)"
    for opening, closing in _PAIRS_OF_QUOTES
)
_BRACKETED = r"\([^()]*\)|\[[^][]*\]|\{[^{}]*\}"
_LEAST_DEVIATION = 0.05  # of a unit that is said to have a memory
_SATURATED = 0.1  # distance from 0 or from 1


@dataclasses.dataclass(frozen=True)
class ChosenUnit:
    """A unit, and why it was chosen.

    Attributes:
        column: its column among all units, layer after layer.
        feature: name of the feature of the text that it follows best, or None
            if nothing in the text varies.
        correlation: with that feature, between -1 and 1.
        chance: the largest correlation of any unit with the same feature at
            other places of the text.
        memory: number of tokens after which its autocorrelation falls below
            1/e.
        is_for_memory: whether it was chosen for that.
    """

    column: int
    feature: str | None
    correlation: float
    chance: float
    memory: int
    is_for_memory: bool = False


def features_of_text(pieces) -> dict[str, np.ndarray]:
    """Computes simple features of a text, those that vary in it.

    Args:
        pieces: the text, cut into strings of one character or more.

    Returns:
        float [pieces] by name, at the last character of each piece: 0 or 1, or
        a number of characters.
    """
    text = "".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces]) - 1
    lengths = np.array([len(line) + 1 for line in text.split("\n")])
    before = np.concatenate([[0], lengths[:-1]])
    features = {
        "inside quotation marks": _inside(_QUOTED, text),
        "inside brackets": _inside(_BRACKETED, text),
        "place in the line": _since(r"\n", text),
        "length of the line before": np.repeat(before, lengths)[: len(text)],
        "place in the sentence": _since("[.!?]", text),
        "place in the word": _since(r"\W", text),
        "a capital letter": np.array([c.isupper() for c in text]),
        "a vowel": _is_in("aeiouAEIOU", text),
        "a digit": np.array([c.isdigit() for c in text]),
        "a punctuation mark": _is_in(".,;:!?", text),
        "a space": _is_in(" ", text),
        "a line break": _is_in("\n", text),
    }
    at_ends = {
        name: values[ends].astype(float) for name, values in features.items()
    }
    return {name: values for name, values in at_ends.items() if np.ptp(values)}


def _is_in(characters, text):
    return np.array([character in characters for character in text])


def _inside(pattern, text):
    """1 from the first character of each match to the one before its last."""
    is_inside = np.zeros(len(text))
    for match in re.finditer(pattern, text, re.DOTALL):
        is_inside[match.start() : match.end() - 1] = 1
    return is_inside


def _since(pattern, text):
    """Number of characters since the last match, which has 0."""
    is_start = np.zeros(len(text), bool)
    is_start[[match.start() for match in re.finditer(pattern, text)]] = True
    place = np.arange(1, len(text) + 1)
    return place - np.maximum.accumulate(np.where(is_start, place, 0))


def correlations(values, feature):
    """Pearson's correlation of each unit with a feature; 0 if one is constant.

    Args:
        values: [tokens, units].
        feature: [tokens].

    Returns:
        [units].
    """
    values = values - values.mean(axis=0)
    feature = feature - feature.mean()
    scale = np.sqrt((values**2).sum(axis=0) * (feature**2).sum())
    return np.where(scale > 1e-9, feature @ values / np.maximum(scale, 1e-9), 0)


def memories(values):
    """How many tokens it takes each unit to change.

    Args:
        values: [tokens, units].

    Returns:
        int [units], the first lag at which the autocorrelation is below 1/e; 0
        of units that are almost constant.
    """
    centred = values - values.mean(axis=0)
    spectrum = np.fft.rfft(centred, 2 * len(values), axis=0)
    power = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[: len(values)]
    is_low = power < power[0] / np.e
    is_low[-1] = True
    lags = is_low.argmax(axis=0)
    return np.where(values.std(axis=0) < _LEAST_DEVIATION, 0, lags)


class UnitSearch:
    """Finds out which features of a text the units follow.

    Args:
        values: [tokens, units] of all layers side by side.
        features: [tokens] by name.
    """

    def __init__(self, values, features):
        self._names = [*features]
        self._memories = memories(values)
        self._correlations = np.zeros([len(features), values.shape[1]])
        self._chance = np.zeros(len(features))
        for index, feature in enumerate(features.values()):
            self._correlations[index] = correlations(values, feature)
            self._chance[index] = max(
                np.abs(correlations(values, np.roll(feature, shift))).max()
                for shift in len(feature) * np.arange(1, 4) // 4
            )

    @property
    def feature_names(self) -> list[str]:
        """The names of the features."""
        return self._names

    def best_features(self):
        """Returns the feature that each unit follows best.

        Returns:
            Indices of `feature_names` and the correlations, [units] each.
        """
        if not self._names:
            return np.full(len(self._memories), -1), np.zeros(
                len(self._memories)
            )
        best = np.abs(self._correlations).argmax(axis=0)
        return best, np.take_along_axis(self._correlations, best[None], 0)[0]

    def describe(self, column) -> ChosenUnit:
        """Describes a unit by the feature that it follows best."""
        if not self._names:
            return ChosenUnit(column, None, 0.0, 0.0, self._memories[column])
        best, _ = self.best_features()
        return self._chosen(column, best[column])

    def _chosen(self, column, feature, **reason):
        return ChosenUnit(
            int(column),
            self._names[feature],
            float(self._correlations[feature, column]),
            float(self._chance[feature]),
            int(self._memories[column]),
            **reason,
        )

    def choose(self, num_for_memory=2) -> list[ChosenUnit]:
        """Chooses for each feature the unit that follows it best.

        Features that no unit follows better than chance are left out; no unit
        is chosen twice.

        Args:
            num_for_memory: most units to add that change slowly, the slowest
                ones.

        Returns:
            The units, the best followed feature first.
        """
        strength = np.abs(self._correlations)
        chosen = []
        for feature in np.argsort(-strength.max(axis=1, initial=0)):
            free = strength[feature].copy()
            free[[unit.column for unit in chosen]] = 0
            column = free.argmax()
            if free[column] > self._chance[feature]:
                chosen.append(self._chosen(column, feature))
        taken = {unit.column for unit in chosen}
        slowest = [
            column
            for column in np.argsort(-self._memories, kind="stable")
            if column not in taken and self._memories[column] > 1
        ]
        return chosen + [
            dataclasses.replace(self.describe(column), is_for_memory=True)
            for column in slowest[:num_for_memory]
        ]


def saturation(gate):
    """How often a gate is closed and how often it is open.

    Args:
        gate: [tokens, units], between 0 and 1.

    Returns:
        The fractions of tokens below 0.1 and above 0.9, [units] each.
    """
    return (
        (gate < _SATURATED).mean(axis=0),
        (gate > 1 - _SATURATED).mean(axis=0),
    )


def nearest_tokens(embeddings, token_ids, excluded, most, neighbours):
    """Finds the tokens whose embeddings point in a similar direction.

    Args:
        embeddings: [vocabulary, dimensions].
        token_ids: int [tokens], a text.
        excluded: ids to leave out.
        most: number of tokens to look at, the most frequent ones of the text.
        neighbours: number of neighbours of each.

    Returns:
        A list of (id, [(id of a neighbour, cosine), ...]).
    """
    counts = np.bincount(token_ids, minlength=len(embeddings))
    counts[list(excluded)] = 0
    frequent = np.argsort(-counts, kind="stable")[:most]
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit_vectors = embeddings / np.maximum(lengths, 1e-12)
    found = []
    for token_id in frequent[counts[frequent] > 0]:
        cosines = unit_vectors @ unit_vectors[token_id]
        cosines[[token_id, *excluded]] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[:neighbours]
        found.append(
            (
                int(token_id),
                [
                    (int(other), float(cosines[other]))
                    for other in nearest
                    if cosines[other] > -np.inf
                ],
            )
        )
    return found

"""Corpora, their splits, and the batches that are cut from them."""

from stacked_rnn.datasets.classification import (
    ClassificationData,
    load_classification_data,
)
from stacked_rnn.datasets.corpora import Corpus
from stacked_rnn.datasets.examples import Examples
from stacked_rnn.datasets.labelled import LabelledTexts, read_labelled_texts
from stacked_rnn.datasets.language import LanguageData, load_language_data
from stacked_rnn.datasets.windows import (
    RandomWindows,
    SlidingWindows,
    Streams,
    Windows,
)

__all__ = [
    "ClassificationData",
    "Corpus",
    "Examples",
    "LabelledTexts",
    "LanguageData",
    "RandomWindows",
    "SlidingWindows",
    "Streams",
    "Windows",
    "load_classification_data",
    "load_language_data",
    "read_labelled_texts",
]

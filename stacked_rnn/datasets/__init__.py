"""Corpora, their splits, and the batches that are cut from them."""

from stacked_rnn.datasets.corpora import Corpus
from stacked_rnn.datasets.language import LanguageData, load_language_data
from stacked_rnn.datasets.windows import (
    RandomWindows,
    SlidingWindows,
    Streams,
    Windows,
)

__all__ = [
    "Corpus",
    "LanguageData",
    "RandomWindows",
    "SlidingWindows",
    "Streams",
    "Windows",
    "load_language_data",
]

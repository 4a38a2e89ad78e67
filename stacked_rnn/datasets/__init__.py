"""Corpora, their splits, and batches of their texts."""

from stacked_rnn.datasets.batches import Batches, Examples, Pairs
from stacked_rnn.datasets.classifier import (
    ClassificationData,
    load_classification_data,
    read_texts_of,
)
from stacked_rnn.datasets.corpora import Corpus
from stacked_rnn.datasets.labelled_texts import (
    LabelledTexts,
    read_labelled_texts,
)
from stacked_rnn.datasets.language_model import (
    LanguageData,
    load_language_data,
    open_corpus,
    read_text,
)
from stacked_rnn.datasets.seq2seq import (
    PairData,
    TextPairs,
    load_pair_data,
    read_pairs,
)
from stacked_rnn.datasets.splits import split
from stacked_rnn.datasets.windows import (
    Blocks,
    RandomWindows,
    SlidingWindows,
    Streams,
    Windows,
)

"""Training: the loop, and the run that it leaves on disk."""

from stacked_rnn.training.callbacks import SampleTexts
from stacked_rnn.training.runs import alone_in, find_export, note_export
from stacked_rnn.training.strategies import (
    Workers,
    lost_workers_explained,
    make_strategy,
)
from stacked_rnn.training.trainer import Trainer

__all__ = [
    "SampleTexts",
    "Trainer",
    "Workers",
    "alone_in",
    "find_export",
    "lost_workers_explained",
    "make_strategy",
    "note_export",
]

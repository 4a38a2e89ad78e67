"""Training: the loop, and the run that it leaves on disk."""

from stacked_rnn.training.reporting import SampleTexts
from stacked_rnn.training.strategies import (
    lost_workers_explained,
    make_strategy,
)
from stacked_rnn.training.trainer import Trainer

__all__ = [
    "SampleTexts",
    "Trainer",
    "lost_workers_explained",
    "make_strategy",
]

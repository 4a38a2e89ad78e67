"""Training: the loop, and the run that it leaves on disk."""

from stacked_rnn.training.trainer import Trainer, make_strategy

__all__ = ["Trainer", "make_strategy"]

"""Keras layers: recurrent ones that are faster, and regularizers."""

from stacked_rnn.layers.recurrent import GRU, LSTM, CudnnStack, SimpleRNN
from stacked_rnn.layers.regularization import (
    ActivationPenalty,
    Dropout,
    LockedDropout,
    TokenDropout,
)

__all__ = [
    "GRU",
    "LSTM",
    "ActivationPenalty",
    "CudnnStack",
    "Dropout",
    "LockedDropout",
    "SimpleRNN",
    "TokenDropout",
]

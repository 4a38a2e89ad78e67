"""`stacked_rnn.train`, almost without training: it tries code that calls it."""

import stacked_rnn

# The first step ends the run, which is validated and exported.
_SETTINGS = {"minutes": 0.001, "epochs": 0, "jit_compile": False}
_train = stacked_rnn.train


def train(*arguments, **settings):
    """Trains for a step, without XLA, whatever time is asked for."""
    return _train(*arguments, **settings | _SETTINGS)

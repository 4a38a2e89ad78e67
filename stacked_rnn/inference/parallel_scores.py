"""Scoring a long text in pieces side by side, as one pass would.

Each piece begins with the state that the tokens before it leave behind. That is
first guessed, by reading the last few of those tokens, and then known, as the
state at the end of the piece before. While a piece began with another state,
all are scored again from the states that are known by then: a fixed-point
iteration. A piece that begins right ends right, so that it takes at most as
many rounds as there are pieces; recurrent networks forget, so it takes one or
two.
"""

import numpy as np
import tensorflow as tf

from stacked_rnn import metrics

_PIECES = 32  # at most
_WINDOW = 128  # tokens of each piece per call
_LOGITS = 2**26  # most logits per call: 256 MiB
_GUESS = 512  # tokens that are read for the first guess
_TOLERANCE = 1e-4  # of a state, as a share of 1 + |state|


def nats_of_text(
    score_window, token_ids, initial_states, progress, vocabulary_size
):
    """Computes the nats of each token of a text, the state carried along.

    Args:
        score_window: (inputs, targets, states) -> (nats, states), where inputs
            and targets are int32 and nats float32 [batch, time].
        token_ids: int32 [tokens]; all but the first are targets.
        initial_states: batch size -> the states before a text, a nest of
            [batch, units].
        progress: called with the number of targets scored, now and then.
        vocabulary_size: the number of logits per token, which limits the
            number of pieces.

    Returns:
        float32 [tokens - 1].
    """
    count = len(token_ids) - 1
    pieces = min(_PIECES, max(1, _LOGITS // (_WINDOW * vocabulary_size)))
    length = _WINDOW * -(-count // (pieces * _WINDOW))
    if length < _GUESS:
        return metrics.nats_of_text(
            score_window, token_ids, initial_states(1), progress
        )
    pieces = -(-count // length)
    padding = (0, pieces * length - count)
    inputs = np.pad(token_ids[:-1], padding).reshape(pieces, length)
    targets = np.pad(token_ids[1:], padding, constant_values=-1)
    targets = targets.reshape(pieces, length)
    before_text = initial_states(1)

    def read(inputs, targets, states, progress=_ignore):
        nats = []
        for start in range(0, inputs.shape[1], _WINDOW):
            window = (slice(None), slice(start, start + _WINDOW))
            window_nats, states = score_window(
                tf.constant(inputs[window]),
                tf.constant(targets[window]),
                states,
            )
            nats.append(window_nats.numpy())
            progress(min(pieces * (start + _WINDOW), count))
        return np.concatenate(nats, axis=1), states

    def next_begins(ends):
        """Each piece begins as the one before it ends, the first as a text."""
        return tf.nest.map_structure(
            lambda first, ends: tf.concat([first, ends[:-1]], axis=0),
            before_text,
            ends,
        )

    _, ends = read(
        inputs[:, -_GUESS:], targets[:, -_GUESS:], initial_states(pieces)
    )
    begins = next_begins(ends)
    for _ in range(pieces):
        nats, ends = read(inputs, targets, begins, progress)
        progress = _ignore  # in further rounds it would go back
        guessed, begins = begins, next_begins(ends)
        if all(map(_are_close, *map(tf.nest.flatten, (guessed, begins)))):
            break
    return nats.reshape(-1)[:count]


def _ignore(done) -> None:
    """Shows no progress."""


def _are_close(states, others) -> bool:
    limits = _TOLERANCE * (1 + tf.abs(others))
    return bool(tf.reduce_all(tf.abs(states - others) <= limits))

"""A text that a person and a language model write in turn."""

import collections
import dataclasses

import tensorflow as tf

from stacked_rnn.decoding.incremental_text import Continuation
from stacked_rnn.inference import language_model


class Conversation:
    """One text that somebody and the model write in turn.

    What was written is kept as a state: a turn costs its own tokens only.

    Args:
        model: a `SavedModel`.
        sampling: a `SamplingConfig`; `max_new_tokens` are those of one turn.
        stop: strings that end a turn of the model, themselves left out.
    """

    def __init__(self, model, sampling, stop=()):
        self._model, self._sampling, self._stop = model, sampling, stop
        self._carry = None

    def read(self, text) -> None:
        """Adds what somebody wrote."""
        functions, texts = self._model.functions, tf.constant([text])
        if self._carry is None:
            seed = tf.constant([self._sampling.seed], tf.int64)
            self._carry = functions.begin(texts, seed)
        elif text:
            self._carry = functions.extend(texts, self._carry)

    def write(self):
        """Lets the model go on; yields strings that add up to its turn."""
        before, row = self._carry, Continuation("", 0, self._stop)
        compiles = (
            self._sampling.max_new_tokens >= language_model.WORTH_COMPILING
        )
        for carry in self._model.decode(
            before, [row], self._sampling, compiles
        ):
            self._carry = carry
            yield row.show()
        yield row.show(last=True)
        if row.stopped:  # forget what was drawn after the end of the turn
            kept = dataclasses.replace(
                self._sampling, max_new_tokens=len(row.tokens)
            )
            again = self._model.decode(before, [Continuation("", 0)], kept)
            # Other random numbers, or the same end would come again.
            used = {"positions": self._carry["positions"] + 1}
            self._carry = collections.deque([before, *again], 1).pop() | used

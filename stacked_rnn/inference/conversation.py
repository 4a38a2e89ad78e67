"""A conversation: a person and a language model write one text in turns."""

import collections
import dataclasses

import tensorflow as tf

from stacked_rnn.decoding.incremental_text import Continuation


class Conversation:
    """A text that a person and a language model write in turns.

    The text so far is kept as the model's state, so each turn costs only its
    own tokens.

        conversation = inference.Conversation(model, sampling, stop=["."])
        conversation.read("My name is ")
        print(*conversation.write(), sep="")

    Args:
        model: a `SavedLanguageModel`.
        sampling: a `SamplingConfig`; `max_new_tokens` limits each turn.
        stop: strings that end the model's turn and are not part of it.
    """

    def __init__(self, model, sampling, stop=()):
        self._model, self._sampling, self._stop = model, sampling, stop
        self._carry = None

    def read(self, text) -> None:
        """Adds the person's turn to the text.

        Args:
            text: a string. The first turn must be read before one is written;
                it may be empty.
        """
        functions, texts = self._model.functions, tf.constant([text])
        if self._carry is None:
            seed = tf.constant([self._sampling.seed], tf.int64)
            self._carry = functions.begin(texts, seed)
        elif text:
            self._carry = functions.extend(texts, self._carry)

    def write(self):
        """Generates the model's turn, yielding it in pieces.

        The turn becomes a part of the text when all pieces have been read.

        Yields:
            Strings, some of them empty.
        """
        before, turn = self._carry, Continuation("", 0, self._stop)
        use_xla = self._model.is_worth_compiling(self._sampling.max_new_tokens)
        for carry in self._model.decode(
            before, [turn], self._sampling, use_xla
        ):
            self._carry = carry
            yield turn.show()
        yield turn.show(last=True)
        if turn.stopped:
            # The state has read tokens after the end of the turn: go back and
            # generate only the tokens of the turn again.
            num_whole = len(turn.tokens) - bool(turn.cut_token)
            kept = dataclasses.replace(self._sampling, max_new_tokens=num_whole)
            again = self._model.decode(
                before, [Continuation("", 0)], kept, use_xla
            )
            # New random numbers, or the next turn would begin with this end.
            used = {"positions": self._carry["positions"] + 1}
            self._carry = collections.deque([before, *again], 1).pop() | used
            if turn.cut_token:
                self.read(turn.cut_token)

"""What a request may change about the distribution beside the options.

`decoding.options` has the options of every model and command. These are of the
server alone: a batch in which a row has some of them runs a loop of its own.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Adjustment:
    """How a sequence differs from what the options say; see `samplers.adjust`.

    Attributes:
        logit_bias: token id -> what is added to its logit.
        presence_penalty, frequency_penalty: what is subtracted from the logit
            of each token that was drawn, once and for each time.
        min_p: the least probability of a token, as a fraction of that of the
            likeliest.
        min_tokens: number of tokens before which nothing ends the sequence but
            stop strings.
        end_ids: ids of tokens that end it, beside that of the model.
        ignores_end: whether that of the model is never drawn.
    """

    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_p: float = 0.0
    min_tokens: int = 0
    end_ids: tuple[int, ...] = ()
    ignores_end: bool = False

    def for_model(self, end_id) -> "Adjustment":
        """Leaves out what has no effect, so that it equals `NONE` if all has.

        Args:
            end_id: the token that ends the texts of the model, or None.
        """
        ignores_end = self.ignores_end and end_id is not None
        has_end = self.end_ids or (end_id is not None and not ignores_end)
        return dataclasses.replace(
            self,
            logit_bias={key: b for key, b in self.logit_bias.items() if b},
            min_tokens=self.min_tokens if has_end else 0,
            ignores_end=ignores_end,
        )


NONE = Adjustment()


def tensors(adjustments, vocabulary_size, end_id) -> dict[str, tf.Tensor]:
    """The adjustments of a batch, as options of `generation.generate`.

    Args:
        adjustments: the `Adjustment` of each row.
        vocabulary_size: number of tokens that the model knows.
        end_id: the token that ends each row, or None.
    """
    shape = len(adjustments), vocabulary_size
    bias, ends = np.zeros(shape, np.float32), np.zeros(shape, bool)
    for row, one in enumerate(adjustments):
        bias[row, [*one.logit_bias]] = [*one.logit_bias.values()]
        ends[row, [*one.end_ids]] = True
        if end_id is not None:
            ends[row, end_id] = True
            if one.ignores_end:
                bias[row, end_id] = -np.inf
    return {
        "bias": tf.constant(bias),
        "ends": tf.constant(ends),
        "min_tokens": tf.constant([one.min_tokens for one in adjustments]),
    } | {
        name: tf.constant(
            [getattr(one, name) for one in adjustments], tf.float32
        )
        for name in ("presence_penalty", "frequency_penalty", "min_p")
    }


def counts(sequences, size, vocabulary_size) -> np.ndarray:
    """How often each token was drawn, float32 [size, vocabulary].

    Args:
        sequences: the token ids drawn in each of the first rows.
        size: number of rows.
        vocabulary_size: number of tokens that the model knows.
    """
    result = np.zeros((size, vocabulary_size), np.float32)
    for row, token_ids in enumerate(sequences):
        result[row] = np.bincount(token_ids, minlength=vocabulary_size)
    return result

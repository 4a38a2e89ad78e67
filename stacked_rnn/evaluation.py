"""How good a model is: nats and counts, summed first and divided once."""

import dataclasses
import math

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Score:
    """What a text costs a model.

    Attributes:
        nats: -log p of all targets together.
        tokens: number of targets.
        characters: of the original text, whatever the tokens are; for a part
            of a text, their share, which need not be whole.
    """

    nats: float = 0.0
    tokens: int = 0
    characters: float = 0

    @property
    def nats_per_token(self) -> float:
        """Mean cross-entropy, the loss of training."""
        return self.nats / max(self.tokens, 1)

    @property
    def perplexity(self) -> float:
        """exp(nats_per_token): as unsure as among so many equal choices."""
        return math.exp(min(self.nats_per_token, 700.0))  # no overflow

    @property
    def bits_per_character(self) -> float:
        """Bits to encode a character; comparable between tokenizers."""
        return self.nats / math.log(2) / max(self.characters, 1)


def token_nats(logits, targets):
    """-log p(target) of each position; 0 where the target is negative.

    Args:
        logits: [..., vocabulary]; computed in float32.
        targets: int32 [...].
    """
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.maximum(targets, 0), tf.cast(logits, tf.float32)
    )
    return tf.where(targets >= 0, nats, 0.0)


def score_token_ids(score_window, token_ids, states, window=512, progress=None):
    """Nats of one long text, the state carried from its start to its end.

    Args:
        score_window: (inputs, targets, states) -> (nats [batch], states), both
            int32 [batch, time].
        token_ids: int32 [tokens]; all but the first are targets.
        states: before the first token, for a batch of one.
        window: tokens of one call.
        progress: called with the number of targets done after each window.

    Returns:
        The nats of all targets, a float.
    """
    nats = 0.0
    last = len(token_ids) - 1
    for start in range(0, last, window):
        end = min(start + window, last)
        window_nats, states = score_window(
            token_ids[None, start:end],
            token_ids[None, start + 1 : end + 1],
            states,
        )
        nats += float(window_nats[0])
        if progress is not None:
            progress(end)
    return nats

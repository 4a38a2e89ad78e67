"""Scores of a language model: nats and counts, summed first, then divided."""

import dataclasses
import math

import numpy as np
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

    def logs(self, prefix="") -> dict:
        """What a training curve shows, by name."""
        return {
            f"{prefix}loss": self.nats_per_token,
            f"{prefix}perplexity": self.perplexity,
            f"{prefix}bits_per_character": self.bits_per_character,
        }


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


def nats_of_text(score_window, token_ids, states, progress, window=512):
    """Nats of each token of one long text, the state carried through it.

    Args:
        score_window: (inputs, targets, states) -> (nats, states): int32 and
            float32 [batch, time]; it is called with one shape only.
        token_ids: int32 [tokens]; all but the first are targets.
        states: before the first token, for a batch of one.
        progress: called with the number of targets done after each window.
        window: tokens of one call.

    Returns:
        float32 [tokens - 1].
    """
    inputs, targets = np.asarray(token_ids[:-1]), np.asarray(token_ids[1:])
    nats = []
    for start in range(0, len(targets), window):
        part = slice(start, start + window)
        missing = window - len(targets[part])
        window_nats, states = score_window(
            tf.constant(np.pad(inputs[part], (0, missing))[None]),
            tf.constant(
                np.pad(targets[part], (0, missing), constant_values=-1)[None]
            ),
            states,
        )
        nats.append(window_nats.numpy()[0, : window - missing])
        progress(start + window - missing)
    return np.concatenate(nats)

"""Metrics of a language model: sums of nats and counts, divided at the end."""

import dataclasses
import math

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Score:
    """Cross-entropy of a text, as sums over its tokens.

    Attributes:
        nats: sum of -log p(target).
        tokens: number of targets.
        characters: number of characters of the original text, whatever the
            tokens are. For a part of a text it is the proportional share,
            which may be a fraction.
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
        """exp(nats_per_token), see `reference.perplexity`."""
        return math.exp(min(self.nats_per_token, 700.0))  # avoids overflow

    @property
    def bits_per_character(self) -> float:
        """Mean bits per character, comparable between tokenizers.

        Except where tokens are unknown: these cost little, whatever their
        characters are.
        """
        return self.nats / math.log(2) / max(self.characters, 1)

    def logs(self, prefix="") -> dict:
        """Returns the values for training curves by name."""
        return {
            f"{prefix}loss": self.nats_per_token,
            f"{prefix}perplexity": self.perplexity,
            f"{prefix}bits_per_character": self.bits_per_character,
        }


def token_nats(logits, targets):
    """Computes -log p(target) of each token, in float32.

    Args:
        logits: [..., vocabulary], of any float type.
        targets: int32 [...]; negative at padding, where the result is 0.

    Returns:
        float32 [...].
    """
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.maximum(targets, 0), tf.cast(logits, tf.float32)
    )
    return tf.where(targets >= 0, nats, 0.0)


def nats_of_text(score_window, token_ids, states, progress, window=512):
    """Computes the nats of each token of a long text, window by window.

    The state is carried from each window to the next.

    Args:
        score_window: (inputs, targets, states) -> (nats, states), where inputs
            and targets are int32 and nats float32 [1, window]. Always called
            with the same shapes: the last window is padded.
        token_ids: int32 [tokens]; all but the first are targets.
        states: the states before the first token, for a batch of one.
        progress: called with the number of targets scored after each window.
        window: number of tokens per call.

    Returns:
        float32 [tokens - 1].
    """
    nats, scored = [], 0
    for inputs, targets, count in windows_of_text(token_ids, window):
        window_nats, states = score_window(inputs, targets, states)
        nats.append(window_nats.numpy()[0, :count])
        scored += count
        progress(scored)
    return np.concatenate(nats)


def windows_of_text(token_ids, window):
    """Cuts a text into windows of the same length, to score one by one.

    Args:
        token_ids: int32 [tokens]; all but the first are targets.
        window: number of targets of a window.

    Yields:
        inputs, targets: int32 [1, window]; in the last window padded, the
            targets with -1.
        count: number of targets that are no padding.
    """
    token_ids = np.asarray(token_ids, np.int32)
    for start in range(0, len(token_ids) - 1, window):
        part = token_ids[start : start + window + 1]
        count = len(part) - 1
        padding = (0, window - count)
        yield (
            tf.constant(np.pad(part[:-1], padding)[None]),
            tf.constant(np.pad(part[1:], padding, constant_values=-1)[None]),
            count,
        )

"""Metrics of a seq2seq model."""

import dataclasses
import importlib.util

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Seq2SeqScore:
    """What the targets of some texts cost a seq2seq model.

    Attributes:
        nats: -log p of all tokens together, each given those before it.
        tokens: their number.
        right: targets that greedy decoding would write.
        texts: all of them.
    """

    nats: float = 0.0
    tokens: float = 0.0
    right: float = 0.0
    texts: float = 0.0

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a token, the loss of training."""
        return self.nats / max(self.tokens, 1)

    @property
    def exact_match(self) -> float:
        """Part of the targets that greedy decoding writes."""
        return self.right / max(self.texts, 1)

    def logs(self, prefix="") -> dict:
        """What a training curve shows, by name."""
        return {
            f"{prefix}loss": self.loss,
            f"{prefix}exact_match": self.exact_match,
        }


def edit_distance(outputs, targets) -> float:
    """Levenshtein distance in characters, by those of the targets."""
    one, other = (
        tf.strings.unicode_split(tf.constant(texts), "UTF-8")
        for texts in (outputs, targets)
    )
    distances = tf.edit_distance(
        one.to_sparse(), other.to_sparse(), normalize=False
    )
    return float(tf.reduce_sum(distances)) / max(
        1, int(tf.size(other.flat_values))
    )


def bleu(outputs, targets) -> float | None:
    """Of the corpus, as sacrebleu has it; None where it is not installed."""
    if not importlib.util.find_spec("sacrebleu"):
        return None
    import sacrebleu

    return sacrebleu.corpus_bleu(outputs, [targets]).score

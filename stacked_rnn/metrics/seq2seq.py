"""Metrics of a seq2seq model."""

import dataclasses
import importlib.util

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Seq2SeqScore:
    """Loss and exact matches of a seq2seq model, as sums over texts.

    Attributes:
        nats: sum of -log p(token) over the tokens of the targets, each given
            the source and the target's tokens before it.
        tokens: number of these tokens.
        exact: number of targets that greedy decoding reproduces exactly.
        texts: number of targets.
    """

    nats: float = 0.0
    tokens: float = 0.0
    exact: float = 0.0
    texts: float = 0.0

    @property
    def loss(self) -> float:
        """Mean cross-entropy per token, the loss of training."""
        return self.nats / max(self.tokens, 1)

    @property
    def exact_match(self) -> float:
        """Fraction of the targets that greedy decoding reproduces."""
        return self.exact / max(self.texts, 1)

    def logs(self, prefix="") -> dict:
        """Returns the values for training curves by name."""
        return {
            f"{prefix}loss": self.loss,
            f"{prefix}exact_match": self.exact_match,
        }


def edit_distance(outputs, targets) -> float:
    """Computes edits per character: Levenshtein distance / target length.

    Args:
        outputs: list of strings.
        targets: list of strings, of the same length.

    Returns:
        The number of characters to insert, delete or replace in all outputs,
        divided by the number of characters of all targets.
    """
    outputs, targets = (
        tf.strings.unicode_split(tf.constant(texts), "UTF-8")
        for texts in (outputs, targets)
    )
    distances = tf.edit_distance(
        outputs.to_sparse(), targets.to_sparse(), normalize=False
    )
    return float(tf.reduce_sum(distances)) / max(
        1, int(tf.size(targets.flat_values))
    )


def bleu(outputs, targets) -> float | None:
    """Computes corpus BLEU, 0 to 100; None if sacrebleu is not installed.

    Args:
        outputs: list of strings.
        targets: list of strings, one reference per output.
    """
    if not importlib.util.find_spec("sacrebleu"):
        return None
    import sacrebleu

    return sacrebleu.corpus_bleu(outputs, [targets]).score

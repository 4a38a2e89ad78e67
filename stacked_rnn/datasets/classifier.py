"""What a classifier learns from: labelled texts, tokenized and split."""

import dataclasses
import hashlib
import math
import sys
from collections.abc import Sequence

import numpy as np

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError
from stacked_rnn.datasets import batches, token_cache
from stacked_rnn.datasets.labelled_texts import (
    LabelledTexts,
    read_labelled_texts,
)


@dataclasses.dataclass(frozen=True)
class ClassificationData:
    """What a classifier learns from.

    Attributes:
        tokenizer: built from the training texts alone, or that of a trained
            model.
        labels: the names of the classes, in order.
        multi_label: whether a text may have several, or none.
        training, validation: `Examples`; validation may be None.
        validation_texts: `LabelledTexts`, those of `validation`.
        class_weights: float32 [classes], what a text of each counts.
        max_tokens: how many tokens of a text are read.
        num_truncated: texts of which the end was cut off.
        num_empty: texts that were left out, as there was nothing in them.
        unknown_parts: see `LanguageData`.
        digest: of texts and labels; equal ones have the same.
        unknown_share: of the tokens of all texts.
    """

    tokenizer: tokenizers.Tokenizer
    labels: Sequence[str]
    multi_label: bool
    training: batches.Examples
    validation: batches.Examples | None
    validation_texts: LabelledTexts | None
    class_weights: np.ndarray
    max_tokens: int
    num_truncated: int = 0
    num_empty: int = 0
    unknown_parts: Sequence[str] = ()
    digest: str = ""
    unknown_share: float = 0.0


def load_classification_data(
    config, vocabulary_size=0, tokenizer=None
) -> ClassificationData:
    """Reads, splits and tokenizes the labelled texts of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.
        vocabulary_size: see `ModelConfig`.
        tokenizer: that of a trained model, of the kind that `config` names;
            None: built from the training texts.
    """
    read = read_labelled_texts(
        config.corpus,
        config.text_field,
        config.label_field,
        config.label_separator,
    )
    labels = sorted(read.counts)
    several = any(len(names) != 1 for names in read.labels)
    _check_labels(config, read, labels, several)
    targets = _targets_of(read, labels, several)
    held_out = _held_out(
        read.texts, targets, config.validation_fraction, config.seed
    )
    if config.validation_fraction and not held_out.any():
        batches.do_without_validation(
            config,
            f"of {len(held_out):,} text(s) no class has the "
            f"{math.ceil(1 / config.validation_fraction):,} different ones "
            f"that it takes to hold out {config.validation_fraction:.0%}",
        )
    texts = [text.encode("utf-8", "replace") for text in read.texts]
    if tokenizer is None:
        # Shuffled: where the vocabulary is full, of the words that are equally
        # frequent the first ones are kept, which must not be those of a class.
        rows = np.random.default_rng(config.seed).permutation(
            np.flatnonzero(~held_out)
        )
        learned = [texts[row] for row in rows]
        tokenizer = tokenizers.build(
            config.tokenizer,
            [b"\n".join(learned)],
            vocabulary_size,
            config.letters_only,
        )
        unknown_parts = ()
    else:
        unknown_parts = tokenizer.unknown_parts(texts)
    token_ids = token_cache.cut_texts(tokenizer, texts)
    limit = config.sequence_length

    def examples_of(rows, seed):
        return batches.Examples(
            [token_ids[row][:limit] for row in rows],
            targets[rows],
            config.batch_size,
            seed,
            sum(len(read.texts[row]) for row in rows),
        )

    training_rows = np.flatnonzero(~held_out)
    validation_rows = np.flatnonzero(held_out)
    validation = validation_texts = None
    if len(validation_rows):
        validation = examples_of(validation_rows, None)
        validation_texts = LabelledTexts(
            [read.texts[row] for row in validation_rows],
            [read.labels[row] for row in validation_rows],
        )
        _warn_of_unvalidated(labels, validation_texts)
    return ClassificationData(
        tokenizer,
        labels,
        several,
        examples_of(training_rows, config.seed),
        validation,
        validation_texts,
        _class_weights(
            targets[training_rows], len(labels), several, config.class_weights
        ),
        limit,
        sum(len(ids) > limit for ids in token_ids),
        read.num_empty,
        unknown_parts,
        _digest(read),
        sum(token_cache.count_unknown(tokenizer, ids) for ids in token_ids)
        / max(1, sum(map(len, token_ids))),
    )


def _warn_of_unvalidated(labels, validation_texts) -> None:
    """Names the classes that are so rare that none of their texts validates."""
    missing = [name for name in labels if name not in validation_texts.counts]
    if not missing:
        return
    shown = ", ".join(map(repr, missing[:5]))
    if len(missing) > 5:
        shown += f" and {len(missing) - 5:,} more"
    print(
        f"warning: no text validates of the class {shown}: what is said of the "
        "validation leaves them out",
        file=sys.stderr,
    )


def _targets_of(read, labels, several) -> np.ndarray:
    """What a classifier is to say of texts.

    Args:
        read: `LabelledTexts`, whose labels are all among `labels`.
        labels: names of the classes.
        several: whether a text may have several.

    Returns:
        int32 [texts, 1], the number of its class, or with several [texts,
        classes], 0 or 1 each.
    """
    number = {name: index for index, name in enumerate(labels)}
    if not several:
        return np.array([[number[name]] for (name,) in read.labels], np.int32)
    targets = np.zeros((len(read.labels), len(labels)), np.int32)
    for row, names in enumerate(read.labels):
        targets[row, [number[name] for name in names]] = 1
    return targets


def _check_labels(config, read, labels, several):
    what = f"--corpus={config.corpus}"
    if len(labels) < 2 - several:
        raise UserError(
            f"{what}: all {len(read.texts)} text(s) have the label "
            f"{labels[0]!r}, and 2 labels are needed"
            if labels
            else f"{what}: no text has a label"
        )
    if len(labels) > max(2, len(read.texts) // 2):
        raise UserError(
            f"{what}: {len(labels)} labels for {len(read.texts)} texts, and "
            f"{2 * len(labels)} are needed: is --label_field="
            f"{config.label_field} a column of classes?"
        )


def _held_out(texts, targets, fraction, seed) -> np.ndarray:
    """Which texts validate, bool [texts]: of each class the same part.

    With several labels a class is a set of labels. Equal texts stay together,
    so that no text of the validation is in the training; what is no more equal
    than by the white space around it is so too.
    """
    groups = {}
    for row, text in enumerate(texts):
        groups.setdefault(text.strip(), []).append(row)
    groups = list(groups.values())
    held_out = np.zeros(len(targets), bool)
    rng = np.random.default_rng(seed)
    # Of texts that are equal the first one says of which class they are.
    _, classes = np.unique(targets, axis=0, return_inverse=True)
    classes = classes.reshape(-1)[[rows[0] for rows in groups]]
    for number in range(classes.max() + 1):
        members = rng.permutation(np.flatnonzero(classes == number))
        left = int(sum(len(groups[member]) for member in members) * fraction)
        for member in members[:-1]:  # one at least is for the training
            if len(groups[member]) <= 2 * left:
                held_out[groups[member]] = True
                left -= len(groups[member])
    return held_out


def _class_weights(targets, num_classes, several, balanced):
    """1 for each class, or balanced: rare ones count more, 1 on the average."""
    if not balanced:
        return np.ones(num_classes, np.float32)
    if several:
        counts = targets.sum(axis=0)
    else:
        counts = np.bincount(targets[:, 0], minlength=num_classes)
    weights = len(targets) / (num_classes * np.maximum(counts, 1))
    return weights.astype(np.float32)


def _digest(read) -> str:
    digest = hashlib.sha256()
    for text, names in zip(read.texts, read.labels):
        digest.update(repr((text, names)).encode("utf-8", "replace"))
    return digest.hexdigest()

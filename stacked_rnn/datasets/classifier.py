"""The data of a classifier: labelled texts, tokenized and split."""

import dataclasses
import math
import sys
from collections.abc import Sequence

import numpy as np

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError
from stacked_rnn.datasets import batches, splits, tables, token_cache
from stacked_rnn.datasets.labelled_texts import (
    LabelledTexts,
    read_labelled_texts,
)


@dataclasses.dataclass(frozen=True)
class ClassificationData:
    """The training and validation sets of a classifier.

    Attributes:
        tokenizer: built from the training texts alone, or taken from a trained
            model.
        labels: the names of the classes, in alphabetical order.
        multi_label: whether a text may have any number of labels, even none.
        training, validation: `Examples`; validation may be None.
        validation_texts: the `LabelledTexts` of `validation`, or None.
        class_weights: float32 [classes], the weights in the loss.
        max_tokens: longer texts are truncated to this many tokens.
        num_truncated: number of texts that were truncated.
        unknown_parts: see `LanguageData`.
        digest: a hash of all texts and labels.
        unknown_share: fraction of the tokens of all texts that are unknown.
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
    unknown_parts: Sequence[str] = ()
    digest: str = ""
    unknown_share: float = 0.0


def read_texts_of(config) -> LabelledTexts:
    """Reads the labelled texts of a `TrainConfig`."""
    return read_labelled_texts(
        config.corpus,
        config.text_field,
        config.label_field,
        config.label_separator,
    )


def load_classification_data(
    config, vocabulary_size=0, tokenizer=None, labelled=None
) -> ClassificationData:
    """Reads, splits and tokenizes the labelled texts of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.
        vocabulary_size: see `ModelConfig`.
        tokenizer: the tokenizer of a trained model, of the kind that `config`
            names; None: it is built from the training texts.
        labelled: what `read_texts_of` returned; None: they are read.

    Raises:
        UserError: the corpus cannot be read, or does not suit a classifier.
    """
    labelled = labelled or read_texts_of(config)
    labels = sorted(labelled.counts)
    multi_label = any(len(names) != 1 for names in labelled.labels)
    _check_labels(config, labelled, labels, multi_label)
    targets = _targets_of(labelled.labels, labels, multi_label)
    held_out = hold_out(
        labelled.texts, targets, config.validation_fraction, config.seed
    )
    if config.validation_fraction and not held_out.any():
        batches.warn_of_no_validation(
            config,
            f"no class of the {len(held_out):,} text(s) has the "
            f"{math.ceil(1 / config.validation_fraction):,} different texts "
            f"needed to hold out {config.validation_fraction:.0%}",
        )
    texts = [text.encode("utf-8", "replace") for text in labelled.texts]
    if tokenizer is None:
        # Shuffled: a full vocabulary keeps the first of equally frequent words,
        # which would be those of one class.
        rows = np.random.default_rng(config.seed).permutation(
            np.flatnonzero(~held_out)
        )
        tokenizer = tokenizers.build(
            config.tokenizer,
            [b"\n".join(texts[row] for row in rows)],
            vocabulary_size,
            config.letters_only,
        )
        unknown_parts = ()
    else:
        unknown_parts = tokenizer.unknown_parts(texts)
    token_ids = token_cache.tokenize_texts(tokenizer, texts)
    limit = config.sequence_length

    def examples_of(rows, seed):
        return batches.Examples(
            [token_ids[row][:limit] for row in rows],
            targets[rows],
            config.batch_size,
            seed,
            sum(len(labelled.texts[row]) for row in rows),
        )

    training_rows = np.flatnonzero(~held_out)
    validation_rows = np.flatnonzero(held_out)
    validation = validation_texts = None
    if len(validation_rows):
        validation = examples_of(validation_rows, None)
        validation_texts = LabelledTexts(
            [labelled.texts[row] for row in validation_rows],
            [labelled.labels[row] for row in validation_rows],
        )
        _warn_of_missing_classes(labels, validation_texts)
    return ClassificationData(
        tokenizer=tokenizer,
        labels=labels,
        multi_label=multi_label,
        training=examples_of(training_rows, config.seed),
        validation=validation,
        validation_texts=validation_texts,
        class_weights=_class_weights(
            targets[training_rows], labels, multi_label, config.class_weights
        ),
        max_tokens=limit,
        num_truncated=sum(len(ids) > limit for ids in token_ids),
        unknown_parts=unknown_parts,
        digest=tables.digest(labelled.texts, labelled.labels),
        unknown_share=sum(tokenizer.count_unknown(ids) for ids in token_ids)
        / max(1, sum(map(len, token_ids))),
    )


def _warn_of_missing_classes(labels, validation_texts) -> None:
    """Names the classes of which the validation set has no text."""
    missing = [name for name in labels if name not in validation_texts.counts]
    if not missing:
        return
    shown = ", ".join(map(repr, missing[:5]))
    if len(missing) > 5:
        shown += f" and {len(missing) - 5:,} more"
    print(
        f"warning: the validation set has no text of the class {shown}: its "
        "scores leave them out",
        file=sys.stderr,
    )


def _targets_of(label_sets, labels, multi_label) -> np.ndarray:
    """Returns the targets of texts.

    Args:
        label_sets: for each text a tuple of its labels.
        labels: names of the classes.
        multi_label: whether a text may have any number of labels.

    Returns:
        int32 [texts, 1], the index of the text's class; with multi_label
        [texts, classes], each 0 or 1.
    """
    class_of = {name: index for index, name in enumerate(labels)}
    if not multi_label:
        return np.array([[class_of[name]] for (name,) in label_sets], np.int32)
    targets = np.zeros((len(label_sets), len(labels)), np.int32)
    for row, names in enumerate(label_sets):
        targets[row, [class_of[name] for name in names]] = 1
    return targets


def _check_labels(config, labelled, labels, multi_label):
    corpus, num_texts = f"--corpus={config.corpus}", len(labelled.texts)
    if len(labels) < 2 - multi_label:
        raise UserError(
            f"{corpus}: all {num_texts} text(s) have the label "
            f"{labels[0]!r}, but at least 2 labels are needed"
            if labels
            else f"{corpus}: no text has a label"
        )
    if len(labels) > max(2, num_texts // 2):
        raise UserError(
            f"{corpus}: {len(labels)} labels need at least {2 * len(labels)} "
            f"texts, and there are {num_texts}: is --label_field="
            f"{config.label_field} a column of classes?"
        )


def hold_out(texts, targets, fraction, seed) -> np.ndarray:
    """Chooses the same fraction of each class to hold out: bool [texts].

    For multi-label targets, each set of labels is a class here. Equal texts
    (`splits.first_rows`) stay together, so that no text that is held out is in
    the training set.
    """
    by_text = {}
    for row, first in enumerate(splits.first_rows(texts)):
        by_text.setdefault(first, []).append(row)
    groups = list(by_text.values())
    held_out = np.zeros(len(targets), bool)
    rng = np.random.default_rng(seed)
    # Equal texts belong to the class of the first of them.
    _, classes = np.unique(targets, axis=0, return_inverse=True)
    classes = classes.reshape(-1)[[rows[0] for rows in groups]]
    for index in range(classes.max() + 1):
        members = rng.permutation(np.flatnonzero(classes == index))
        left = int(sum(len(groups[member]) for member in members) * fraction)
        for member in members[:-1]:  # at least one is left for training
            if len(groups[member]) <= 2 * left:
                held_out[groups[member]] = True
                left -= len(groups[member])
    return held_out


def _class_weights(targets, labels, multi_label, is_balanced):
    """Returns 1 for each class; balanced: more for rare ones, on average 1."""
    if not is_balanced:
        return np.ones(len(labels), np.float32)
    if multi_label:
        counts = targets.sum(axis=0)
    else:
        counts = np.bincount(targets[:, 0], minlength=len(labels))
    weights = len(targets) / (len(labels) * np.maximum(counts, 1))
    return weights.astype(np.float32)

"""The data of a seq2seq model: pairs of texts, tokenized and split."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError
from stacked_rnn.datasets import splits, synthetic_pairs, tables, token_cache
from stacked_rnn.datasets.batches import Pairs, warn_of_no_validation
from stacked_rnn.utils import terminal

# The tokenizer's document separator: its token ends each text.
_SEPARATOR = "\0"
_HEADER = ("source", "target")
_HINT = "--source_field and --target_field name the columns"


@dataclasses.dataclass(frozen=True)
class TextPairs:
    """Source texts and their target texts.

    Attributes:
        sources, targets: strings, none empty.
    """

    sources: Sequence[str]
    targets: Sequence[str]

    def sample(self, max_pairs) -> "TextPairs":
        """Returns at most `max_pairs` pairs, evenly spaced."""
        spaced = slice(None, None, -(-len(self.sources) // max_pairs))
        return TextPairs(self.sources[spaced], self.targets[spaced])


@dataclasses.dataclass(frozen=True)
class PairData:
    """The training and validation sets of a seq2seq model.

    Attributes:
        tokenizer: built from the sources and targets of the training set
            alone; its `end_id` ends each text.
        training, validation: `Pairs`; validation may be None.
        validation_texts: the `TextPairs` of `validation`, or None.
        max_tokens: the most tokens that a source or a target may have.
        num_too_long: number of pairs that were left out, since a text was
            longer.
        longest_target: tokens of the longest target of the training set, the
            end included.
        digest: a hash of all texts.
        unknown_share: fraction of the tokens that are unknown, the mean of
            sources and targets.
    """

    tokenizer: tokenizers.Tokenizer
    training: Pairs
    validation: Pairs | None
    validation_texts: TextPairs | None
    max_tokens: int
    num_too_long: int
    longest_target: int
    digest: str
    unknown_share: float = 0.0


def read_pairs(
    source, source_field=_HEADER[0], target_field=_HEADER[1], flag="corpus"
) -> TextPairs:
    """Reads pairs of texts; warns of those with an empty text, left out.

    Args:
        source: a name in `synthetic_pairs.GENERATORS`, a path, a glob, or
            several of these separated by commas: .tsv, .csv or .jsonl files,
            also as .gz.
        source_field, target_field: columns of a table, or fields of a JSON
            object. With the default names, a table without a header line has
            the source in its first column and the target in its second.
        flag: the flag that errors name.

    Raises:
        UserError: naming the file and the line.
    """
    if source in synthetic_pairs.GENERATORS:
        if flag == "text":
            raise UserError(
                f"--text={source}: models were trained on most of these pairs: "
                "name a file of others"
            )
        return TextPairs(*zip(*synthetic_pairs.GENERATORS[source]()))
    fields = (source_field, target_field)
    pairs = itertools.chain(
        *(_read_file(file, fields, flag) for file in tables.find(source, flag))
    )
    sources, targets, num_empty = [], [], 0
    for source_text, target_text in pairs:
        if source_text.strip() and target_text.strip():
            sources.append(source_text)
            targets.append(target_text)
        else:
            num_empty += 1
    if not sources:
        raise UserError(f"--{flag}={source}: contains no pair of texts")
    terminal.warn_of(num_empty, "pair(s) have an empty text: left out")
    return TextPairs(sources, targets)


def _read_file(file, fields, flag):
    if not tables.kind(file, flag):
        raise UserError(
            f"--{flag}={file.name}: pairs of texts are read from .tsv, .csv or "
            ".jsonl files (or generated: "
            f"{', '.join(synthetic_pairs.GENERATORS)})"
        )
    header = _HEADER if fields == _HEADER else None
    rows = tables.read_fields(file, fields, flag, _HINT, header)
    for location, values in rows:
        for value, name in zip(values, fields):
            tables.check_string(value, name, location, flag, _HINT)
        yield values


def load_pair_data(config, vocabulary_size=0) -> PairData:
    """Reads, splits and tokenizes the pairs of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.
        vocabulary_size: see `ModelConfig`.

    Raises:
        UserError: the corpus cannot be read, or leaves nothing to train on.
    """
    pairs = read_pairs(config.corpus, config.source_field, config.target_field)
    held_out = _held_out(pairs, config.validation_fraction, config.seed)
    texts = [
        [text.encode("utf-8", "replace") for text in side]
        for side in (pairs.sources, pairs.targets)
    ]
    training_texts = [
        text for side in texts for text in itertools.compress(side, ~held_out)
    ]
    tokenizer = tokenizers.build(
        config.tokenizer,
        [b"\n".join(training_texts)],
        vocabulary_size,
        document_separator=_SEPARATOR,
    )
    sources, targets = (_token_ids(tokenizer, side) for side in texts)
    limit = config.sequence_length
    lengths = [  # without the end token
        max(len(source), len(target)) - 1
        for source, target in zip(sources, targets)
    ]
    fits = np.array(lengths) <= limit

    def batches_of(rows, seed):
        return Pairs(
            [sources[row] for row in rows],
            [targets[row] for row in rows],
            tokenizer.end_id,
            config.batch_size,
            seed,
            sum(len(pairs.targets[row]) for row in rows),
        )

    training_rows = np.flatnonzero(fits & ~held_out)
    validation_rows = np.flatnonzero(fits & held_out)
    if not len(training_rows):
        raise UserError(
            f"--corpus={config.corpus}: no pair to train on: "
            f"{np.sum(~fits):,} of {len(fits):,} are longer than "
            f"--sequence_length={limit} tokens, and the shortest has "
            f"{min(lengths):,}"
        )
    if config.validation_fraction and not len(validation_rows):
        warn_of_no_validation(
            config,
            f"of {len(held_out):,} pair(s), those with a text in common stay "
            "together, and at least "
            f"{math.ceil(1 / config.validation_fraction):,} without are needed",
        )
    validation = validation_texts = None
    if len(validation_rows):
        validation = batches_of(validation_rows, None)
        validation_texts = TextPairs(
            [pairs.sources[row] for row in validation_rows],
            [pairs.targets[row] for row in validation_rows],
        )
    return PairData(
        tokenizer=tokenizer,
        training=batches_of(training_rows, config.seed),
        validation=validation,
        validation_texts=validation_texts,
        max_tokens=limit,
        num_too_long=int(np.sum(~fits)),
        longest_target=max(len(targets[row]) for row in training_rows),
        digest=tables.digest(pairs.sources, pairs.targets),
        unknown_share=np.mean(
            [
                tokenizer.count_unknown(np.concatenate(side))
                / sum(map(len, side))
                for side in (sources, targets)
            ]
        ),
    )


def _token_ids(tokenizer, texts) -> list[np.ndarray]:
    """Returns the token ids of each text, `end_id` last."""
    return [
        np.append(ids, np.int32(tokenizer.end_id))
        for ids in token_cache.tokenize_texts(tokenizer, texts)
    ]


def _held_out(pairs, fraction, seed) -> np.ndarray:
    """Chooses the pairs for validation: bool [pairs].

    Pairs that have a text in common stay together, so that no source and no
    target of the validation set is in the training set.
    """
    groups = collections.defaultdict(list)
    for row, group in enumerate(_group_by_text(pairs)):
        groups[group].append(row)
    held_out = np.zeros(len(pairs.sources), bool)
    left = int(len(held_out) * fraction)
    for group in np.random.default_rng(seed).permutation(list(groups)):
        if len(groups[group]) <= left:
            held_out[groups[group]] = True
            left -= len(groups[group])
    return held_out


def _group_by_text(pairs) -> list[int]:
    """Returns for each pair the first row of its group (a union-find).

    Pairs with an equal source or an equal target are in one group; for what is
    equal, see `splits.first_rows`.
    """
    parent = list(range(len(pairs.sources)))

    def root(row):
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for side in (pairs.sources, pairs.targets):
        for row, first in enumerate(splits.first_rows(side)):
            low, high = sorted((root(row), root(first)))
            parent[high] = low
    return [root(row) for row in parent]

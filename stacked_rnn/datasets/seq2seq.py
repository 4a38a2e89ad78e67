"""What a seq2seq model learns from: pairs of texts, tokenized and split."""

import collections
import dataclasses
import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError
from stacked_rnn.datasets import synthetic_pairs, tables, token_cache
from stacked_rnn.datasets.batches import Pairs, do_without_validation

# Between the texts of the tokenizer's vocabulary: its one token ends a text.
_SEPARATOR = "\0"
_HEADER = ("source", "target")
_HINT = "--source_field and --target_field name the columns"


@dataclasses.dataclass(frozen=True)
class TextPairs:
    """Texts, and what is to be made of each.

    Attributes:
        sources, targets: strings, none empty.
        num_empty: pairs that were left out, as one of them was empty.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    num_empty: int = 0

    def sample(self, count) -> "TextPairs":
        """At most so many of them, from all over."""
        every = slice(None, None, -(-len(self.sources) // count))
        return TextPairs(self.sources[every], self.targets[every])


@dataclasses.dataclass(frozen=True)
class PairData:
    """What a seq2seq model learns from.

    Attributes:
        tokenizer: of both sides, built from the training texts alone; its
            `end_id` ends a text.
        training, validation: `Pairs`; validation may be None.
        validation_texts: `TextPairs`, those of `validation`.
        max_tokens: the most that a text may have.
        num_too_long: pairs that were left out, as one of them was too long.
        num_empty: pairs that were left out, as one of them was empty.
        longest_target: tokens of it.
        digest: of the texts; equal ones have the same.
        unknown_share: of the tokens of all texts.
    """

    tokenizer: tokenizers.Tokenizer
    training: Pairs
    validation: Pairs | None
    validation_texts: TextPairs | None
    max_tokens: int
    num_too_long: int
    num_empty: int
    longest_target: int
    digest: str
    unknown_share: float = 0.0


def read_pairs(
    source, source_field=_HEADER[0], target_field=_HEADER[1], flag="corpus"
) -> TextPairs:
    """Reads pairs of texts.

    Args:
        source: a name of `synthetic_pairs.MADE`, a path, a glob, or several of
            these separated by commas: .tsv, .csv or .jsonl, or these with .gz.
        source_field, target_field: columns of a table, fields of a JSON object.
            A table without such a header line has the source in its first
            column, the target in its second.
        flag: what an error calls the source.

    Raises:
        UserError: naming the file and the line.
    """
    if source in synthetic_pairs.MADE:
        return TextPairs(*zip(*synthetic_pairs.MADE[source]()))
    fields = (source_field, target_field)
    pairs = itertools.chain(
        *(_read_file(file, fields, flag) for file in tables.find(source, flag))
    )
    sources, targets, num_empty = [], [], 0
    for one, other in pairs:
        if one.strip() and other.strip():
            sources.append(one)
            targets.append(other)
        else:
            num_empty += 1
    if not sources:
        raise UserError(f"--{flag}={source}: there is no pair of texts in it")
    return TextPairs(sources, targets, num_empty)


def _read_file(file, fields, flag):
    if not tables.kind(file, flag):
        raise UserError(
            f"--{flag}={file.name}: pairs of texts are in .tsv, .csv or .jsonl "
            f"files (or made: {', '.join(synthetic_pairs.MADE)})"
        )
    header = _HEADER if fields == _HEADER else None
    for where, values in tables.read_fields(file, fields, flag, _HINT, header):
        for value, name in zip(values, fields):
            tables.check_string(value, name, where, flag, _HINT)
        yield values


def load_pair_data(config, vocabulary_size=0) -> PairData:
    """Reads, splits and tokenizes the pairs of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.
        vocabulary_size: see `ModelConfig`.
    """
    read = read_pairs(config.corpus, config.source_field, config.target_field)
    held_out = _held_out(read, config.validation_fraction, config.seed)
    texts = [
        [text.encode("utf-8", "replace") for text in side]
        for side in (read.sources, read.targets)
    ]
    learned = [
        text for side in texts for text in itertools.compress(side, ~held_out)
    ]
    tokenizer = tokenizers.build(
        config.tokenizer,
        [b"\n".join(learned)],
        vocabulary_size,
        config.letters_only,
        _SEPARATOR,
    )
    sources, targets = (_token_ids(tokenizer, side) for side in texts)
    limit = config.sequence_length
    lengths = [  # without what ends a text
        max(len(source), len(target)) - 1
        for source, target in zip(sources, targets)
    ]
    fits = np.array(lengths) <= limit

    def pairs(rows, seed):
        return Pairs(
            [sources[row] for row in rows],
            [targets[row] for row in rows],
            tokenizer.end_id,
            config.batch_size,
            seed,
            sum(len(read.targets[row]) for row in rows),
        )

    training_rows = np.flatnonzero(fits & ~held_out)
    validation_rows = np.flatnonzero(fits & held_out)
    if not len(training_rows):
        raise UserError(
            f"--corpus={config.corpus}: no pair to train on: of "
            f"{len(fits):,} there are {np.sum(~fits):,} longer than "
            f"--sequence_length={limit} tokens, and the shortest has "
            f"{min(lengths):,}"
        )
    if config.validation_fraction and not len(validation_rows):
        do_without_validation(
            config,
            f"of {len(held_out):,} pair(s) those with a text in common stay "
            f"together, and {math.ceil(1 / config.validation_fraction):,} "
            "without one are needed",
        )
    validation = validation_texts = None
    if len(validation_rows):
        validation = pairs(validation_rows, None)
        validation_texts = TextPairs(
            [read.sources[row] for row in validation_rows],
            [read.targets[row] for row in validation_rows],
        )
    return PairData(
        tokenizer,
        pairs(training_rows, config.seed),
        validation,
        validation_texts,
        limit,
        int(np.sum(~fits)),
        read.num_empty,
        max(len(targets[row]) for row in training_rows),
        _digest(read),
        np.mean(
            [
                token_cache.count_unknown(tokenizer, np.concatenate(side))
                / sum(map(len, side))
                for side in (sources, targets)
            ]
        ),
    )


def _token_ids(tokenizer, texts) -> list[np.ndarray]:
    """The ids of each text, with the one that ends it."""
    return [
        np.append(ids, np.int32(tokenizer.end_id))
        for ids in token_cache.cut_texts(tokenizer, texts)
    ]


def _held_out(read, fraction, seed) -> np.ndarray:
    """Which pairs validate, bool [pairs].

    Pairs that have a text in common stay together, so that no source and no
    target of the validation is in the training.
    """
    groups = collections.defaultdict(list)
    for row, group in enumerate(_groups(read)):
        groups[group].append(row)
    held_out = np.zeros(len(read.sources), bool)
    left = int(len(held_out) * fraction)
    for group in np.random.default_rng(seed).permutation(list(groups)):
        if len(groups[group]) <= left:
            held_out[groups[group]] = True
            left -= len(groups[group])
    return held_out


def _groups(read) -> list[int]:
    """For each pair the number of the first that it is connected with."""
    group = list(range(len(read.sources)))

    def root(row):
        while group[row] != row:
            group[row] = group[group[row]]
            row = group[row]
        return row

    for side in (read.sources, read.targets):
        first = {}
        for row, text in enumerate(side):
            one, other = sorted((root(row), root(first.setdefault(text, row))))
            group[other] = one
    return [root(row) for row in group]


def _digest(read) -> str:
    digest = hashlib.sha256()
    for pair in zip(read.sources, read.targets):
        digest.update(repr(pair).encode("utf-8", "replace"))
    return digest.hexdigest()

"""The tokens of a corpus: in memory, or made once and kept on disk.

A large corpus has a directory in the cache, named by the digest of the text and
of all that decides its tokens:

    tokenizer.json            as soon as the vocabulary is known
    parts/training-000007.npz a piece of text that is done, until all are
    training.tokens           the token ids of a part, in one width
    index.json                last of all: what there is
    lock                      held by the process that makes them
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError
from stacked_rnn.datasets import corpora, splits
from stacked_rnn.utils import devices, files, terminal

LARGE = 2**24  # characters; a corpus with fewer is kept in memory
_INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus as tokens.

    Attributes:
        tokenizer: what cut it.
        token_ids: of each part by its name, integers [tokens]: an array or a
            `TokenFile`.
        num_characters, num_documents: of each part, see `splits`.
        unknown_parts: see `Tokenizer.unknown_parts`; of a tokenizer that was
            not built from this corpus.
        num_unknown: tokens of each part that stand for something unknown.
    """

    tokenizer: tokenizers.Tokenizer
    token_ids: Mapping[str, Sequence]
    num_characters: Mapping[str, int]
    num_documents: Mapping[str, int]
    unknown_parts: Sequence[str] = ()
    num_unknown: Mapping[str, int] = dataclasses.field(default_factory=dict)


class TokenFile:
    """Token ids on disk; `file[first:last]` reads them.

    Read by TensorFlow's file system, that finds its place in a long file at
    once. (`tf.data.FixedLengthRecordDataset` reads all that it skips.)
    """

    def __init__(self, path, dtype):
        self._dtype = np.dtype(dtype)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
        self._length, rest = divmod(size, self._dtype.itemsize)
        if rest:
            raise ValueError("it ends within a token")
        self._file = tf.io.gfile.GFile(str(path), "rb")

    def __len__(self):
        return self._length

    def __getitem__(self, part):
        first, last, _ = part.indices(len(self))
        count = max(0, last - first)
        try:
            self._file.seek(first * self._dtype.itemsize)
            content = self._file.read(count * self._dtype.itemsize)
        except tf.errors.OpError as error:
            raise UserError(
                f"--cache_dir: cannot read {self._file.name}: {error.message}"
            ) from error
        token_ids = np.frombuffer(content, self._dtype)
        if len(token_ids) < count:
            raise UserError(
                f"--cache_dir: {self._file.name} was cut short; the same "
                "command makes it anew"
            )
        return token_ids


def tokenize_corpus(
    corpus, fraction, seed, tokenizer, build, settings, cache_dir
):
    """The tokens of a corpus, from the cache where it is large.

    Args:
        corpus: a `Corpus`.
        fraction, seed: what `splits.split` takes.
        tokenizer: that of a trained model, or None.
        build: makes a tokenizer from the pieces of the part "training"; called
            where there is none.
        settings: dict of what decides the vocabulary that `build` makes.
        cache_dir: a directory, or "" for the one beside those of Keras.

    Returns:
        A `TokenizedCorpus`.

    Raises:
        UserError: the cache cannot be read or written.
    """
    if corpus.num_characters < LARGE:
        parts = splits.split(corpus, fraction, seed)
        return _tokenize_in_memory(corpus, parts, tokenizer, build)
    made_from = tokenizer.to_dict() if tokenizer else settings
    split_by = [fraction, seed] if corpus.has_separator else [fraction]
    key = json.dumps([3, corpus.digest, split_by, made_from])
    name = "tokens-" + hashlib.sha256(key.encode()).hexdigest()[:16]
    cache_dir = cache_dir or f"{corpora.keras_cache()}/stacked_rnn"
    cache_dir = pathlib.Path(cache_dir).expanduser()
    directory = cache_dir / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # One process at a time makes them; the others wait.
        with files.locked(directory / "lock", waits=True):
            found = _load(directory)
            if not found:
                parts = splits.split(corpus, fraction, seed)
                _fill(directory, corpus, parts, tokenizer, build)
                found = _read(directory)
        return found
    except OSError as error:
        raise UserError(
            f"--cache_dir={cache_dir}: cannot keep tokens there: "
            f"{error.strerror}"
        ) from error


def _tokenize_in_memory(corpus, parts, tokenizer, build):
    is_given = tokenizer is not None
    if not is_given:
        tokenizer = build(corpus.pieces(parts["training"]))
    token_ids, unknown_parts = {}, {}
    for name, part in parts.items():
        pieces = []
        for piece in corpus.pieces(part):
            cut = _cut(tokenizer.tokenize, piece, tokenizer.vocabulary_size())
            if is_given:
                unknown_parts |= _unknown_parts(tokenizer, piece, cut)
            pieces.append(cut)
        token_ids[name] = np.concatenate(pieces)
    num_unknown = {
        name: count_unknown(tokenizer, ids) for name, ids in token_ids.items()
    }
    return TokenizedCorpus(
        tokenizer, token_ids, *_sizes(parts), [*unknown_parts], num_unknown
    )


def _sizes(parts):
    """The characters and the documents of each part."""
    return (
        {name: part.num_characters for name, part in parts.items()},
        {name: part.num_documents for name, part in parts.items()},
    )


def tokenize_texts(tokenizer, texts) -> list[np.ndarray]:
    """The token ids of each of many texts, int32 [tokens]; a bar on a terminal.

    Some at a time: what lies between a text and its tokens takes many times the
    memory of both.
    """
    token_ids, batch, waiting = [], [], 0
    with terminal.progress_bar(len(texts), "text") as progress:
        for number, text in enumerate(texts, 1):
            batch.append(text)
            waiting += len(text)
            if waiting >= corpora.PIECE or number == len(texts):
                ragged = tokenizer.tokenize(tf.constant(batch))
                ends = ragged.row_splits.numpy()[1:-1]
                token_ids += np.split(ragged.flat_values.numpy(), ends)
                batch, waiting = [], 0
                progress(number)
    return token_ids


def count_unknown(tokenizer, token_ids) -> int:
    """How many of some token ids stand for what the vocabulary lacks."""
    if tokenizer.unknown_id is None:
        return 0
    return int(np.count_nonzero(token_ids == tokenizer.unknown_id))


def _cut(tokenize, piece, vocabulary_size):
    """The token ids of a piece, in the narrowest integers that hold them."""
    token_ids = tokenize(tf.constant([piece])).flat_values.numpy()
    return token_ids.astype(_dtype(vocabulary_size))


def _dtype(vocabulary_size):
    return np.min_scalar_type(vocabulary_size - 1)


def _unknown_parts(tokenizer, piece, token_ids) -> dict:
    """What has no token, as keys."""
    if tokenizer.unknown_id not in token_ids:
        return {}
    return dict.fromkeys(tokenizer.unknown_parts([piece]))


# The cache --------------------------------------------------------------------


def _load(directory) -> TokenizedCorpus | None:
    """What a directory holds; None where it is to be made, or made anew."""
    if not (directory / _INDEX).exists():
        return None
    try:
        return _read(directory)
    except (FileNotFoundError, ValueError, KeyError, UserError):
        print(
            f"note: the tokens in {directory} are damaged, and made anew",
            file=sys.stderr,
        )
        (directory / _INDEX).unlink()
        return None


def _read(directory):
    index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
    token_ids = {
        name: TokenFile(directory / f"{name}.tokens", index["dtype"])
        for name in index["lengths"]
    }
    if {n: len(file) for n, file in token_ids.items()} != index["lengths"]:
        raise ValueError("a file of another length")
    tokenizer = tokenizers.from_dict(index["tokenizer"])
    return TokenizedCorpus(
        tokenizer,
        token_ids,
        index["num_characters"],
        index["num_documents"],
        index["unknown_parts"],
        index["num_unknown"],
    )


def _fill(directory, corpus, parts, tokenizer, build):
    """Makes the files, or those of them that a killed process did not."""
    print(f"The tokens are made once, and kept in {directory}", file=sys.stderr)
    is_given = tokenizer is not None
    if not is_given:
        tokenizer = _build_once(directory, corpus, parts["training"], build)
    (directory / "parts").mkdir(exist_ok=True)
    tokenize = tf.function(
        tokenizer.tokenize,
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )

    def make_part(item):
        path, piece = item
        if not path.exists():
            token_ids = _cut(tokenize, piece, tokenizer.vocabulary_size())
            unknown_parts = (
                _unknown_parts(tokenizer, piece, token_ids) if is_given else ()
            )
            with files.whole_file(path) as file:
                np.savez(
                    file,
                    token_ids=token_ids,
                    unknown_parts=np.array([*unknown_parts], str),
                )
        return path

    lengths, unknown_parts, num_unknown = {}, {}, {}
    for name, part in parts.items():
        pieces = _shown(corpus, part, f"{name} text to tokens")
        paths = _in_parallel(
            make_part,
            (
                (directory / "parts" / f"{name}-{number:06}.npz", piece)
                for number, piece in enumerate(pieces)
            ),
        )
        lengths[name] = num_unknown[name] = 0
        with files.whole_file(directory / f"{name}.tokens") as file:
            for path in paths:
                with np.load(path) as piece:
                    file.write(piece["token_ids"].tobytes())
                    lengths[name] += piece["token_ids"].size
                    num_unknown[name] += count_unknown(
                        tokenizer, piece["token_ids"]
                    )
                    unknown_parts |= dict.fromkeys(
                        piece["unknown_parts"].tolist()
                    )
    num_characters, num_documents = _sizes(parts)
    index = {
        "lengths": lengths,
        "num_characters": num_characters,
        "num_documents": num_documents,
        "dtype": _dtype(tokenizer.vocabulary_size()).name,
        "unknown_parts": [*unknown_parts],
        "num_unknown": num_unknown,
        "tokenizer": tokenizer.to_dict(),
    }
    with files.whole_file(directory / _INDEX) as file:
        file.write(json.dumps(index).encode())
    shutil.rmtree(directory / "parts")


def _build_once(directory, corpus, part, build):
    """The tokenizer of a part; that of a killed process where there is one."""
    path = directory / "tokenizer.json"
    if path.exists():
        return tokenizers.from_dict(
            json.loads(path.read_text(encoding="utf-8"))
        )
    tokenizer = build(_shown(corpus, part, "vocabulary"))
    with files.whole_file(path) as file:
        file.write(json.dumps(tokenizer.to_dict()).encode())
    return tokenizer


def _shown(corpus, part, what):
    """The pieces of a part, with a bar on a terminal and a line elsewhere."""
    length = part.num_characters
    print(f"{what}: {length / 1e6:,.0f} M characters", file=sys.stderr)
    pieces_in_all = -(-length // corpora.PIECE)
    with terminal.progress_bar(pieces_in_all, "piece") as progress:
        for done, piece in enumerate(corpus.pieces(part)):
            yield piece
            progress(min(done + 1, pieces_in_all))


def _in_parallel(function, items):
    """`function` of each item, in order, of some at the same time."""
    workers = devices.cores()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        running = collections.deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

"""Tokenizing a corpus: in memory, or once and cached on disk.

A large corpus has a directory in the cache, named by a hash of the text and of
all settings that affect its tokens:

    tokenizer.json            written as soon as the vocabulary is known
    parts/training-000007.npz the tokens of one piece; removed at the end
    training.tokens           the token ids of a part, all of the same width
    index.json                written last: the contents of the directory
    lock                      held by the process that tokenizes
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

LARGE = 2**24  # characters; a smaller corpus is kept in memory
_INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class TokenizedCorpus:
    """The token ids of a corpus, by part, as `splits.split` names them.

    Attributes:
        tokenizer: the tokenizer of the corpus.
        token_ids: integers [tokens] per part: an array or a `TokenFile`.
        num_characters, num_documents: numbers per part, see `splits`.
        unknown_parts: see `Tokenizer.unknown_parts`; empty if the tokenizer was
            built from this corpus.
        num_unknown: number of unknown tokens per part.
    """

    tokenizer: tokenizers.Tokenizer
    token_ids: Mapping[str, Sequence]
    num_characters: Mapping[str, int]
    num_documents: Mapping[str, int]
    unknown_parts: Sequence[str] = ()
    num_unknown: Mapping[str, int] = dataclasses.field(default_factory=dict)


class TokenFile:
    """Token ids on disk; `file[first:last]` reads them into an array.

    TensorFlow's file system seeks in constant time, whereas
    `tf.data.FixedLengthRecordDataset` reads all records that it skips.

    Args:
        path: path of the file.
        dtype: integer type of the ids.
    """

    def __init__(self, path, dtype):
        self._dtype = np.dtype(dtype)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
        self._length, rest = divmod(size, self._dtype.itemsize)
        if rest:
            raise ValueError("the file ends within a token")
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
                f"--cache_dir: {self._file.name} was cut short; repeat the "
                "command to rebuild it"
            )
        return token_ids


def tokenize_corpus(corpus, split, tokenizer, settings, cache_dir):
    """Splits and tokenizes a corpus; a large one is cached.

    Args:
        corpus: a `Corpus`.
        split: the further arguments of `splits.split`.
        tokenizer: the tokenizer of a trained model, or None.
        settings: dict of the options of `tokenizers.build`, which makes a
            tokenizer of the training part if `tokenizer` is None.
        cache_dir: a directory; "": `stacked_rnn` in the cache of Keras.

    Returns:
        A `TokenizedCorpus`.

    Raises:
        UserError: the cache cannot be read or written.
    """
    if corpus.num_characters < LARGE:
        parts = splits.split(corpus, *split)
        return _tokenize_in_memory(corpus, parts, tokenizer, settings)
    made_from = tokenizer.to_dict() if tokenizer else settings
    fraction, seed, where = split
    split_by = [fraction, where] + [seed] * corpus.has_separator
    key = json.dumps([4, corpus.digest, split_by, made_from])
    name = "tokens-" + hashlib.sha256(key.encode()).hexdigest()[:16]
    cache_dir = cache_dir or f"{corpora.keras_cache()}/stacked_rnn"
    directory = pathlib.Path(cache_dir, name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # One process at a time tokenizes; the others wait.
        with files.locked(directory / "lock", blocking=True):
            cached = _load(directory)
            if not cached:
                parts = splits.split(corpus, *split)
                _fill(directory, corpus, parts, tokenizer, settings)
                cached = _read(directory)
        return cached
    except OSError as error:
        raise UserError(
            f"--cache_dir={cache_dir}: cannot store tokens there: "
            f"{error.strerror}"
        ) from error


def _tokenize_in_memory(corpus, parts, tokenizer, settings):
    is_given = tokenizer is not None
    if not is_given:
        pieces = corpus.pieces(parts["training"])
        tokenizer = tokenizers.build(texts=pieces, **settings)
    token_ids, unknown_parts, dtype = {}, {}, _dtype(tokenizer)
    for name, part in parts.items():
        pieces = []
        for piece in corpus.pieces(part):
            piece_ids = _tokenize_piece(tokenizer.tokenize, piece, dtype)
            if is_given:
                unknown_parts |= _unknown_parts(tokenizer, piece, piece_ids)
            pieces.append(piece_ids)
        token_ids[name] = np.concatenate(pieces)
    num_unknown = {
        name: tokenizer.count_unknown(ids) for name, ids in token_ids.items()
    }
    return TokenizedCorpus(
        tokenizer, token_ids, *_sizes(parts), [*unknown_parts], num_unknown
    )


def _sizes(parts):
    """Returns the numbers of characters and of documents per part."""
    return (
        {name: part.num_characters for name, part in parts.items()},
        {name: part.num_documents for name, part in parts.items()},
    )


def tokenize_texts(tokenizer, texts) -> list[np.ndarray]:
    """Tokenizes each of many texts: a list of int32 [tokens].

    It shows a progress bar, and tokenizes some texts at a time: the tensors
    between a text and its tokens take many times the memory of both.

    Args:
        tokenizer: a `Tokenizer`.
        texts: list of byte strings.
    """
    token_ids, batch, batch_bytes = [], [], 0
    with terminal.progress_bar(len(texts), "text") as progress:
        for done, text in enumerate(texts, 1):
            batch.append(text)
            batch_bytes += len(text)
            if batch_bytes >= corpora.PIECE or done == len(texts):
                ragged = tokenizer.tokenize(tf.constant(batch))
                ends = ragged.row_splits.numpy()[1:-1]
                token_ids += np.split(ragged.flat_values.numpy(), ends)
                batch, batch_bytes = [], 0
                progress(done)
    return token_ids


def _tokenize_piece(tokenize, piece, dtype):
    return tokenize(tf.constant([piece])).flat_values.numpy().astype(dtype)


def _dtype(tokenizer):
    """Returns the narrowest unsigned integer type for the token ids."""
    return np.min_scalar_type(tokenizer.vocabulary_size() - 1)


def _unknown_parts(tokenizer, piece, token_ids) -> dict:
    """Returns the parts of a piece without a token, as keys of a dict."""
    if tokenizer.unknown_id not in token_ids:
        return {}
    return dict.fromkeys(tokenizer.unknown_parts([piece]))


# The cache --------------------------------------------------------------------


def _load(directory) -> TokenizedCorpus | None:
    """Reads a directory; None if it is incomplete or damaged."""
    if not (directory / _INDEX).exists():
        return None
    try:
        return _read(directory)
    except (FileNotFoundError, ValueError, KeyError, UserError):
        print(
            f"note: the tokens in {directory} are damaged: rebuilding them",
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
        raise ValueError("a file has the wrong length")
    tokenizer = tokenizers.from_dict(index["tokenizer"])
    return TokenizedCorpus(
        tokenizer,
        token_ids,
        index["num_characters"],
        index["num_documents"],
        index["unknown_parts"],
        index["num_unknown"],
    )


def _fill(directory, corpus, parts, tokenizer, settings):
    """Writes a directory, reusing the pieces that a killed process wrote."""
    print(f"Tokenizing once; tokens are kept in {directory}", file=sys.stderr)
    is_given = tokenizer is not None
    if not is_given:
        tokenizer = _build_once(directory, corpus, parts["training"], settings)
    dtype = _dtype(tokenizer)
    (directory / "parts").mkdir(exist_ok=True)
    tokenize = tf.function(
        tokenizer.tokenize,
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )

    def write_piece(item):
        path, piece = item
        if not path.exists():
            token_ids = _tokenize_piece(tokenize, piece, dtype)
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
        pieces = corpus.pieces(part)
        if part.num_characters > corpora.PIECE:
            pieces = _with_progress(corpus, part, f"tokenizing the {name} text")
        paths = _map_in_parallel(
            write_piece,
            (
                (directory / "parts" / f"{name}-{index:06}.npz", piece)
                for index, piece in enumerate(pieces)
            ),
        )
        lengths[name] = num_unknown[name] = 0
        with files.whole_file(directory / f"{name}.tokens") as file:
            for path in paths:
                with np.load(path) as piece:
                    file.write(piece["token_ids"].tobytes())
                    lengths[name] += piece["token_ids"].size
                    num_unknown[name] += tokenizer.count_unknown(
                        piece["token_ids"]
                    )
                    unknown_parts |= dict.fromkeys(
                        piece["unknown_parts"].tolist()
                    )
    num_characters, num_documents = _sizes(parts)
    index = {
        "lengths": lengths,
        "num_characters": num_characters,
        "num_documents": num_documents,
        "dtype": dtype.name,
        "unknown_parts": [*unknown_parts],
        "num_unknown": num_unknown,
        "tokenizer": tokenizer.to_dict(),
    }
    with files.whole_file(directory / _INDEX) as file:
        file.write(json.dumps(index).encode())
    shutil.rmtree(directory / "parts")


def _build_once(directory, corpus, part, settings):
    """Builds the tokenizer, or loads it if a killed process has built it."""
    path = directory / "tokenizer.json"
    if path.exists():
        return tokenizers.from_dict(
            json.loads(path.read_text(encoding="utf-8"))
        )
    tokenizer = tokenizers.build(
        texts=vocabulary_pieces(corpus, part), **settings
    )
    with files.whole_file(path) as file:
        file.write(json.dumps(tokenizer.to_dict()).encode())
    return tokenizer


def vocabulary_pieces(corpus, part):
    """Yields the pieces to build a vocabulary from; of many, shows progress."""
    if part.num_characters < LARGE:
        return corpus.pieces(part)
    return _with_progress(corpus, part, "building the vocabulary")


def _with_progress(corpus, part, activity):
    """Yields the pieces of a part; shows a line and a progress bar."""
    length = part.num_characters
    print(f"{activity}: {length / 1e6:,.0f} M characters", file=sys.stderr)
    num_pieces = -(-length // corpora.PIECE)
    with terminal.progress_bar(num_pieces, "piece") as progress:
        for done, piece in enumerate(corpus.pieces(part)):
            yield piece
            progress(min(done + 1, num_pieces))


def _map_in_parallel(function, items):
    """Yields the function's results in order; reads few items ahead."""
    workers = devices.cores()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        running = collections.deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

"""Corpora by name or path, their split, and the windows cut from them.

Text is a byte string, as TensorFlow's string ops want it. Windows are a pure
function of the seed and the step, so that a run can go on from any step.
"""

import abc
import dataclasses
import glob
import gzip
import hashlib
import os
import pydoc_data.topics
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from stacked_rnn import tokenizers
from stacked_rnn.configs import UserError

# Corpora ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Download:
    """A text on the web: its address, and the digest of its content."""

    url: str
    algorithm: str
    digest: str


DOWNLOADS = {
    "timemachine": Download(
        "https://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
        "sha1",
        "090b5e7e70c295757f55df93cb0a180b9691891a",
    ),
    "shakespeare": Download(
        "https://storage.googleapis.com/download.tensorflow.org/data/"
        "shakespeare.txt",
        "sha256",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def read_corpus(corpus, binary=False) -> bytes:
    """The text that `--corpus` names.

    Args:
        corpus: "pydoc", a name in `DOWNLOADS`, a path, a glob, "-" for
            standard input, or several of these separated by commas, whose
            texts are joined in order. Files that end in .gz are unpacked.
        binary: take files of any bytes; otherwise only UTF-8 text.

    Raises:
        UserError: naming the file that is missing, empty or not text.
    """
    texts = []
    for source in corpus.split(","):
        for name, content in _read_source(source.strip()):
            if not content:
                raise UserError(f"--corpus: {name} is empty")
            if not binary:
                content = _checked_text(name, content)
            texts.append(content)
    return b"".join(texts)


def _read_source(source):
    """Yields (name, bytes) of each file that one part of `--corpus` names."""
    if source == "pydoc":
        topics = pydoc_data.topics.topics
        text = "\n\n".join(topics[name].strip() for name in sorted(topics))
        yield source, text.encode()
    elif source in DOWNLOADS:
        yield source, _read_file(_download(source))
    elif source == "-":
        yield "standard input", sys.stdin.buffer.read()
    else:
        # A path may hold the signs of a glob; as a path it comes first.
        paths = (
            [source] if os.path.exists(source) else sorted(glob.glob(source))
        )
        if not paths:
            raise UserError(
                f"--corpus={source}: no such file, and no corpus of that name "
                f"(there are pydoc, {', '.join(DOWNLOADS)})"
            )
        for path in paths:
            yield path, _read_file(path)


def _read_file(path) -> bytes:
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            return file.read()
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--corpus: cannot read {path}: {reason}") from error


def _checked_text(name, content) -> bytes:
    """The content without a byte-order mark; raises where it is not text."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    remedy = "convert it to UTF-8, or take --tokenizer=byte for any file"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--corpus: {name} is not UTF-8 text (byte {error.start}): {remedy}"
        ) from None
    if b"\0" in content:
        raise UserError(
            f"--corpus: {name} is a binary file (zero byte at "
            f"{content.index(0)}): {remedy}"
        )
    return content


def _download(name) -> str:
    """Path of a corpus in the Keras cache; fetched where it is not there.

    A file that is there already is taken as it is, with a note where it is not
    the published one: somebody put it there.
    """
    download = DOWNLOADS[name]
    cache = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    path = os.path.join(cache, "datasets", f"{name}.txt")
    if os.path.exists(path):
        if _digest(path, download.algorithm) != download.digest:
            print(f"note: {path} differs from {download.url}", file=sys.stderr)
        return path
    try:
        fetched = keras.utils.get_file(
            os.path.basename(path), download.url, cache_dir=cache
        )
    except Exception as error:  # the only type that get_file promises
        raise UserError(
            f"--corpus={name}: cannot download {download.url}: fetch it by "
            f"hand and put it at {path}"
        ) from error
    if _digest(fetched, download.algorithm) != download.digest:
        os.remove(fetched)
        raise UserError(
            f"--corpus={name}: {download.url} holds another text than it used "
            f"to: put a copy that you trust at {path}"
        )
    return fetched


def _digest(path, algorithm) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def split_text(text, validation_fraction) -> tuple[bytes, bytes]:
    """Cuts the last part of a text off: (training text, validation text).

    The cut is counted in characters and never falls inside one.
    """
    characters = text.decode("utf-8", "surrogateescape")
    cut = int(len(characters) * (1 - validation_fraction))
    return tuple(
        part.encode("utf-8", "surrogateescape")
        for part in (characters[:cut], characters[cut:])
    )


# Windows ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(abc.ABC):
    """Batches of windows over a stream of token ids.

    A window that starts at s has the inputs x = tokens[s : s + time] and the
    targets y = tokens[s + 1 : s + 1 + time]. Batches have one shape for all
    steps: where there is nothing to predict, the target is -1.

    Attributes:
        token_ids: int32 tensor [tokens], the stream.
        sequence_length: tokens of a window, the `time` above.
        batch_size: windows of a batch.
        seed: of the order and the offset of the windows.
        characters: of the text that was cut into the tokens; None: as many.
    """

    token_ids: tf.Tensor
    sequence_length: int
    batch_size: int
    seed: int = 0
    characters: int | None = None

    carries_state = False  # whether row i of a batch continues row i before it

    def __post_init__(self):
        if self.num_tokens <= self.sequence_length:
            raise UserError(
                f"the text has {self.num_tokens} tokens, and one window "
                f"takes {self.sequence_length + 1}: give more text, or a "
                "smaller --sequence_length"
            )

    @property
    def num_tokens(self) -> int:
        """Length of the stream."""
        return self.token_ids.shape[0]

    @property
    def characters_per_token(self) -> float:
        """Mean length of a token in the original text."""
        return (self.characters or self.num_tokens) / self.num_tokens

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> int:
        """Batches of one pass over the stream."""

    @abc.abstractmethod
    def _starts(self, epoch, step, rows):
        """Where the windows of some rows of a batch start, and the text ends.

        Args:
            epoch, step: int64 scalars; step counts from 0 in each epoch.
            rows: int64 [rows], the rows of the global batch asked for.

        Returns:
            (starts, ends), int64 [rows]: a target at position `end` or beyond
            does not count.
        """

    def batch(self, step, rows=None):
        """The batch of a global step, counted from 0 over all epochs.

        Args:
            step: int64 scalar.
            rows: int64 [rows], which rows of the batch; None: all.

        Returns:
            (inputs, targets), int32 [rows, time].
        """
        if rows is None:
            rows = tf.range(self.batch_size, dtype=tf.int64)
        step = tf.cast(step, tf.int64)
        starts, ends = self._starts(
            step // self.steps_per_epoch, step % self.steps_per_epoch, rows
        )
        offsets = tf.range(self.sequence_length + 1, dtype=tf.int64)
        positions = starts[:, None] + offsets
        window = tf.gather(
            self.token_ids, tf.minimum(positions, self.num_tokens - 1)
        )
        counts = positions[:, 1:] < ends[:, None]
        return window[:, :-1], tf.where(counts, window[:, 1:], -1)

    def dataset(self, first_step=0) -> tf.data.Dataset:
        """The batches from a step on, without end: what `model.fit` takes."""
        options = tf.data.Options()
        options.autotune.enabled = False  # its thread can stall an epoch's end
        return (
            tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
            .map(self.batch)
            .prefetch(2)
            .with_options(options)
        )


class _ShuffledWindows(Windows):
    """Windows that each come once an epoch, in an order of that epoch's own."""

    @property
    @abc.abstractmethod
    def num_windows(self) -> int:
        """Windows of an epoch."""

    @abc.abstractmethod
    def _place(self, index, seed):
        """Starts of the windows of some indices, given the epoch's seed."""

    @property
    def steps_per_epoch(self):
        return -(-self.num_windows // self.batch_size)

    def _starts(self, epoch, step, rows):
        seed = tf.stack([tf.constant(self.seed, tf.int64), epoch])
        index = step * self.batch_size + rows
        last = self.num_windows - 1
        order = tf.random.experimental.index_shuffle(
            tf.minimum(index, last), seed, last
        )
        # The last batch of an epoch may have rows left over: nothing counts.
        ends = tf.where(index <= last, self.num_tokens, 0)
        return self._place(order, seed), tf.cast(ends, tf.int64)


class RandomWindows(_ShuffledWindows):
    """Windows side by side, from a fresh offset in each epoch."""

    @property
    def num_windows(self):
        """Windows that fit, wherever within its length the first starts."""
        return max(1, self.num_tokens // self.sequence_length - 1)

    def _place(self, index, seed):
        room = self.num_tokens - self.num_windows * self.sequence_length
        offset = tf.random.stateless_uniform(
            (), seed, 0, min(room, self.sequence_length), tf.int64
        )
        return offset + index * self.sequence_length


class SlidingWindows(_ShuffledWindows):
    """Every window of the text, each one token on: D2L section 9.3."""

    @property
    def num_windows(self):
        return self.num_tokens - self.sequence_length

    def _place(self, index, seed):
        return index


class Streams(Windows):
    """Parallel streams: row i of a batch continues row i of the one before.

    Every token but the first is a target once an epoch.

        stream 0:  0 1 2 | 3 4 5 | 6 7 8
        stream 1:  9 . . | . . . | . . .
    """

    carries_state = True

    @property
    def stream_length(self):
        """Targets of one stream, the last one perhaps fewer."""
        return -(-(self.num_tokens - 1) // self.batch_size)

    @property
    def steps_per_epoch(self):
        return -(-self.stream_length // self.sequence_length)

    def _starts(self, epoch, step, rows):
        first = rows * self.stream_length
        ends = tf.minimum(first + self.stream_length + 1, self.num_tokens)
        return first + step * self.sequence_length, ends


@dataclasses.dataclass(frozen=True)
class LanguageData:
    """What a language model learns from.

    Attributes:
        tokenizer: built from the training part of the text alone, or that of a
            trained model.
        training, validation: `Windows`; validation may be None.
        unknown_parts: the characters or words of the text that the vocabulary
            of a trained model lacks, each once.
    """

    tokenizer: tokenizers.Tokenizer
    training: Windows
    validation: Windows | None
    unknown_parts: Sequence[str] = ()


def load_language_data(
    config, vocabulary_size=0, tokenizer=None
) -> LanguageData:
    """Reads, splits, tokenizes and cuts the corpus of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.
        vocabulary_size: see `ModelConfig`.
        tokenizer: that of a trained model, of the kind that `config` names;
            None: built from the text.
    """
    text = read_corpus(config.corpus, binary=config.tokenizer == "byte")
    unknown_parts = tokenizer.unknown_parts([text]) if tokenizer else ()
    cut = _cut_sliding_windows if config.train_windows else _cut_windows
    return LanguageData(
        *cut(config, text, vocabulary_size, tokenizer), unknown_parts
    )


def _cut_windows(config, text, vocabulary_size, tokenizer):
    """(tokenizer, training, validation): the end of the text validates."""
    training_text, validation_text = split_text(
        text, config.validation_fraction
    )
    tokenizer = tokenizer or tokenizers.build(
        config.tokenizer,
        training_text,
        vocabulary_size,
        config.letters_only,
        config.document_separator,
    )
    kind = Streams if config.carry_state else RandomWindows
    training = kind(
        _token_ids(tokenizer, training_text),
        config.sequence_length,
        config.batch_size,
        config.seed,
        _count_characters(training_text),
    )
    if not validation_text:
        return tokenizer, training, None
    token_ids = _token_ids(tokenizer, validation_text)
    # Few enough streams that their cold starts hardly count.
    num_streams = token_ids.shape[0] // (8 * config.sequence_length)
    try:
        validation = Streams(
            token_ids,
            config.sequence_length,
            max(1, min(config.batch_size, num_streams)),
            characters=_count_characters(validation_text),
        )
    except UserError as error:
        raise UserError(
            f"--validation_fraction={config.validation_fraction}: {error}, or "
            "--validation_fraction=0"
        ) from error
    return tokenizer, training, validation


def _cut_sliding_windows(config, text, vocabulary_size, tokenizer):
    """The split of D2L section 9.3: the first windows, and the next ones."""
    tokenizer = tokenizer or tokenizers.build(
        config.tokenizer,
        text,
        vocabulary_size,
        config.letters_only,
        config.document_separator,
    )
    token_ids = _token_ids(tokenizer, text)
    windows = config.train_windows + config.validation_windows
    if token_ids.shape[0] < windows + config.sequence_length:
        raise UserError(
            f"--train_windows={config.train_windows} and --validation_windows="
            f"{config.validation_windows} take {windows} windows, and the text "
            f"has {max(0, token_ids.shape[0] - config.sequence_length)}"
        )

    def cut(first, count):
        return SlidingWindows(
            token_ids[first : first + count + config.sequence_length],
            config.sequence_length,
            config.batch_size,
            config.seed,
        )

    return (
        tokenizer,
        cut(0, config.train_windows),
        cut(config.train_windows, config.validation_windows)
        if config.validation_windows
        else None,
    )


def _token_ids(tokenizer, text):
    return tokenizer.tokenize(tf.constant([text])).flat_values


def _count_characters(text) -> int:
    return len(text.decode("utf-8", "replace"))

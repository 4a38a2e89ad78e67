"""Texts with labels, from the files that people have.

TSV or CSV with a header line, JSONL, a directory of a directory for each class,
or a file for each class with a text a line.
"""

import collections
import csv
import dataclasses
import gzip
import io
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Sequence

import keras
import numpy as np

from stacked_rnn.configs import UserError
from stacked_rnn.datasets import corpora

_TABLES = {".csv": ",", ".tsv": "\t"}
_HINT = "--text_field and --label_field name the columns"


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Texts and what they are.

    Attributes:
        texts: strings, none empty.
        labels: a tuple of names for each.
        num_empty: texts that were left out, as there was nothing in them.
    """

    texts: Sequence[str]
    labels: Sequence[tuple[str, ...]]
    num_empty: int = 0

    @property
    def counts(self) -> collections.Counter:
        """How many texts have each label."""
        return collections.Counter(itertools.chain(*self.labels))


def read_labelled_texts(
    source,
    text_field="text",
    label_field="label",
    label_separator="",
    flag="corpus",
) -> LabelledTexts:
    """Reads labelled texts.

    Args:
        source: "imdb" (the training half of Keras' film reviews, downloaded
            once), a path, a glob, or several of these separated by commas.
            Files that end in .gz are unpacked.
        text_field, label_field: columns of a table, fields of a JSON object.
        label_separator: between the labels of a text; empty: it has one. In
            JSONL a list of labels needs none.
        flag: what an error calls the source.

    Raises:
        UserError: naming the file and the line.
    """
    if source == "imdb":
        return _imdb()
    paths = [
        path for part in source.split(",") for path in _find(part.strip(), flag)
    ]
    if len(paths) == 1 and os.path.isdir(paths[0]):
        pairs = _read_directories(paths[0], flag)
    elif any(_kind(path) for path in paths):
        pairs = itertools.chain(
            *(
                _read_fields(path, text_field, label_field, flag)
                for path in paths
            )
        )
    else:
        pairs = _read_files_of_classes(paths, flag)
    texts, labels, num_empty = [], [], 0
    for where, text, label in pairs:
        names = _names(label, label_separator, f"--{flag}: {where}")
        if text.strip():
            texts.append(text)
            labels.append(names)
        else:
            num_empty += 1
    if not texts:
        raise UserError(f"--{flag}={source}: there is no text in it")
    return LabelledTexts(texts, labels, num_empty)


def _find(part, flag) -> list[str]:
    paths = corpora.expand(part)
    if not paths:
        raise UserError(f"--{flag}={part}: no such file")
    return paths


def _kind(path) -> str:
    """The suffix that says how a file is to be read; empty: a text a line."""
    suffix = pathlib.Path(path.removesuffix(".gz")).suffix.lower()
    return suffix if suffix in {*_TABLES, ".jsonl"} else ""


def _read(path, flag) -> str:
    """A file's text, without a byte-order mark."""
    open_file = gzip.open if str(path).endswith(".gz") else open
    with corpora.named_errors(path, flag), open_file(path, "rb") as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--{flag}: {path} is not UTF-8 text (byte {error.start}): convert "
            "it to UTF-8"
        ) from None


def _lines(path, flag):
    r"""Those that end in \n, \r or \r\n: not all that `splitlines` takes."""
    for line in io.StringIO(_read(path, flag), newline=None):
        yield line.removesuffix("\n")


def _read_fields(path, text_field, label_field, flag):
    """Yields (where, text, label) of a table or of JSON objects."""
    rows = _read_json if _kind(path) == ".jsonl" else _read_table
    for number, row in rows(path, flag):
        where = f"{path}, line {number}"
        for name in (text_field, label_field):
            if row.get(name) is None:
                there = ", ".join(map(str, row)) or "none"
                raise UserError(
                    f"--{flag}: {where}: no field {name!r} (there are {there}):"
                    f" {_HINT}"
                )
        if not isinstance(row[text_field], str):
            raise UserError(
                f"--{flag}: {where}: {text_field} is no string: {_HINT}"
            )
        yield where, row[text_field], row[label_field]


def _read_json(path, flag):
    for number, line in enumerate(_lines(path, flag), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"--{flag}: {path}, line {number}: not JSON ({error})"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"--{flag}: {path}, line {number}: expected a JSON object"
            )
        yield number, row


def _read_table(path, flag):
    delimiter = _TABLES[_kind(path)]
    # Quotes mean nothing in TSV: a text may have one alone.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    lines = io.StringIO(_read(path, flag), newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, quoting=quoting)
    csv.field_size_limit(sys.maxsize)
    try:
        for row in reader:
            row.pop(None, None)  # cells beyond the header's
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"--{flag}: {path}, line {reader.line_num}: {error}"
        ) from None


def _read_directories(root, flag):
    """A directory for each class, a file for each text."""
    classes = sorted(
        path for path in pathlib.Path(root).iterdir() if path.is_dir()
    )
    if not classes:
        raise UserError(
            f"--{flag}={root}: no directories in it: there should be one for "
            "each class, with a file for each text"
        )
    for directory in classes:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield path, _read(path, flag), directory.name


def _read_files_of_classes(paths, flag):
    """A file for each class, a text a line."""
    if len(paths) < 2:
        raise UserError(
            f"--{flag}={paths[0]}: where are the labels? Expected .tsv or .csv "
            "with a header line, .jsonl, a directory for each class, or "
            "several files, one for each class"
        )
    stems = {pathlib.Path(path).stem for path in paths}
    for path in paths:
        name = pathlib.Path(path)
        label = name.suffix[1:] if len(stems) == 1 else name.stem
        for number, line in enumerate(_lines(path, flag), 1):
            yield f"{path}, line {number}", line, label


def _names(label, separator, where) -> tuple[str, ...]:
    """The labels of a text, as strings."""
    if isinstance(label, str) and separator:
        label = label.split(separator)
    elif not isinstance(label, list):
        label = [label]
    names = []
    for one in label:
        if isinstance(one, (dict, list)) or one is None:
            raise UserError(f"{where}: {json.dumps(one)} is no label: {_HINT}")
        name = one if isinstance(one, str) else json.dumps(one)
        if name.strip():
            names.append(name.strip())
    return tuple(dict.fromkeys(names))


def _imdb() -> LabelledTexts:
    """The training half of Keras' film reviews, as words in lower case."""
    first = 3  # the ids below stand for padding, start and unknown words
    try:
        (reviews, sentiments), _ = keras.datasets.imdb.load_data(
            index_from=first
        )
        index = keras.datasets.imdb.get_word_index()
    except Exception as error:  # Keras promises no other type
        raise UserError(
            f"--corpus=imdb: cannot download it ({error}): put imdb.npz and "
            f"imdb_word_index.json into {corpora.keras_cache()}/datasets"
        ) from error
    words = {number + first: word for word, number in index.items()}
    texts = [
        " ".join(words[number] for number in review if number in words)
        for review in reviews
    ]
    names = np.array(["negative", "positive"])[sentiments].tolist()
    return LabelledTexts(texts, [(name,) for name in names])

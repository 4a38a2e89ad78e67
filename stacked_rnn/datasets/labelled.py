"""Texts with labels, from the files that people have.

TSV or CSV with a header line, JSONL, a directory of a directory for each class,
or a file for each class with a text a line.
"""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Sequence

import keras
import numpy as np

from stacked_rnn.configs import UserError
from stacked_rnn.datasets import corpora, tables

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
        path
        for part in source.split(",")
        for path in tables.find(part.strip(), flag)
    ]
    if len(paths) == 1 and os.path.isdir(paths[0]):
        pairs = _read_directories(paths[0], flag)
    elif any(tables.kind(path) for path in paths):
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


def _read_fields(path, text_field, label_field, flag):
    """Yields (where, text, label) of a table or of JSON objects."""
    fields = (text_field, label_field)
    for where, (text, label) in tables.read_fields(path, fields, flag, _HINT):
        tables.check_string(text, text_field, where, flag, _HINT)
        yield where, text, label


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
                yield path, tables.read_text(path, flag), directory.name


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
        for number, line in enumerate(tables.read_lines(path, flag), 1):
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

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
import sys
from collections.abc import Sequence

import keras
import numpy as np

from stacked_rnn.configs import UserError, unescaped
from stacked_rnn.datasets import corpora, tables
from stacked_rnn.utils import text_files

_HINT = "--text_field and --label_field name the columns"
_SPLITS = {
    *("train", "training", "valid", "validation", "val", "dev", "test"),
    *("eval", "unsup"),
}


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
    label_separator = unescaped(label_separator)
    paths = [
        path
        for part in text_files.parts(source)
        for path in text_files.expand(part)
    ]
    directories = list(filter(os.path.isdir, paths))
    if len(paths) == 1 and directories:
        pairs = _read_directories(directories[0], flag)
    elif directories:
        raise UserError(
            f"--{flag}={source}: {directories[0]} is a directory: give one "
            "alone, in which each class has its own"
        )
    else:
        files = tables.find(source, flag)
        kinds = [bool(tables.kind(file, flag)) for file in files]
        if any(kinds) and not all(kinds):
            raise UserError(
                f"--{flag}: {files[kinds.index(False)].name}: one of several "
                "files, and neither .tsv nor .csv nor .jsonl as others are"
            )
        if any(kinds):
            pairs = itertools.chain(
                *(
                    _read_fields(file, text_field, label_field, flag)
                    for file in files
                )
            )
        else:
            pairs = _read_files_of_classes(files, flag)
    texts, labels, num_empty = [], [], 0
    has_separator, first_list, first_one = not label_separator, "", ""
    for where, text, label in pairs:
        is_list = isinstance(label, list)
        names = _names(label, label_separator, f"--{flag}: {where}")
        if text.strip() and not (names or is_list or label_separator):
            raise UserError(
                f"--{flag}: {where}: no label: give it one, or leave the text "
                "out (with --label_separator, or lists in JSONL, a text may "
                "have none)"
            )
        first_list = first_list or (where if is_list else "")
        first_one = first_one or ("" if is_list else where)
        if first_list and first_one and not label_separator:
            raise UserError(
                f"--{flag}: {first_list}: a list of labels, and in "
                f"{first_one} it is one: write lists in all lines, or in none"
            )
        has_separator |= isinstance(label, str) and label_separator in label
        if text.strip():
            texts.append(text)
            labels.append(names)
        else:
            num_empty += 1
    if not texts:
        raise UserError(f"--{flag}={source}: there is no text in it")
    if not has_separator and first_one and flag == "corpus":
        print(
            f"warning: --label_separator={label_separator!r} is in no label: "
            "each text has one, or none",
            file=sys.stderr,
        )
    return LabelledTexts(texts, labels, num_empty)


def _read_fields(file, text_field, label_field, flag):
    """Yields (where, text, label) of a table or of JSON objects."""
    fields = (text_field, label_field)
    for where, (text, label) in tables.read_fields(file, fields, flag, _HINT):
        tables.check_string(text, text_field, where, flag, _HINT)
        for name in label if isinstance(label, list) else ():
            if isinstance(name, str):
                tables.check_text(name, label_field, where, flag)
        yield where, text, label


def _read_directories(root, flag):
    """A directory for each class, a file for each text."""
    classes = sorted(
        path.name
        for path in pathlib.Path(root).iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )
    files = {
        name: paths
        for name in classes
        if (paths := text_files.walk(os.path.join(root, name)))
    }
    if not files:
        raise UserError(
            f"--{flag}={root}: no directories in it: there should be one for "
            "each class, with a file for each text"
        )
    _check_classes(files, f"--{flag}={root}", "the directories")
    for name, paths in files.items():
        for path in paths:
            file = text_files.text_file(path)
            yield path, text_files.read_text(file, flag), name


def _read_files_of_classes(files, flag):
    """A file for each class, a text a line."""
    for file in files:
        line = next(text_files.read_lines(file, flag), "")
        if line.startswith("__label__"):
            raise UserError(
                f"--{flag}: {file.name}, line 1: __label__ is fastText's way: "
                "write a .tsv whose first line is label, a tab, text, and each "
                "other one the same"
            )
    if len(files) < 2:
        raise UserError(
            f"--{flag}={files[0].name}: where are the labels? Expected .tsv or "
            ".csv with a header line, .jsonl, a directory for each class, or "
            "several files, one for each class"
        )
    paths = [pathlib.Path(file.name.removesuffix(".gz")) for file in files]
    one_stem = len({path.stem for path in paths}) == 1
    labels = [path.suffix[1:] if one_stem else path.stem for path in paths]
    _check_classes(labels, f"--{flag}={files[0].name}", "the files")
    for file, label in zip(files, labels):
        for number, line in enumerate(text_files.read_lines(file, flag), 1):
            yield f"{file.name}, line {number}", line, label


def _check_classes(labels, what, where):
    """Refuses the parts of a data set as classes."""
    if len(labels) > 1 and {name.lower() for name in labels} <= _SPLITS:
        raise UserError(
            f"{what}: {where} {', '.join(labels)} are parts of a data set, and "
            "no classes: give one of them alone, in which the labels are"
        )


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

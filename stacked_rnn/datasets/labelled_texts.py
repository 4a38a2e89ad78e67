"""Reading labelled texts from files.

TSV or CSV with a header line, JSONL, a directory with a subdirectory per class,
or a file per class with one text per line.
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
from stacked_rnn.utils import terminal, text_files

_HINT = "--text_field and --label_field name the columns"
_SPLITS = {
    *("train", "training", "valid", "validation", "val", "dev", "test"),
    *("eval", "unsup"),
}


@dataclasses.dataclass(frozen=True)
class LabelledTexts:
    """Texts and their labels.

    Attributes:
        texts: strings, none empty.
        labels: for each text a tuple with the names of its classes.
    """

    texts: Sequence[str]
    labels: Sequence[tuple[str, ...]]

    @property
    def counts(self) -> collections.Counter:
        """Number of texts per label."""
        return collections.Counter(itertools.chain(*self.labels))


def read_labelled_texts(
    source,
    text_field="text",
    label_field="label",
    label_separator="",
    flag="corpus",
) -> LabelledTexts:
    """Reads labelled texts; warns of empty ones, which are left out.

    Args:
        source: "imdb" (Keras' film reviews, downloaded once: the half for
            training, or with the flag "text" the other one), a path, a glob, or
            several of these separated by commas. Files that end in .gz are
            unpacked.
        text_field, label_field: columns of a table, or fields of a JSON object.
        label_separator: the string between the labels of a text; empty: each
            text has one label. Lists of labels in JSONL need no separator.
        flag: the flag that errors name.

    Raises:
        UserError: naming the file and the line.
    """
    if source == "imdb":
        return _imdb(flag)
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
            f"--{flag}={source}: {directories[0]} is a directory: give it "
            "alone, with a subdirectory per class"
        )
    else:
        files = tables.find(source, flag)
        kinds = [bool(tables.kind(file, flag)) for file in files]
        if any(kinds) and not all(kinds):
            raise UserError(
                f"--{flag}: {files[kinds.index(False)].name} is neither .tsv "
                "nor .csv nor .jsonl, as other files here are: leave it out"
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
    has_separator, first_list, first_single = not label_separator, "", ""
    for location, text, label in pairs:
        is_list = isinstance(label, list)
        names = _label_names(label, label_separator, f"--{flag}: {location}")
        if text.strip() and not (names or is_list or label_separator):
            raise UserError(
                f"--{flag}: {location}: no label: add one, or leave the text "
                "out (with --label_separator, or lists in JSONL, a text may "
                "have none)"
            )
        first_list = first_list or (location if is_list else "")
        first_single = first_single or ("" if is_list else location)
        if first_list and first_single and not label_separator:
            raise UserError(
                f"--{flag}: {first_list}: a list of labels, but {first_single} "
                "has a single label: write lists in all lines, or in none"
            )
        has_separator |= isinstance(label, str) and label_separator in label
        if text.strip():
            texts.append(text)
            labels.append(names)
        else:
            num_empty += 1
    if not texts:
        raise UserError(f"--{flag}={source}: contains no text")
    if not has_separator and first_single and flag == "corpus":
        print(
            f"warning: --label_separator={label_separator!r} occurs in no "
            "label: no text has more than one",
            file=sys.stderr,
        )
    terminal.warn_of(num_empty, "text(s) are empty: left out")
    return LabelledTexts(texts, labels)


def _read_fields(file, text_field, label_field, flag):
    """Yields (location, text, label) for each row of a table or JSONL file."""
    rows = tables.read_fields(file, (text_field, label_field), flag, _HINT)
    for location, (text, label) in rows:
        tables.check_string(text, text_field, location, flag, _HINT)
        for name in label if isinstance(label, list) else ():
            if isinstance(name, str):
                tables.check_text(name, label_field, location, flag)
        yield location, text, label


def _read_directories(root, flag):
    """Yields (path, text, class): a directory per class, a file per text."""
    with text_files.named_errors(root, flag):
        classes = sorted(
            path.name
            for path in pathlib.Path(root).iterdir()
            if path.is_dir() and not path.name.startswith(".")
        )
    if {"neg", "pos", "unsup"} <= {*classes}:  # the large IMDB data set
        classes.remove("unsup")
        print(
            f"warning: --{flag}={root}: unsup holds texts without labels: left "
            "out",
            file=sys.stderr,
        )
    files = {
        name: paths
        for name in classes
        if (paths := text_files.walk(os.path.join(root, name)))
    }
    if not files:
        raise UserError(
            f"--{flag}={root}: contains no directories: there should be one "
            "per class, with a file per text"
        )
    _check_classes(files, f"--{flag}={root}: the directories")
    for name, paths in files.items():
        for path in paths:
            file = text_files.text_file(path)
            yield path, text_files.read_text(file, flag), name


def _read_files_of_classes(files, flag):
    """Yields (location, text, class): a file per class, a text per line."""
    for file in files:
        line = next(text_files.read_lines(file, flag), "")
        if line.startswith("__label__"):
            raise UserError(
                f"--{flag}: {file.name}, line 1: __label__ marks fastText's "
                "format: write a .tsv file whose first line is label, a tab, "
                "text, and each further line a label, a tab, a text"
            )
    if len(files) < 2:
        raise UserError(
            f"--{flag}={files[0].name}: where are the labels? Expected .tsv or "
            ".csv with a header line, .jsonl, a directory per class, or "
            "several files, one per class"
        )
    paths = [pathlib.Path(file.name.removesuffix(".gz")) for file in files]
    is_suffix = len({path.stem for path in paths}) == 1
    labels = [path.suffix[1:] if is_suffix else path.stem for path in paths]
    _check_classes(labels, f"--{flag}={files[0].name}: the files")
    for file, label in zip(files, labels):
        for number, line in enumerate(text_files.read_lines(file, flag), 1):
            yield f"{file.name}, line {number}", line, label


def _check_classes(labels, subject):
    """Rejects names such as "train" and "test" as classes."""
    if len(labels) > 1 and {name.lower() for name in labels} <= _SPLITS:
        raise UserError(
            f"{subject} {', '.join(labels)} are parts of a data set, not "
            "classes: give one of them alone, with labels in it"
        )


def _label_names(label, separator, location) -> tuple[str, ...]:
    """Returns the different labels of a text, as strings."""
    if isinstance(label, str) and separator:
        label = label.split(separator)
    elif not isinstance(label, list):
        label = [label]
    names = []
    for value in label:
        if isinstance(value, (dict, list)) or value is None:
            raise UserError(
                f"{location}: {json.dumps(value)} is not a label: {_HINT}"
            )
        name = value if isinstance(value, str) else json.dumps(value)
        if name.strip():
            names.append(name.strip())
    return tuple(dict.fromkeys(names))


def _imdb(flag) -> LabelledTexts:
    """Loads a half of Keras' film reviews, as lower-case words."""
    first = 3  # lower ids stand for padding, start and unknown words
    try:
        halves = keras.datasets.imdb.load_data(index_from=first)
        index = keras.datasets.imdb.get_word_index()
    except Exception as error:  # Keras documents no narrower type
        raise UserError(
            f"--{flag}=imdb: cannot download it ({error}): put imdb.npz and "
            f"imdb_word_index.json into {corpora.keras_cache()}/datasets"
        ) from error
    reviews, sentiments = halves[flag == "text"]
    words = {rank + first: word for word, rank in index.items()}
    texts = [
        " ".join(words[word_id] for word_id in review if word_id in words)
        for review in reviews
    ]
    names = np.array(["negative", "positive"])[sentiments].tolist()
    return LabelledTexts(texts, [(name,) for name in names])

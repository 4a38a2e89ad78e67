"""Reading the texts of a command; warnings about unknown tokens in them."""

import itertools

from stacked_rnn.configs import UserError
from stacked_rnn.utils import terminal, text_files


class Lines:
    """Texts from the command line, then the lines of a file.

    Each iteration reads the file again, line by line.

    Args:
        given: the texts from the command line.
        path: the file, or "-" for standard input; empty: no file.
        flag: name of the flag that gives `path`.

    Raises:
        UserError: the file does not exist, is not text, or is empty.
    """

    def __init__(self, given, path, flag):
        self._given, self._flag = given, flag
        self._files = text_files.find(path, flag) if path else []
        self._length = sum(1 for _ in self._lines())
        if path and self._length == len(given):
            raise UserError(f"--{flag}={path}: the file has no lines")

    def __len__(self):
        return self._length

    def __iter__(self):
        for line in self._lines():
            # A command line may hold bytes that are not UTF-8.
            line = line.encode("utf-8", "surrogateescape")
            yield line.decode("utf-8", "replace")

    def _lines(self):
        yield from self._given
        for file in self._files:
            yield from text_files.read_lines(file, self._flag)


def warn_of_unknown_texts(tokenizer, texts) -> None:
    """Warns of texts in which every token is unknown, if any."""
    if tokenizer.unknown_id is None:
        return
    count, texts = 0, iter(texts)
    while batch := list(itertools.islice(texts, 1000)):
        token_ids = tokenizer.tokenize(batch)
        rows = token_ids.value_rowids().numpy()
        is_known = token_ids.flat_values.numpy() != tokenizer.unknown_id
        count += len({*rows.tolist()}) - len({*rows[is_known].tolist()})
    terminal.warn_of(
        count,
        "text(s) have no token that the model knows: their predictions mean "
        "nothing",
    )

"""Texts that the commands read, and what a vocabulary lacks of them."""

import itertools
import sys

from stacked_rnn.configs import UserError
from stacked_rnn.utils import terminal, text_files


class Lines:
    """Texts from the command line, then those of a file, one a line.

    The file is read line by line, each time anew.

    Args:
        given: strings.
        path: of the file, or "-"; empty: there is none.
        flag: that names it.

    Raises:
        UserError: the file is not there, no text, or empty.
    """

    def __init__(self, given, path, flag):
        self._given, self._flag = given, flag
        self._files = text_files.find(path, flag) if path else []
        self._length = sum(1 for _ in self._lines())
        if path and self._length == len(given):
            raise UserError(f"--{flag}={path}: there is no line in it")

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


def warn_of_unknown_parts(tokenizer, prompts) -> None:
    """One line on standard error, if any."""
    terminal.warn_of_unknown_parts(tokenizer.unknown_parts(list(prompts)))


def warn_of_unknown_texts(tokenizer, texts) -> None:
    """Says of how many texts a vocabulary knows nothing at all."""
    if tokenizer.unknown_id is None:
        return
    count, texts = 0, iter(texts)
    while batch := list(itertools.islice(texts, 1000)):
        for token_ids in tokenizer.tokenize(batch):
            token_ids = token_ids.numpy()
            count += bool(token_ids.size) and bool(
                (token_ids == tokenizer.unknown_id).all()
            )
    if count:
        print(
            f"warning: nothing in {count:,} text(s) is known to the model: "
            "what is said of them means nothing",
            file=sys.stderr,
        )

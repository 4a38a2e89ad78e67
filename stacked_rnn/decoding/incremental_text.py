"""A text as it grows from tokens: whole characters, stop strings, no model."""

import array
import bisect
import codecs
import functools
import itertools
import statistics

import numpy as np


class Continuation:
    """The growing continuation of one prompt.

    Args:
        prompt: what it continues.
        seed: what it is drawn with.
        stop: strings that end the text, themselves left out.

    Attributes:
        tokens: list of the bytes of its tokens, which may be parts of
            characters, up to the one in which a stop string begins.
        log_probs: log p of each, in nats.
        stopped: whether a stop string or an end-of-text token ended it.
    """

    def __init__(self, prompt, seed, stop=()):
        self.prompt, self.seed = prompt, seed
        self.tokens, self.log_probs = [], array.array("f")
        self.stopped = False
        self._stops = [_Search(string.encode()) for string in stop]
        self._content = bytearray()
        self._shown = 0  # bytes
        self._shown_tokens, self._end_of_shown_tokens = 0, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def text(self) -> str:
        """The continuation alone."""
        return self._content.decode("utf-8", "replace")

    @property
    def finish_reason(self) -> str:
        """Why it ended: "length", or "stop": a string or the end of a text."""
        return "stop" if self.stopped else "length"

    @property
    def mean_log_prob(self) -> float | None:
        """Mean log p of its tokens, in nats; None without any."""
        return statistics.fmean(self.log_probs) if self.log_probs else None

    def add(self, tokens, log_probs, ended=False) -> None:
        """Adds tokens, up to a stop string.

        Args:
            tokens: list of bytes.
            log_probs: log p of each.
            ended: whether an end-of-text token follows them.
        """
        before, new = len(self._content), b"".join(tokens)
        self._content += new
        self.tokens += tokens
        self.log_probs.frombytes(np.asarray(log_probs, np.float32).tobytes())
        self.stopped |= ended
        found = [stop.find(new) for stop in self._stops]
        end = min((place for place in found if place is not None), default=None)
        if end is None:
            return
        end += before
        self.stopped = True
        del self._content[end:]
        starts = [0, *itertools.accumulate(map(len, self.tokens))][:-1]
        count = bisect.bisect_left(starts, end)
        del self.tokens[count:], self.log_probs[count:]

    def show(self, last=False) -> str:
        """What was not shown before and can be.

        Whole characters only, and nothing that may prove to be the beginning
        of a stop string.

        Args:
            last: whether nothing will be added: shows all the rest.
        """
        end = len(self._content)
        if not (last or self.stopped):
            # These bytes may prove to be the beginning of a stop string.
            end -= max((stop.begun for stop in self._stops), default=0)
        new = self._content[self._shown : end]
        self._shown = max(end, self._shown)
        return self._decoder.decode(new, final=last)

    def show_tokens(self) -> slice:
        """Which of `tokens` were not shown before and are.

        Those that lie wholly in what `show` gave up to now.
        """
        first = self._shown_tokens
        lengths = map(len, self.tokens[first:])
        ends = [
            *itertools.accumulate(lengths, initial=self._end_of_shown_tokens)
        ]
        count = bisect.bisect_right(ends, self._shown, lo=1) - 1
        self._shown_tokens += count
        self._end_of_shown_tokens = ends[count]
        return slice(first, self._shown_tokens)


class _Search:
    """Looks for a byte string in bytes that come in parts.

    By Knuth, Morris and Pratt (1977): no byte is looked at twice, however long
    the string is.

    Attributes:
        begun: how many bytes of the string those that came last are, at most.
    """

    def __init__(self, string):
        self._string, self._borders = string, _borders(string)
        self.begun = 0

    def find(self, new) -> int | None:
        """Where in the new bytes the string begins, if it ends in them.

        Negative where it began in those before.
        """
        string, begun, place = self._string, self.begun, 0
        while place < len(new):
            if not begun:  # most bytes are passed over here
                place = new.find(string[:1], place)
                if place < 0:
                    break
            while begun and new[place] != string[begun]:
                begun = self._borders[begun - 1]
            begun += new[place] == string[begun]
            place += 1
            if begun == len(string):
                self.begun = 0
                return place - len(string)
        self.begun = begun
        return None


@functools.lru_cache(64)  # the texts of a request have the same
def _borders(string) -> list[int]:
    """Of each beginning of a string: the longest that it ends with, but all."""
    borders, length = [0], 0
    for byte in string[1:]:
        while length and byte != string[length]:
            length = borders[length - 1]
        length += byte == string[length]
        borders.append(length)
    return borders

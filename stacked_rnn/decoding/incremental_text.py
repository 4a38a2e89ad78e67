"""Incremental detokenization: whole characters, and stop strings."""

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
        prompt: the text before it.
        seed: of its random numbers; None if there are none.
        stop: strings that end the text and are not part of it.

    Attributes:
        tokens: the bytes of each token, which may be a part of a character,
            up to the token in which a stop string begins.
        log_probs: log p of each token, in nats.
        stopped: whether a stop string or an end-of-text token ended it.
        stop_string: the stop string that ended it, or None.
    """

    def __init__(self, prompt, seed, stop=()):
        self.prompt, self.seed = prompt, seed
        self.tokens, self.log_probs = [], array.array("f")
        self.stopped, self.stop_string = False, None
        self._stop, self._stops = stop, [_Search(one.encode()) for one in stop]
        self._content = bytearray()
        self._shown = 0  # bytes
        self._shown_tokens, self._end_of_shown_tokens = 0, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def has_stops(self) -> bool:
        """Whether there are stop strings."""
        return bool(self._stops)

    @property
    def text(self) -> str:
        """The continuation alone."""
        return self._content.decode("utf-8", "replace")

    @property
    def cut_token(self) -> bytes:
        """What the text has of the last token, if a stop string begins in it.

        Empty where the text ends with a whole token.
        """
        surplus = sum(map(len, self.tokens)) - len(self._content)
        return self.tokens[-1][:-surplus] if surplus else b""

    @property
    def finish_reason(self) -> str:
        """Why the text ended: "stop" (see `stopped`) or "length"."""
        return "stop" if self.stopped else "length"

    @property
    def mean_log_prob(self) -> float | None:
        """Mean log p of its tokens, in nats; None without any."""
        return statistics.fmean(self.log_probs) if self.log_probs else None

    def add(self, tokens, log_probs, ended=False) -> None:
        """Adds tokens, up to the stop string that is the first to be complete.

        So it does not matter in how many calls they are added.

        Args:
            tokens: a list of bytes objects.
            log_probs: log p of each token.
            ended: whether an end-of-text token follows the tokens.
        """
        before, new = len(self._content), b"".join(tokens)
        self._content += new
        self.tokens += tokens
        self.log_probs.frombytes(np.asarray(log_probs, np.float32).tobytes())
        self.stopped |= ended
        if not self._stops:
            return
        found = [
            (place, -len(search.string), string)
            for string, search in zip(self._stop, self._stops)
            if (place := search.find(new)) is not None
        ]
        if not found:
            return
        place, length, self.stop_string = min(found)
        end = before + place + length
        self.stopped = True
        del self._content[end:]
        starts = [0, *itertools.accumulate(map(len, self.tokens))][:-1]
        count = bisect.bisect_left(starts, end)
        del self.tokens[count:], self.log_probs[count:]

    def show(self, last=False) -> str:
        """Returns the new text that is safe to display.

        It has whole characters only, and holds back what may turn out to be the
        beginning of a stop string.

        Args:
            last: whether no token will be added: returns all the rest.
        """
        end = len(self._content)
        if not (last or self.stopped):
            end -= max((stop.num_matched for stop in self._stops), default=0)
        new = self._content[self._shown : end]
        self._shown = max(end, self._shown)
        return self._decoder.decode(new, final=last)

    def show_tokens(self) -> slice:
        """Returns the slice of `tokens` that are new in the displayed text.

        A token is displayed once `show` has returned the whole of it, or what
        is before the stop string that begins in it.
        """
        first = self._shown_tokens
        if self.stopped:
            self._shown_tokens = len(self.tokens)
            return slice(first, self._shown_tokens)
        lengths = map(len, self.tokens[first:])
        ends = [
            *itertools.accumulate(lengths, initial=self._end_of_shown_tokens)
        ]
        count = bisect.bisect_right(ends, self._shown, lo=1) - 1
        self._shown_tokens += count
        self._end_of_shown_tokens = ends[count]
        return slice(first, self._shown_tokens)


class _Search:
    """Searches a growing byte string for a fixed one.

    By Knuth, Morris and Pratt (1977): the time is linear in the new bytes,
    however long the string is.

    Attributes:
        string: what it searches for.
        num_matched: the length of the longest beginning of the string that the
            bytes end with.
    """

    def __init__(self, string):
        self.string, self._borders = string, _borders(string)
        self.num_matched = 0

    def find(self, new) -> int | None:
        """Adds bytes; returns where in them the string ends, or None."""
        string, matched, index = self.string, self.num_matched, 0
        while index < len(new):
            if not matched:  # most bytes are skipped here
                index = new.find(string[:1], index)
                if index < 0:
                    break
            while matched and new[index] != string[matched]:
                matched = self._borders[matched - 1]
            matched += new[index] == string[matched]
            index += 1
            if matched == len(string):
                self.num_matched = 0
                return index
        self.num_matched = matched
        return None


@functools.lru_cache(64)  # the texts of a request share their stop strings
def _borders(string) -> list[int]:
    """Lengths of the borders of each beginning of a string.

    A border is a proper beginning that is an ending, too.
    """
    borders, length = [0], 0
    for byte in string[1:]:
        while length and byte != string[length]:
            length = borders[length - 1]
        length += byte == string[length]
        borders.append(length)
    return borders

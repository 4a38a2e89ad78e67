"""A text as it grows from tokens: whole characters, stop strings, no model."""

import array
import bisect
import codecs
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
        self._stop = [string.encode() for string in stop]
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
        searched = len(self._content)
        self._content += b"".join(tokens)
        self.tokens += tokens
        self.log_probs.frombytes(np.asarray(log_probs, np.float32).tobytes())
        self.stopped |= ended
        found = [
            self._content.find(string, max(0, searched - len(string) + 1))
            for string in self._stop
        ]
        end = min((place for place in found if place >= 0), default=None)
        if end is None:
            return
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
            end -= self._held_back()
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

    def _held_back(self):
        """Bytes at the end that are the beginning of a stop string."""
        return max(
            (
                length
                for string in self._stop
                for length in range(1, len(string))
                if self._content.endswith(string[:length])
            ),
            default=0,
        )

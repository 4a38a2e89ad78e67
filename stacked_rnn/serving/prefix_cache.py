"""The states of a model after beginnings of texts, for texts to come.

All that a recurrent model knows of a text is its state, some kilobytes. So a
prompt that begins as another text did need not be read again up to there: the
next turn of a chat, or instructions that many prompts share.
"""

import collections
import dataclasses
import functools
import hashlib
import threading

import numpy as np

ENTRY_BYTES = 1000  # about what an entry takes beside the numbers of its states
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd: no power of it is 0 modulo 2**64


@dataclasses.dataclass(frozen=True)
class _Entry:
    digest: bytes
    states: dict

    @property
    def num_bytes(self):
        return ENTRY_BYTES + sum(state.nbytes for state in self.states.values())


class Beginning:
    """The beginning of a text, by its length and two hashes.

    It grows with the text, so that each token is hashed once.

    Attributes:
        length: in tokens.
        key: a hash that is fast for all beginnings of a prompt.
    """

    def __init__(self):
        self.length = self.key = 0
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        """A digest, which tells beginnings apart that have the same key."""
        return self._digest.digest()

    def extend(self, token_ids) -> None:
        """Adds the tokens that follow, int32 [tokens]."""
        terms = _terms(token_ids, self.length)
        self.key = int(terms.sum(initial=self.key))
        self._digest.update(token_ids)
        self.length += len(token_ids)


class PrefixCache:
    """Keeps the states that were used last, up to a number of bytes.

    It does not keep the tokens. It may be used by several threads.

    Args:
        max_bytes: most bytes; 0 keeps nothing.

    Attributes:
        num_bytes: bytes that it has.
    """

    def __init__(self, max_bytes):
        self._max_bytes, self.num_bytes = max_bytes, 0
        self._entries = collections.OrderedDict()  # by hash, the oldest first
        self._longest = 0
        self._lock = threading.Lock()

    def add(self, beginning, states) -> None:
        """Keeps the states after a beginning.

        Args:
            beginning: a `Beginning`.
            states: arrays by name, of one text; they must not change.
        """
        entry = _Entry(beginning.digest, states)
        if entry.num_bytes > self._max_bytes:
            return
        key = beginning.key
        with self._lock:
            if old := self._entries.pop(key, None):
                self.num_bytes -= old.num_bytes
            self._entries[key] = entry
            self.num_bytes += entry.num_bytes
            self._longest = max(self._longest, beginning.length)
            while self.num_bytes > self._max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self.num_bytes -= oldest.num_bytes

    def find(self, token_ids) -> tuple[Beginning, dict]:
        """Looks up the longest beginning of a prompt that it has.

        Args:
            token_ids: int32 [tokens].

        Returns:
            The beginning, which leaves at least one token, and the states after
            it; an empty one and {} if there is none.
        """
        end = min(self._longest, len(token_ids) - 1)
        keys = _terms(token_ids[:end]).cumsum().tolist()
        with self._lock:
            entries = self._entries
            known = [n for n, key in enumerate(keys, 1) if key in entries]
            for length in reversed(known):
                beginning = Beginning()
                beginning.extend(token_ids[:length])
                entry = entries[beginning.key]
                if entry.digest == beginning.digest:
                    entries.move_to_end(beginning.key)
                    return beginning, entry.states
        return Beginning(), {}


def _terms(token_ids, start=0):
    """What each token, from place `start` on, adds to the hash of a text."""
    end = start + len(token_ids)
    powers = _powers(1 << max(end - 1, 0).bit_length())
    return (token_ids.astype(np.uint64) + 1) * powers[start:end]


@functools.cache
def _powers(count):
    return np.full(count, _MULTIPLIER, np.uint64).cumprod()

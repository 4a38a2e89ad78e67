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


class PrefixCache:
    """Keeps the states that were used last, up to a number of bytes.

    It does not keep the tokens. A beginning is looked up by a hash that is fast
    for all beginnings of a prompt, and recognized by a digest. The cache may be
    used by several threads.

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

    def add(self, token_ids, states) -> None:
        """Keeps the states after a beginning.

        Args:
            token_ids: its tokens, int32 [tokens].
            states: arrays by name, of one text; they must not change.
        """
        entry = _Entry(_digest(token_ids), states)
        if entry.num_bytes > self._max_bytes:
            return
        key = int(np.dot(*_terms(token_ids)))
        with self._lock:
            if old := self._entries.pop(key, None):
                self.num_bytes -= old.num_bytes
            self._entries[key] = entry
            self.num_bytes += entry.num_bytes
            self._longest = max(self._longest, len(token_ids))
            while self.num_bytes > self._max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self.num_bytes -= oldest.num_bytes

    def find(self, token_ids) -> tuple[int, dict]:
        """Looks up the longest beginning of a prompt that it has.

        Args:
            token_ids: int32 [tokens].

        Returns:
            The length of the beginning, which leaves at least one token, and
            the states after it; (0, {}) if there is none.
        """
        beginning = token_ids[: min(self._longest, len(token_ids) - 1)]
        keys = np.multiply(*_terms(beginning)).cumsum().tolist()
        with self._lock:
            entries = self._entries
            known = [n for n, key in enumerate(keys, 1) if key in entries]
            for length in reversed(known):
                key = keys[length - 1]
                entry = entries[key]
                if entry.digest == _digest(beginning[:length]):
                    entries.move_to_end(key)
                    return length, entry.states
        return 0, {}


def _digest(token_ids) -> bytes:
    return hashlib.sha256(token_ids).digest()


def _terms(token_ids):
    """Two factors of each token, whose products sum to the hash of a text."""
    size = 1 << max(len(token_ids) - 1, 0).bit_length()
    return token_ids.astype(np.uint64) + 1, _powers(size)[: len(token_ids)]


@functools.cache
def _powers(count):
    return np.full(count, _MULTIPLIER, np.uint64).cumprod()

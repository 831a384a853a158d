"""Answers kept as bytes: least recently used out first, bounded by size. Pure.

An answer is kept under everything that it follows from, the dataset's version among it. So nothing is ever taken out
for being old: what nobody asks for any more makes room. Who asks is not part of it, because every caller that may call
a method may read all that it answers; a right that depends on the caller would have to become part of the key.
"""

from __future__ import annotations

from collections import OrderedDict

# Of an entry beside key and answer: two bytes objects, a link of the list, a slot of the table.
ENTRY_BYTES = 250
# So that one answer never empties the cache.
_LARGEST_SHARE = 8


class AnswerCache:
    """At most `max_bytes` of keys and answers; 0 keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> bytes | None:
        """The answer, which is now the one used last."""
        answer = self._entries.get(key)
        if answer is not None:
            self._entries.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: bytes) -> None:
        """Keeps an answer, where it is not too large for the cache."""
        size = _size(key, answer)
        if size > self._max_bytes // _LARGEST_SHARE:
            return
        before = self._entries.pop(key, None)
        if before is not None:
            self.size_bytes -= _size(key, before)
        self._entries[key] = answer
        self.size_bytes += size
        while self.size_bytes > self._max_bytes:
            self.size_bytes -= _size(*self._entries.popitem(last=False))


def _size(key: bytes, answer: bytes) -> int:
    return len(key) + len(answer) + ENTRY_BYTES

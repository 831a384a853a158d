"""A file that a thread reads while the event loop fetches its bytes: the bridge from Arrow's blocking reads to S3.

Holds two steps of each range that is expected, and what was asked for. Never blocks the loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import threading
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence

Fetch = Callable[[int, int], Awaitable[bytes]]
Submit = Callable[[int, int], "concurrent.futures.Future[bytes]"]


class RangedFile(io.RawIOBase):
    """`fetch(begin, size)` runs in `loop` and gives exactly those bytes. Read it in one thread; `stop` it in the loop:
    a read that waits then ends with CancelledError."""

    def __init__(self, fetch: Fetch, size_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.size_bytes = size_bytes
        self._fetch = fetch
        self._loop = loop
        self._position = 0
        self._lock = threading.Lock()
        self._stopped = False
        self._begins: list[int] = []
        self._windows: list[_Window] = []
        self._running: set[concurrent.futures.Future[bytes]] = set()

    def expect(self, ranges: Sequence[tuple[int, int]], step_bytes: int) -> None:
        """These ranges (begin, end) are read next, each from its beginning on; their first steps are fetched now."""
        for window in self._windows:
            window.drop()
        ordered = sorted(ranges)
        self._begins = [begin for begin, _ in ordered]
        self._windows = [_Window(self._submit, begin, end, step_bytes) for begin, end in ordered]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer only at the end of the file."""
        left = max(0, self.size_bytes - self._position)
        size = left if size < 0 else min(size, left)
        if not size:
            return b""
        place = bisect_right(self._begins, self._position) - 1
        window = self._windows[place] if place >= 0 else None
        if window is not None and window.holds(self._position, size):
            data = window.read(self._position, size)
        else:
            data = self._submit(self._position, size).result()
        self._position += len(data)
        return data

    def stop(self) -> None:
        """Ends all reads, those to come too."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for future in running:
            future.cancel()

    def _submit(self, begin: int, size: int) -> concurrent.futures.Future[bytes]:
        with self._lock:
            if self._stopped:
                raise concurrent.futures.CancelledError
            future = asyncio.run_coroutine_threadsafe(self._fetched(begin, size), self._loop)
            self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    async def _fetched(self, begin: int, size: int) -> bytes:
        return await self._fetch(begin, size)


class _Window:
    """One range, read forward: the bytes from `begin` on that were fetched and not yet read past, and one step more on
    its way. Arrow looks ahead a little and reads in pieces of any size, but never goes back."""

    def __init__(self, submit: Submit, begin: int, end: int, step_bytes: int) -> None:
        self._submit = submit
        self._begin = begin
        self._end = end
        self._step_bytes = step_bytes
        self._data = b""
        self._coming = self._next(begin)

    def holds(self, begin: int, size: int) -> bool:
        """Whether the window can give these bytes."""
        return self._begin <= begin and begin + size <= self._end

    def read(self, begin: int, size: int) -> bytes:
        """The bytes; those before them are let go."""
        parts, reach = [self._data], self._begin + len(self._data)
        while reach < begin + size:
            assert self._coming is not None, "holds() said that the range has them"
            parts.append(self._coming.result())
            reach += len(parts[-1])
            self._coming = self._next(reach)
        data = b"".join(parts)
        found = data[begin - self._begin : begin + size - self._begin]
        self._begin, self._data = begin, data[begin - self._begin :]
        return found

    def drop(self) -> None:
        """Nobody reads on: what is on its way is not waited for."""
        if self._coming is not None:
            self._coming.cancel()

    def _next(self, begin: int) -> concurrent.futures.Future[bytes] | None:
        size = min(self._step_bytes, self._end - begin)
        return self._submit(begin, size) if size > 0 else None

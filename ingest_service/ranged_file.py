"""A file that a thread reads while the event loop fetches its bytes: the bridge from Arrow's blocking reads to S3.

Holds at most what was asked for and one step ahead of each range that is expected. Never blocks the loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import threading
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence

Fetch = Callable[[int, int], Awaitable[bytes]]


class RangedFile(io.RawIOBase):
    """`fetch(begin, size)` runs in `loop` and gives exactly those bytes. Read it in one thread; `close` it in the loop:
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
        self._ends: list[int] = []
        self._step_bytes = 0
        self._ahead: dict[int, tuple[int, concurrent.futures.Future[bytes]]] = {}
        self._running: set[concurrent.futures.Future[bytes]] = set()

    def expect(self, ranges: Sequence[tuple[int, int]], step_bytes: int) -> None:
        """These ranges (begin, end) are read next, each from its beginning in steps; their first steps begin now."""
        self._drop_ahead()
        ordered = sorted(ranges)
        self._begins, self._ends = [begin for begin, _ in ordered], [end for _, end in ordered]
        self._step_bytes = step_bytes
        for begin, _ in ordered:
            self._fetch_ahead(begin)

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
        begin = self._position
        data = self._take(begin, size)
        self._position += len(data)
        self._fetch_ahead(self._position)
        return data

    def stop(self) -> None:
        """Ends all reads, those to come too."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for future in running:
            future.cancel()

    def _take(self, begin: int, size: int) -> bytes:
        expected, future = self._ahead.pop(begin, (0, None))
        if future is None or expected != size:
            if future is not None:
                future.cancel()
            future = self._submit(begin, size)
        return future.result()

    def _fetch_ahead(self, begin: int) -> None:
        place = bisect_right(self._begins, begin) - 1
        size = min(self._step_bytes, self._ends[place] - begin) if place >= 0 else 0
        if size > 0 and begin not in self._ahead:
            self._ahead[begin] = size, self._submit(begin, size)

    def _drop_ahead(self) -> None:
        for _, future in self._ahead.values():
            future.cancel()
        self._ahead.clear()

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

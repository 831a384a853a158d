"""Which RPCs are running, so that a stopping server can wait for them and then end the rest with a proper status.

`grpc.aio.Server.stop` alone cancels what is left, which a client sees as a CANCELLED that it did not ask for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shared.errors import Unavailable
from shared.rpc.call import Call

# Health watches and reflection sessions stay open for as long as the client likes: nobody waits for those.
_BACKGROUND = ("grpc.health.", "grpc.reflection.")
_QUIET_S, _QUIET_TRIES = 0.05, 20


def is_background(method: str) -> bool:
    """Whether a drain does not wait for RPCs of the method."""
    return method.startswith(_BACKGROUND)


class InFlight:
    """The running RPCs of one server; used on its event loop only."""

    def __init__(self) -> None:
        self._calls: dict[Call, asyncio.Task[object]] = {}
        self._foreground = 0
        self._closed = False
        self._refused = 0
        self._ended = asyncio.Event()
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._calls)

    def admit(self, call: Call) -> None:
        """Raise Unavailable for a new RPC once `close` was called; health still answers, and says NOT_SERVING."""
        if self._closed and not call.background:
            self._refused += 1
            raise draining()

    async def close(self) -> None:
        """Refuse new RPCs, and return when for 50 ms none has come, or after 1 s.

        `grpc.aio` takes one RPC at a time from gRPC core, and core cancels those that still wait there when the server
        stops; clients retry an UNAVAILABLE of ours, but not a CANCELLED that they did not ask for.
        """
        self._closed = True
        for _ in range(_QUIET_TRIES):
            before = self._refused
            await asyncio.sleep(_QUIET_S)
            if self._refused == before:
                return

    def begin(self, call: Call, task: asyncio.Task[object]) -> None:
        """The RPC runs, in that task, until `end`. No context manager: every call passes through here."""
        self._calls[call] = task
        self._foreground += not call.background

    def end(self, call: Call) -> None:
        """The RPC runs no more."""
        del self._calls[call]
        self._foreground -= not call.background
        if self._waiting:
            self._ended.set()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no RPC but health and reflection runs; False when the time is up."""
        return await self._wait(lambda: self._foreground == 0, timeout_s)

    async def wait_empty(self, timeout_s: float) -> bool:
        """Wait until nothing runs at all; False when the time is up."""
        return await self._wait(lambda: not self._calls, timeout_s)

    def interrupt(self) -> int:
        """Cancel what runs; the interceptor answers UNAVAILABLE for these. Returns how many of them are foreground."""
        for call, task in self._calls.items():
            call.interrupted = True
            task.cancel()
        return self._foreground

    async def _wait(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                while not is_so():
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True


def draining() -> Unavailable:
    """What an RPC ends with that a stopping server refuses or cuts short."""
    return Unavailable("the server is stopping; ask again, another one answers", reason="DRAINING", retry_after_s=1.0)

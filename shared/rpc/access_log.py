"""The access log: one line of JSON on stderr for each RPC, shown at the level of its logger as any other line."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import suppress
from functools import lru_cache
from itertools import starmap

import grpc

from shared.rpc.call import Call
from shared.telemetry.logs import encoded, shown

NAME = "penstock.access"
_OK = grpc.StatusCode.OK
# How long a line may wait for others, and how many may.
GATHER_S, _MOST_GATHERED = 0.02, 256


class AccessLog:
    """Used on one event loop only.

    Written without a LogRecord, from parts that were encoded before, and the lines of a moment together: by way of
    `logging` a line took 43 us of a call on a busy server, made and written one by one 20, so 5. A process that is
    killed keeps the last 20 ms to itself.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger(NAME)
        # When, how long, what many lines share, and the call for its trace id, which is made when the line is.
        self._waiting: list[tuple[float, float, str, Call]] = []
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        # Callers are few and call often, over connections that they keep.
        self._good = lru_cache(maxsize=4096)(self._fields)

    def shows(self, level: int) -> bool:
        """Whether a line of that level is written."""
        return self._logger.isEnabledFor(level)

    def write(self, level: int, call: Call, peer: str, duration_s: float) -> None:
        """The line of a call that has ended follows within 20 ms, once closed at once."""
        if call.code is _OK:
            fields = self._good(level, call.method, "OK", call.identity, peer)
        else:
            fields = self._fields(level, call.method, call.code.name, call.identity, peer)
        self._waiting.append((time.time(), duration_s, fields, call))
        if self._closed or len(self._waiting) >= _MOST_GATHERED:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self.flush)

    def close(self) -> None:
        """Writes what waits, and from now on each line by itself: no moment may come in which to write it."""
        self._closed = True
        self.flush()

    def flush(self) -> None:
        """Writes what waits. Never raises for a stderr that is full, closed or gone: as with logging's own handlers,
        that must not become the end of an RPC, and there is no other place to say it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        lines = "".join(starmap(_line, waiting))
        with suppress(OSError, ValueError):
            sys.stderr.write(lines)

    def _fields(self, level: int, method: str, code: str, identity: str, peer: str) -> str:
        """What many lines share, as JSON without braces."""
        named = {"level": logging.getLevelName(level), "logger": NAME, "message": f"{method} {code}"}
        return encoded({**named, "method": method, "identity": identity, "peer": peer, "code": code})[1:-1]


def _line(moment_s: float, duration_s: float, fields: str, call: Call) -> str:
    varying = f'"duration_ms":{duration_s * 1000:.3f},"trace_id":"{call.trace_id}"'
    return f'{{"time":"{shown(moment_s)}",{fields},{varying}}}\n'

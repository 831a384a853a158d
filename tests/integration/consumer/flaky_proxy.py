"""A TCP proxy in front of the emulator that breaks connections on demand."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An error as S3 gives it."""

    status: int
    code: str

    def to(self, head: str) -> bytes:
        """The answer to that request; one to HEAD has no body."""
        body = f"<Error><Code>{self.code}</Code><Message>{self.code}, says the proxy</Message></Error>"
        lines = (f"HTTP/1.1 {self.status} Refused", "Content-Type: application/xml", f"Content-Length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n\r\n" + ("" if head.startswith("HEAD ") else body)).encode()


ACCESS_DENIED = Answer(status=403, code="AccessDenied")
INTERNAL_ERROR = Answer(status=500, code="InternalError")
SLOW_DOWN = Answer(status=503, code="SlowDown")


@dataclass(slots=True, kw_only=True)
class Refusal:
    """The next `left` requests with `matching` in their head, and without a body, get `answer` and never reach S3."""

    matching: str
    answer: Answer = ACCESS_DENIED
    left: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slowly answers come to requests with `matching` in their head, on each connection for itself: `latency_s`
    before the first byte, then `bytes_per_s`."""

    matching: str
    bytes_per_s: float
    latency_s: float = 0.0

    def delay_s(self, data: bytes) -> float:
        """Seconds that these bytes of an answer take."""
        return len(data) / self.bytes_per_s + (self.latency_s if data.startswith(b"HTTP/1.1") else 0.0)


@dataclass(slots=True, kw_only=True)
class Hold:
    """Requests whose head contains `matching` wait: before they are passed on, or after so much of their answer.

    `held` keeps the heads of those that came to wait. One whose client has gone meanwhile goes no further.
    """

    matching: str
    after_bytes: int | None = None
    held: list[str] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, head: str) -> None:
        self.held.append(head)
        await self.released.wait()


@dataclass(slots=True)
class _Exchange:
    """What is under way on one connection: the head of the last request, and whether its answer was held already."""

    head: str = ""
    was_held: bool = False


class FlakyProxy:
    """Forwards bytes both ways. `requests` keeps the head of every request; `refusals` and `pace` say what else than
    the real answer comes, and how slowly."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._is_up = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._holds: list[Hold] = []
        self._cuts: list[int] = []
        self._corrupt_at: int | None = None
        self._corrupt_matching = ""
        self.port = 0
        self.requests: list[str] = []
        self.refusals: list[Refusal] = []
        self.pace: Pace | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    def cut_responses(self, *after_bytes: int) -> None:
        """Each of the next long responses is cut after that many bytes of it."""
        self._cuts = list(after_bytes)

    def corrupt_response(self, at_byte: int, matching: str = "") -> None:
        """Of the next long response to a request with `matching` in its head one byte, at or after that one, arrives
        changed."""
        self._corrupt_at, self._corrupt_matching = at_byte, matching

    @contextmanager
    def holding(self, matching: str, after_bytes: int | None = None) -> Iterator[Hold]:
        """Holds requests with `matching` in their head, or their answers after so many bytes, until the block ends."""
        hold = Hold(matching=matching, after_bytes=after_bytes)
        self._holds.append(hold)
        try:
            yield hold
        finally:
            self._holds.remove(hold)
            hold.released.set()

    async def up(self) -> None:
        self._is_up = True
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuses new connections and breaks the open ones."""
        self._is_up = False
        server, self._server = self._server, None
        if server is not None:
            for listener in server.sockets:
                asyncio.get_running_loop().remove_reader(listener.fileno())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # A connection that was accepted just before takes asyncio a few turns to hand over; `_serve` then breaks it.
        # Were the server closed meanwhile, asyncio would forget the connection and leave it open.
        for _ in range(10):
            await asyncio.sleep(0)
        if server is not None:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._is_up:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._join(reader, writer)
        except asyncio.CancelledError:
            # From down(). asyncio reports the cancelled task of a connection as an error, so it ends like any other.
            return
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
        exchange = _Exchange()
        ways = [
            asyncio.ensure_future(self._forward_requests(reader, upstream_writer, writer, exchange)),
            asyncio.ensure_future(self._forward_responses(upstream_reader, writer, exchange)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            upstream_writer.transport.abort()  # before anything that down() may interrupt
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _forward_requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        exchange: _Exchange,
    ) -> None:
        while data := await reader.read(65536):
            if re.match(rb"[A-Z]+ /", data):
                exchange.head, exchange.was_held = data.partition(b"\r\n\r\n")[0].decode("latin-1"), False
                self.requests.append(exchange.head)
                if answer := self._refusal_of(exchange.head):
                    client.write(answer.to(exchange.head))
                    await client.drain()
                    continue
                if hold := self._hold_of(exchange, None):
                    await hold.wait(exchange.head)
                    if reader.at_eof():
                        return
            writer.write(data)
            await writer.drain()

    async def _forward_responses(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: _Exchange
    ) -> None:
        passed = 0
        while data := await reader.read(65536):
            passed = len(data) if data.startswith(b"HTTP/1.1") else passed + len(data)
            if self._cuts and passed >= self._cuts[0]:
                self._cuts.pop(0)
                return
            if hold := self._hold_of(exchange, passed):
                exchange.was_held = True
                await hold.wait(exchange.head)
            if self._is_to_be_corrupted(exchange, passed):
                self._corrupt_at = None
                data = data[:-1] + bytes([data[-1] ^ 1])
            if self.pace is not None and self.pace.matching in exchange.head:
                await asyncio.sleep(self.pace.delay_s(data))
            writer.write(data)
            await writer.drain()

    def _is_to_be_corrupted(self, exchange: _Exchange, passed: int) -> bool:
        return self._corrupt_at is not None and passed >= self._corrupt_at and self._corrupt_matching in exchange.head

    def _refusal_of(self, head: str) -> Answer | None:
        for refusal in self.refusals:
            if refusal.left > 0 and refusal.matching in head:
                refusal.left -= 1
                return refusal.answer
        return None

    def _hold_of(self, exchange: _Exchange, passed: int | None) -> Hold | None:
        """What holds up the request (`passed` None), or its answer of which that many bytes have come."""
        for hold in self._holds:
            due = hold.after_bytes is None if passed is None else passed >= (hold.after_bytes or float("inf"))
            if due and not exchange.was_held and hold.matching in exchange.head:
                return hold
        return None

"""Streams that survive a cut: called again with the last resume token until the stream is complete.

Never takes a stream for whole because its gRPC status is OK: only its last message can say so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from shared.client.calls import records
from shared.client.retry import Backoff, Retries
from shared.errors import PenstockError

MessageT = TypeVar("MessageT", bound=Message)
MessageT_co = TypeVar("MessageT_co", bound=Message, covariant=True)


class ResponseStream(Protocol[MessageT_co]):
    """What a stub returns for a streaming call."""

    def __iter__(self) -> Iterator[MessageT_co]: ...

    def cancel(self) -> Any: ...


class IncompleteStream(PenstockError):
    """The server ended a stream well without having said that it is complete: a bug, or a proxy in between."""


class Resumption:
    """The state of one resumed stream, apart from any call: what to ask for next, and whether all has come."""

    def __init__(self, request: Message, retries: Retries) -> None:
        self._request = type(request)()
        self._request.CopyFrom(request)
        self._retries = retries
        self.is_complete = False
        self.resumptions = 0

    def request(self) -> Message:
        """The request of the next call; a copy, so that one in flight never changes."""
        copy = type(self._request)()
        copy.CopyFrom(self._request)
        return copy

    def accept(self, message: Message) -> None:
        """Takes note of a message that arrived."""
        token: str = getattr(message, "resume_token", "")
        if token:
            self._retries.progressed()
            self._set("resume_token", token)
            self._take_from_limit(len(records(message)))
        if message.HasField("status"):
            self.is_complete = self.is_complete or bool(message.status.end_reason)  # type: ignore[attr-defined]

    def ended(self) -> None:
        """The call ended with OK."""
        if not self.is_complete:
            raise IncompleteStream("the stream ended without END_REASON_COMPLETE", reason="INCOMPLETE_STREAM")

    def failed(self, error: grpc.RpcError) -> float:
        """The call failed: seconds to wait before the next; raises `error` where another try makes no sense."""
        if self.is_complete:
            return 0.0
        delay_s = self._retries.delay_s(error)
        self.resumptions += 1
        return delay_s

    def _take_from_limit(self, rows: int) -> None:
        """max_rows counts for one call: what came before the cut is taken off."""
        limit: int = getattr(self._request, "max_rows", 0)
        if limit:
            self._set("max_rows", limit - rows)
            self.is_complete = limit <= rows

    def _set(self, field: str, value: Any) -> None:
        setattr(self._request, field, value)


def stream(
    call: Callable[..., ResponseStream[MessageT]],
    request: Message,
    *,
    backoff: Backoff | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[MessageT]:
    """Yields the messages of a Stream call, over as many calls as it takes.

    Raises IncompleteStream, or the last call's grpc.RpcError once the tries are used up or the error is not one that
    another try cures (ABORTED under require_same_version among them).
    """
    state = Resumption(request, Retries(backoff))
    while not state.is_complete:
        responses = call(state.request())
        try:
            for message in responses:
                state.accept(message)
                yield message
            state.ended()
        except grpc.RpcError as error:
            sleep(state.failed(error))
        finally:
            responses.cancel()  # where the caller left the loop, the server is to stop


async def async_stream(
    call: Callable[..., Any],
    request: Message,
    *,
    backoff: Backoff | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Any]:
    """The same over a grpc.aio channel."""
    state = Resumption(request, Retries(backoff))
    while not state.is_complete:
        responses = call(state.request())
        try:
            async for message in responses:
                state.accept(message)
                yield message
            state.ended()
        except grpc.RpcError as error:
            await sleep(state.failed(error))
        finally:
            responses.cancel()

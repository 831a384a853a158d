"""Watches that never end by themselves: called again with the last resume token, on whichever server answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from shared.client.retry import Backoff, Retries
from shared.client.streams import ResponseStream

MessageT = TypeVar("MessageT", bound=Message)


class Following:
    """The state of one watch, apart from any call: where to go on."""

    def __init__(self, request: Message, backoff: Backoff | None) -> None:
        self._request: Any = type(request)()
        self._request.CopyFrom(request)
        self._retries = Retries(backoff)

    def request(self) -> Message:
        """The request of the next call; a copy, so that one in flight never changes."""
        copy: Message = type(self._request)()
        copy.CopyFrom(self._request)
        return copy

    def accept(self, message: Any) -> None:
        """Takes note of a message that arrived."""
        self._retries.progressed()
        self._request.resume_token = message.resume_token

    def failed(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next call; raises `error` where another try makes no sense."""
        return self._retries.delay_s(error)


def watch(
    call: Callable[..., ResponseStream[MessageT]],
    request: Message,
    *,
    backoff: Backoff | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[MessageT]:
    """Yields the messages of a Watch call, over as many calls as it takes, until the caller stops.

    Raises the last call's grpc.RpcError once the tries are used up, and where no try helps: OUT_OF_RANGE and ABORTED
    mean to read a Stream again and to watch from its version.
    """
    state = Following(request, backoff)
    while True:
        responses = call(state.request())
        try:
            for message in responses:
                state.accept(message)
                yield message
        except grpc.RpcError as error:
            sleep(state.failed(error))
        finally:
            responses.cancel()  # where the caller left the loop, the server is to stop


async def async_watch(
    call: Callable[..., Any],
    request: Message,
    *,
    backoff: Backoff | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Any]:
    """The same over a grpc.aio channel."""
    state = Following(request, backoff)
    while True:
        responses = call(state.request())
        try:
            async for message in responses:
                state.accept(message)
                yield message
        except grpc.RpcError as error:
            await sleep(state.failed(error))
        finally:
            responses.cancel()

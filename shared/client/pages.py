"""Every page of a List call, one request after the other (AIP-158). Any page may be short or empty."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

DEFAULT_TIMEOUT_S = 30.0


class Page(Protocol):
    """A response message that names the page after it."""

    @property
    def next_page_token(self) -> str: ...


PageT = TypeVar("PageT", bound=Page)


def pages(call: Callable[..., PageT], request: Message, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Iterator[PageT]:
    """Yields the response messages, beginning at `request`; `timeout_s` is for each. Raises what the call raises."""
    following = _copy(request)
    while True:
        page = call(following, timeout=timeout_s)
        yield page
        if not page.next_page_token:
            return
        following.page_token = page.next_page_token


async def async_pages(
    call: Callable[..., Awaitable[PageT]], request: Message, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> AsyncIterator[PageT]:
    """The same over a grpc.aio channel."""
    following = _copy(request)
    while True:
        page = await call(following, timeout=timeout_s)
        yield page
        if not page.next_page_token:
            return
        following.page_token = page.next_page_token


def _copy(request: Message) -> Any:
    copy = type(request)()
    copy.CopyFrom(request)
    return copy

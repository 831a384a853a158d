"""A flaky proxy on a thread of its own: it goes on forwarding while a test waits for processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from tests.integration.consumer.flaky_proxy import Answer, FlakyProxy, Hold, Pace, Refusal

_PATIENCE_S = 10.0


class ThreadedProxy:
    """Stands in front of one port of 127.0.0.1; a context manager."""

    def __init__(self, target_port: int) -> None:
        self._flaky = FlakyProxy(target_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()

    @property
    def endpoint_url(self) -> str:
        return self._flaky.endpoint_url

    def requests(self, matching: str) -> int:
        """How many requests with that in their head have come so far."""
        return sum(matching in head for head in tuple(self._flaky.requests))

    def up(self) -> None:
        self._run(self._flaky.up())

    def down(self) -> None:
        """Refuses new connections and breaks the open ones."""
        self._run(self._flaky.down())

    def cut_responses(self, *after_bytes: int) -> None:
        """Each of the next long responses is cut after that many bytes of it."""
        self._flaky.cut_responses(*after_bytes)

    def refuse(self, matching: str, answer: Answer, times: int) -> None:
        """The next so many requests with that in their head, and without a body, get this answer."""
        self._flaky.refusals.append(Refusal(matching=matching, answer=answer, left=times))

    @property
    def refusals_left(self) -> float:
        """How many requests are still to be refused."""
        return sum(refusal.left for refusal in self._flaky.refusals)

    @contextmanager
    def slowed(self, pace: Pace) -> Iterator[None]:
        """Answers come at this pace until the block ends."""
        self._flaky.pace = pace
        try:
            yield
        finally:
            self._flaky.pace = None

    @contextmanager
    def holding(self, matching: str, after_bytes: int | None = None) -> Iterator[Hold]:
        """See FlakyProxy."""
        entered = self._flaky.holding(matching, after_bytes)
        hold = self._run(_on_loop(entered.__enter__))
        try:
            yield hold
        finally:
            self._run(_on_loop(lambda: entered.__exit__(None, None, None)))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_S)


async def _on_loop(call: Any) -> Any:
    """Events belong to the loop that their waiters run on."""
    return call()

"""How much may be asked of a server: calls at once, in all and by one caller, and calls a second.

Pure; time comes in as an argument. Remembers a bounded number of callers, and of those that are gone for long nothing.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable

from shared.errors import ResourceExhausted
from shared.settings import CallerLimits

# A caller that was forgotten begins with a full bucket again, so this has to be more than call within a second.
MOST_CALLERS = 10_000
_WHOLE = 1.0 - 1e-6  # whoever waited as long as it was told is not refused for a rounding


class Admission:
    """Counts the running calls of each caller and fills its token bucket; used on one event loop only."""

    def __init__(
        self,
        limits: CallerLimits,
        clock: Callable[[], float],
        *,
        most_calls: int = sys.maxsize,
        most_callers: int = MOST_CALLERS,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._left = most_calls
        self._most_calls = most_calls
        self._most_callers = most_callers
        self._full = float(limits.burst or max(1.0, limits.per_second))
        self._running: dict[str, int] = {}
        # Tokens left and when they were counted, the caller that called last at the end.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._running.keys() | self._buckets.keys())

    def enter(self, caller: str) -> None:
        """A call begins, and `leave` must follow; raises ResourceExhausted, after which it must not."""
        running = self._running.get(caller, 0)
        if self._limits.calls and running >= self._limits.calls:
            raise ResourceExhausted(
                f"{caller} has {running} calls running here, as many as one caller may: wait for some of them to end",
                reason="TOO_MANY_CALLS",
                metadata={"identity": caller},
                retry_after_s=1.0,
            )
        if not self._left:
            raise ResourceExhausted(
                f"{self._most_calls} calls are running here, as many as this server takes at once: ask again, another "
                "one may answer",
                reason="TOO_MANY_CALLS",
                retry_after_s=1.0,
            )
        if self._limits.per_second:
            self._take_token(caller)
        self._running[caller] = running + 1
        self._left -= 1

    def leave(self, caller: str) -> None:
        """The call has ended."""
        self._left += 1
        left = self._running[caller] - 1
        if left:
            self._running[caller] = left
        else:
            del self._running[caller]

    def _take_token(self, caller: str) -> None:
        now = self._clock()
        tokens, counted = self._buckets.pop(caller, (self._full, now))
        tokens = min(self._full, tokens + (now - counted) * self._limits.per_second)
        self._buckets[caller] = (tokens - 1.0 if tokens >= _WHOLE else tokens, now)
        if len(self._buckets) > self._most_callers:
            self._buckets.popitem(last=False)
        if tokens < _WHOLE:
            raise ResourceExhausted(
                f"{caller} calls more often than {self._limits.per_second:g} times a second: call less often",
                reason="RATE_LIMITED",
                metadata={"identity": caller},
                retry_after_s=(1.0 - tokens) / self._limits.per_second,
            )

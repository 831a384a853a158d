"""How long to wait before the next attempt. Pure: randomness comes in as an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off with jitter between half and all of the step, so that pods that failed together part."""

    base_s: float
    cap_s: float

    def delay_s(self, attempt: int, random: Callable[[], float]) -> float:
        """Seconds to wait after the `attempt`th failure in a row, counted from 1. `random` gives [0, 1)."""
        # 2 ** 32 steps are beyond any cap; more would overflow a float in the end.
        step_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 32))
        return step_s * (0.5 + 0.5 * random())

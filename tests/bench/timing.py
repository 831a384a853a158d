"""How things are timed: one against the other in turn, so that what else the machine does falls on both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

REPEATS = 3


def timed(act: Callable[[], object]) -> float:
    """Seconds that `act` takes."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def alternate(*acts: Callable[[], float], repeats: int = REPEATS) -> Sequence[Sequence[float]]:
    """The times of each act, `repeats` times in turn; each returns the seconds of what it timed."""
    rounds = [[act() for act in acts] for _ in range(repeats)]
    return list(zip(*rounds, strict=True))

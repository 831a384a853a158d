"""Those who wait for one turn are served together by the first of them, who takes some behind him along. Pure.

Nobody is served twice, and nobody is taken along who has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

M = TypeVar("M")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Place(Generic[M, R]):
    member: M
    served: bool = False
    result: R | None = None
    problem: Exception | None = None


class Turns(Generic[M, R]):
    """A line in the order of arrival. `together` says how many of the first may be served at once, one at least;
    `serve` gives a result for each of them, in their order."""

    def __init__(
        self, together: Callable[[Sequence[M]], int], serve: Callable[[Sequence[M]], Awaitable[Sequence[R | None]]]
    ) -> None:
        self._together = together
        self._serve = serve
        self._line: list[_Place[M, R]] = []
        self._turn = asyncio.Lock()

    async def take(self, member: M) -> R | None:
        """What `serve` gave for the member, or raised for all that it served. None also where he who served was
        cancelled: it is not known then how far he came."""
        place: _Place[M, R] = _Place(member)
        self._line.append(place)
        try:
            async with self._turn:
                while not place.served:
                    await self._serve_first()
        finally:
            if place in self._line:
                self._line.remove(place)
        if place.problem is not None:
            raise place.problem
        return place.result

    async def _serve_first(self) -> None:
        count = self._together([place.member for place in self._line])
        served, self._line = self._line[:count], self._line[count:]
        for place in served:
            place.served = True
        try:
            results = await self._serve([place.member for place in served])
        except Exception as exc:  # noqa: BLE001 - raised by each of those who were served
            for place in served:
                place.problem = exc
        else:
            for place, result in zip(served, results, strict=True):
                place.result = result

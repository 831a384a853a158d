"""The figures of Count: a call, against the SELECT count(*) that it stands for, by asyncpg on the same table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg

from query_service.count import MOST_COUNTED
from shared.contract.model import MethodKind
from tests.bench import files
from tests.bench.lab import Lab
from tests.bench.table import Figure, Target, seconds, time_ratio
from tests.bench.timing import alternate, timed

REPEATS = 20
# An estimate comes from statistics, and they from a sample of the rows.
_TOLERANCE = 0.2
_TIMEOUT_S = 30.0
_SQL = "SELECT count(*) FROM data.orders WHERE customer < $1"


def count(lab: Lab) -> Figure:
    """A twentieth of the rows."""
    return _count(lab, files.CUSTOMERS // 20)


def count_capped(lab: Lab) -> Figure:
    """Half of the rows: of a million, more than Count looks at."""
    return _count(lab, files.CUSTOMERS // 2)


def _count(lab: Lab, customers: int) -> Figure:
    """The orders of so many customers, counted one call or statement after the other."""
    lab.need_orders()
    customer = files.customer(customers)
    matching = sum(files.customer_number(number) < customers for number in range(lab.rows))
    with _by_hand(lab) as run:
        ours, theirs = alternate(
            lambda: _call(lab, customer, matching),
            lambda: timed(lambda: lab.expect(run(customer), matching, "rows that SELECT count(*) has counted")),
            repeats=REPEATS,
        )
    how = f"of which {MOST_COUNTED:,} are looked at, then estimated" if matching > MOST_COUNTED else "exact"
    return Figure(
        name=f"Count of {matching:,} rows by a filter, {how} : SELECT count(*) over asyncpg",
        ours=seconds(ours),
        baseline=seconds(theirs),
        value=time_ratio(ours, theirs),
        target=Target(),
    )


def _call(lab: Lab, customer: str, matching: int) -> float:
    request = lab.method(MethodKind.COUNT).input_class(filter=f'customer < "{customer}"').SerializeToString()
    call = lab.raw_call(MethodKind.COUNT)
    answers: list[bytes] = []
    elapsed_s = timed(lambda: answers.append(call(request, timeout=_TIMEOUT_S)))
    answer = lab.answer_class(MethodKind.COUNT).FromString(answers[0])
    lab.expect(answer.estimated, matching > MOST_COUNTED, "whether Count has estimated")
    wrong = abs(answer.count - matching)
    lab.expect(wrong <= (matching * _TOLERANCE if answer.estimated else 0), True, f"that Count says {matching:,} rows")
    return elapsed_s


@contextmanager
def _by_hand(lab: Lab) -> Iterator[Callable[[str], object]]:
    """The statement on one connection, prepared once, as asyncpg does by itself."""
    with asyncio.Runner() as runner:
        connection = runner.run(_connect(lab.settings["PENSTOCK_DATABASE_URL"]))
        try:
            yield lambda customer: runner.run(connection.fetchval(_SQL, customer))
        finally:
            runner.run(connection.close())


async def _connect(url: str) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(url)

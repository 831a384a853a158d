"""Dates as they are. asyncpg takes the first and the last date of Python for Postgres' -infinity and infinity.

As parameters they would then equal no stored row, and a page that ends amid rows of 9999-12-31 would be the last.
"""

from __future__ import annotations

from datetime import date

import asyncpg

# Postgres counts days from here; the tuple format of asyncpg's codecs is that count.
_DAY_0 = date(2000, 1, 1).toordinal()
_FIRST, _LAST = date.min.toordinal(), date.max.toordinal()


async def exact_dates(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Makes the connection send every date, also within arrays, as it is."""
    await connection.set_type_codec("date", schema="pg_catalog", format="tuple", encoder=_days, decoder=_date)


def _days(day: date) -> tuple[int]:
    return (day.toordinal() - _DAY_0,)


def _date(days: tuple[int]) -> date:
    """What lies beyond Python's dates, the infinities among it, becomes the nearest one."""
    return date.fromordinal(max(_FIRST, min(_LAST, days[0] + _DAY_0)))

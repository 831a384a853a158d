"""Dates and timestamps as they are. asyncpg takes the first and the last ones of Python for Postgres' infinities.

As parameters they would then equal no stored row, and a page that ends amid rows of 9999-12-31 would be the last, one
amid rows of 0001-01-01T00:00:00Z the next one again.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import asyncpg

# Postgres counts days, and microseconds, from here; the tuple format of asyncpg's codecs is that count.
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_DAY_0 = _EPOCH.toordinal()
_FIRST, _LAST = date.min.toordinal(), date.max.toordinal()
_MICROSECOND = timedelta(microseconds=1)
_EARLIEST = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LATEST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


async def exact_times(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Makes the connection send every date and every timestamp with time zone, also within arrays, as it is.

    A timestamp is sent by what it says of its zone, and comes in UTC.
    """
    await connection.set_type_codec("date", schema="pg_catalog", format="tuple", encoder=_days, decoder=_date)
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", format="tuple", encoder=_microseconds, decoder=_moment
    )


def _days(day: date) -> tuple[int]:
    return (day.toordinal() - _DAY_0,)


def _date(days: tuple[int]) -> date:
    """What lies beyond Python's dates, the infinities among it, becomes the nearest one."""
    return date.fromordinal(max(_FIRST, min(_LAST, days[0] + _DAY_0)))


def _microseconds(moment: datetime) -> tuple[int]:
    return ((moment - _EPOCH) // _MICROSECOND,)


def _moment(microseconds: tuple[int]) -> datetime:
    """As `_date` does."""
    return _EPOCH + timedelta(microseconds=max(_EARLIEST, min(_LATEST, microseconds[0])))

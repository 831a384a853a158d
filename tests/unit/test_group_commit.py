"""Which of those who wait make a group: no more than its bounds allow, and no object twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from ingest_service.copy_format import TRAILER, header
from ingest_service.group_commit import Beginning, GroupCommit, GroupLimits, fitting
from ingest_service.ledger.records import ObjectVersion, PartSet, ReadCounts
from ingest_service.merge.group import Member
from ingest_service.merge.merge import MergeLimits
from shared.contract.model import ContractSet
from tests.unit.ledger_loads import load_of

NO_POOL: Any = None
LIMITS = GroupLimits(group_bytes=100, loads=3)


def waiting(*keys: str, size_bytes: int = 1) -> list[Member]:
    return [
        Member(
            load=load_of(ObjectVersion(bucket="b", key=key)),
            read=ReadCounts(),
            number=number,
            rows=1,
            tuples=bytes(size_bytes),
        )
        for number, key in enumerate(keys)
    ]


@pytest.mark.parametrize(
    ("members", "together"),
    [
        (waiting("a"), 1),
        (waiting("a", "b"), 2),
        (waiting("a", "b", "c", "d"), 3),
        (waiting("a", "b", "a"), 2),
        (waiting("a", "b", size_bytes=60), 1),
        (waiting("a", "b", "c", size_bytes=40), 2),
        (waiting("a", "b", size_bytes=200), 1),
    ],
)
def test_group_has_its_bounds_and_takes_no_object_twice(members: Sequence[Member], together: int) -> None:
    assert fitting(members, LIMITS) == together


async def test_stream_of_which_the_beginning_was_read_is_whole_again() -> None:
    async def rest() -> AsyncIterator[bytes]:
        yield b"two"
        yield TRAILER

    beginning = Beginning(pieces=(header(), b"one"), whole=False)
    assert b"".join([piece async for piece in beginning.then(rest())]) == header() + b"onetwo" + TRAILER


def test_rows_of_a_whole_stream_come_without_its_frame() -> None:
    assert Beginning(pieces=(header(), b"one", b"two", TRAILER), whole=True).tuples == b"onetwo"
    assert Beginning(pieces=(header(), TRAILER), whole=True).tuples == b""


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        (ObjectVersion(bucket="b", key="k", size_bytes=LIMITS.load_bytes), True),
        (ObjectVersion(bucket="b", key="k", size_bytes=LIMITS.load_bytes + 1), False),
        (ObjectVersion(bucket="b", key="_SUCCESS", parts=PartSet(count=2, size_bytes=2, digest="d")), False),
    ],
)
def test_only_small_objects_without_parts_are_wanted(
    contracts: ContractSet, version: ObjectVersion, wanted: bool
) -> None:
    groups = GroupCommit(pool=NO_POOL, merge_limits=MergeLimits(), limits=LIMITS)
    assert groups.wants(contracts.datasets["airports"], version) is wanted

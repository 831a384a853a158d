"""Columns of fields inside messages, from files of every format: filled, changed, rejected where no row may hold it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from ingest_service.ledger import listing
from ingest_service.ledger.records import Load, LoadState
from ingest_service.load import LoadLimits
from ingest_service.merge.merge import MergeLimits
from shared.contract.model import Dataset
from shared.local.postgres import EmbeddedPostgres
from tests.integration.ingest.rig import Rig
from tests.integration.merge.lab import CONTRACT, Lab, cloned, migrated_template

Row: TypeAlias = "Mapping[str, Any]"

INSIDE = CONTRACT.replace(
    "message Thing {",
    """
message Site { string code = 1; optional int32 floor = 2; }
message Maker { string town = 1; repeated int64 years = 2; Site site = 3; google.protobuf.Timestamp since = 4; }
message Thing {""",
).replace(
    "repeated string tags = 6;",
    """repeated string tags = 6;
  Maker maker = 7 [(penstock.contract.v1.column) = {
    filterable_paths: ["town", "site.code", "site.floor", "years", "since"]
  }];""",
)
INSIDE = INSIDE.replace('import "p', 'import "google/protobuf/timestamp.proto";\nimport "p', 1)
NAMES = ("town", "site.code", "site.floor", "years", "since")
COLUMNS = ", ".join(f'"maker.{name}"::text' for name in NAMES)
SINCE = "2024-05-01 12:00:00+00"

WHOLE: Row = {
    "town": "Ulm",
    "years": [1, -2],
    "site": {"code": "q", "floor": 0},
    "since": "2024-05-01T12:00:00.000000Z",
}
# A maker as a file holds it, and its columns.
MAKERS: Sequence[tuple[Row | None, tuple[str | None, ...]]] = [
    (WHOLE, ("Ulm", "q", "0", "{1,-2}", SINCE)),
    ({**WHOLE, "town": None, "site": {"code": None, "floor": None}}, ("", "", None, "{1,-2}", SINCE)),
    ({"town": "", "years": [], "site": None, "since": None}, ("", None, None, "{}", None)),
    (None, (None, None, None, "{}", None)),
]
TYPES = pa.struct(
    [
        ("town", pa.string()),
        ("years", pa.list_(pa.int64())),
        ("site", pa.struct([("code", pa.string()), ("floor", pa.int32())])),
        ("since", pa.string()),
    ]
)


def as_csv(makers: Sequence[Row | None]) -> bytes:
    """Messages are JSON in a cell."""
    writer = csv.writer(text := io.StringIO())
    writer.writerow(("owner", "number", "maker"))
    for number, maker in enumerate(makers):
        writer.writerow(("a", number, "" if maker is None else orjson.dumps(maker).decode()))
    return text.getvalue().encode()


def as_ndjson(makers: Sequence[Row | None]) -> bytes:
    rows = [{"owner": "a", "number": number, "maker": maker} for number, maker in enumerate(makers)]
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def as_parquet(makers: Sequence[Row | None]) -> bytes:
    columns = {"owner": ["a"] * len(makers), "number": range(len(makers)), "maker": pa.array(makers, TYPES)}
    parquet.write_table(pa.table(columns), written := io.BytesIO())
    return written.getvalue()


Write: TypeAlias = "Callable[[Sequence[Row | None]], bytes]"


@pytest.fixture(params=[as_csv, as_ndjson, as_parquet])
def write(request: pytest.FixtureRequest) -> Write:
    """Makes a file of one format from makers; rows are numbered."""
    writer: Write = request.param
    return writer


@pytest.fixture(scope="module")
def inside_template(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Dataset]]:
    with migrated_template(postgres, tmp_path_factory.mktemp("inside"), INSIDE) as template:
        yield template


@pytest.fixture
def lab(postgres: EmbeddedPostgres, inside_template: tuple[str, Dataset]) -> Iterator[Lab]:
    """The rig's dataset here: things that have a maker."""
    template, dataset = inside_template
    with cloned(postgres, template) as name:
        yield Lab(url=postgres.url(name), dataset=dataset)


async def load_of(rig: Rig, write: Write, makers: Sequence[Row | None], *, bulk: bool = False) -> Load:
    key = f"things/a.{write.__name__.removeprefix('as_')}"
    await rig.s3.put_object(Bucket=rig.bucket, Key=key, Body=write(makers))
    limits = LoadLimits(merge=MergeLimits(bulk_rows=1)) if bulk else rig.limits
    return await replace(rig, limits=limits).loader().load(rig.job(key))


async def held(rig: Rig) -> list[tuple[str | None, ...]]:
    async with rig.lab.connect() as connection:
        await connection.execute("SET timezone = 'UTC'")
        return [tuple(row) for row in await connection.fetch(f"SELECT {COLUMNS} FROM data.things ORDER BY number")]


@pytest.mark.parametrize("bulk", [False, True])
async def test_columns_hold_what_the_messages_do(rig: Rig, write: Write, bulk: bool) -> None:
    load = await load_of(rig, write, [maker for maker, _ in MAKERS], bulk=bulk)
    assert load.state is LoadState.SUCCEEDED, load.message
    assert await held(rig) == [columns for _, columns in MAKERS]


async def test_a_later_load_changes_columns_and_bytes_together(rig: Rig, write: Write) -> None:
    await load_of(rig, write, [maker for maker, _ in MAKERS])
    turned = MAKERS[::-1]
    load = await load_of(rig, write, [maker for maker, _ in turned])
    assert (load.state, load.rows_updated) == (LoadState.SUCCEEDED, 4)
    assert await held(rig) == [columns for _, columns in turned]


@pytest.mark.parametrize(
    ("town", "field", "rule"),
    [("a\0b", "maker.town", "text.nul"), ("x" * 2700, "maker.town", "index.size")],
    ids=["NUL", "too long for the index"],
)
async def test_what_no_column_or_index_holds_is_rejected_by_name(
    rig: Rig, write: Write, town: str, field: str, rule: str
) -> None:
    load = await load_of(rig, write, [WHOLE, {**WHOLE, "town": town}])
    assert (load.state, load.reason) == (LoadState.FAILED, "TOO_MANY_REJECTS")
    async with rig.lab.connect() as connection:
        (reject,) = await listing.list_rejects(connection, load.id, limit=10)
    assert (reject.field, reject.rule) == (field, rule)
    assert await held(rig) == []

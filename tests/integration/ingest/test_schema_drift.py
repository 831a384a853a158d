"""Files that are no longer as the contract says, in every format: columns that come, go, are renamed or retyped."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import orjson
import pyarrow as pa
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pyarrow import parquet

from ingest_service.ledger import listing
from ingest_service.ledger.records import Load, LoadState
from ingest_service.load import Loader
from shared.contract.model import Dataset
from shared.local.postgres import EmbeddedPostgres
from tests.integration.ingest.rig import Rig, by_key
from tests.integration.merge.lab import CONTRACT, Lab, Thing, cloned, migrated_template

Row: TypeAlias = "Mapping[str, Any]"

# A file of older days calls the label `title` or `name`.
RENAMED = CONTRACT.replace("searchable: true", 'searchable: true source: ["title", "name"]')
ROWS: Sequence[Row] = [{"owner": "a", "number": 1, "label": "one", "rank": 1}, {"owner": "b", "number": 2, "rank": 2}]


def as_csv(rows: Sequence[Row]) -> bytes:
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text := io.StringIO(), names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_ndjson(rows: Sequence[Row]) -> bytes:
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def as_parquet(rows: Sequence[Row]) -> bytes:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    parquet.write_table(pa.table(columns), written := io.BytesIO())
    return written.getvalue()


@pytest.fixture(params=[as_csv, as_ndjson, as_parquet])
def write(request: pytest.FixtureRequest) -> Callable[[Sequence[Row]], bytes]:
    """Makes a file of one format from rows."""
    writer: Callable[[Sequence[Row]], bytes] = request.param
    return writer


@pytest.fixture(scope="module")
def drift_template(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Dataset]]:
    with migrated_template(postgres, tmp_path_factory.mktemp("drift"), RENAMED) as template:
        yield template


@pytest.fixture
def lab(postgres: EmbeddedPostgres, drift_template: tuple[str, Dataset]) -> Iterator[Lab]:
    """The rig's dataset here: one whose label had other names once."""
    template, dataset = drift_template
    with cloned(postgres, template) as name:
        yield Lab(url=postgres.url(name), dataset=dataset)


async def load_of(
    rig: Rig, write: Callable[[Sequence[Row]], bytes], rows: Sequence[Row], meters: MeterProvider | None = None
) -> Load:
    key = f"things/a.{write.__name__.removeprefix('as_')}"
    await rig.s3.put_object(Bucket=rig.bucket, Key=key, Body=write(rows))
    loader = Loader(pool=rig.pool, store=rig.store, executor=rig.executor, owner="here", meter_provider=meters)
    return await loader.load(rig.job(key))


def things(rows: Sequence[Row]) -> dict[tuple[str, int], Thing]:
    return by_key(Thing(**row) for row in rows)


async def test_unknown_column_is_noted_with_the_load_and_counted(
    rig: Rig, write: Callable[[Sequence[Row]], bytes]
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    load = await load_of(rig, write, [{**row, "colour": "red", "size": 3} for row in ROWS], provider)
    assert (load.state, load.read.unknown_columns) == (LoadState.SUCCEEDED, ("colour", "size"))
    assert await rig.table() == things(ROWS)
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    (point,) = metric.data.data_points
    assert metric.name == "penstock.ingest.unknown_columns"
    assert (getattr(point, "value", None), point.attributes) == (2, {"penstock.dataset": "things"})
    provider.shutdown()


async def test_missing_optional_column_leaves_the_default(rig: Rig, write: Callable[[Sequence[Row]], bytes]) -> None:
    rows = [{"owner": row["owner"], "number": row["number"]} for row in ROWS]
    load = await load_of(rig, write, rows)
    assert (load.state, load.read.rows_rejected, load.read.unknown_columns) == (LoadState.SUCCEEDED, 0, ())
    held = await rig.table()
    assert held == things(rows)
    assert {(thing.label, thing.weight, thing.rank, thing.tags) for thing in held.values()} == {("", None, 0, ())}


@pytest.mark.parametrize("name", ["title", "name"])
async def test_renamed_column_is_read_by_its_other_names(
    rig: Rig, write: Callable[[Sequence[Row]], bytes], name: str
) -> None:
    load = await load_of(rig, write, [{"owner": "a", "number": 1, name: "one"}])
    assert (load.state, load.read.unknown_columns) == (LoadState.SUCCEEDED, ())
    assert await rig.table() == things([{"owner": "a", "number": 1, "label": "one"}])


async def test_column_of_another_type_rejects_its_rows_by_file_line_field_and_rule(
    rig: Rig, write: Callable[[Sequence[Row]], bytes]
) -> None:
    load = await load_of(rig, write, [{**row, "rank": "high"} for row in ROWS])
    assert (load.state, load.reason, await rig.table()) == (LoadState.FAILED, "TOO_MANY_REJECTS", {})
    async with rig.lab.connect() as connection:
        rejects = await listing.list_rejects(connection, load.id, limit=10)
    first_line = 2 if write is as_csv else 1
    assert [(one.line, one.field, one.rule) for one in rejects] == [
        (first_line, "rank", "type.int64"),
        (first_line + 1, "rank", "type.int64"),
    ]
    assert f"{load.object.uri}, line {first_line}, field rank: " in load.message
    assert "(type.int64)" in load.message

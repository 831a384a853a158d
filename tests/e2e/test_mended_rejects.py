"""The way of a bad row: exported with the load's rejects, mended, uploaded as a file of its own, populated, served."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import pytest
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from shared.client.service import connect
from tests.e2e.running_stack import RunningStack

pytestmark = pytest.mark.xdist_group("e2e")

Row: TypeAlias = "Mapping[str, str]"
Export: TypeAlias = "Sequence[Mapping[str, Any]]"

COLUMNS = ("icao", "name", "country", "lat", "lon")
GOOD = 400
# What is wrong with the last rows, and how it is mended. The second one breaks two rules, and is exported twice.
BAD: Sequence[Row] = [{"lat": "north"}, {"lat": "95", "lon": "999"}, {"country": "Norway"}]
MENDED = {"lat": "60", "lon": "10", "country": "NO"}


def rows_of(prefix: str) -> list[dict[str, str]]:
    """Airports by codes of that prefix, the last of them bad."""
    rows = [
        {"icao": f"{prefix}{number:03}", "name": f"good {number}", "country": "NO", "lat": "1", "lon": "2"}
        for number in range(GOOD + len(BAD))
    ]
    for row, wrong in zip(rows[GOOD:], BAD, strict=True):
        row |= wrong
    return rows


def as_csv(rows: Sequence[Row]) -> str:
    writer = csv.DictWriter(text := io.StringIO(), COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_ndjson(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def raw_lines(export: Export) -> list[str]:
    """Each bad row as it stood, once."""
    return list({line["line"]: line["raw"] for line in export}.values())


def mended_csv(export: Export) -> str:
    """The header is the file's own."""
    rows = csv.DictReader(raw_lines(export), COLUMNS)
    return as_csv([{**row, **MENDED} for row in rows])


def mended_ndjson(export: Export) -> str:
    return as_ndjson([json.loads(line) | MENDED for line in raw_lines(export)])


def populate(stack: RunningStack, stub: ingest_pb2_grpc.IngestServiceStub, key: str, text: str) -> ingest_pb2.Load:
    """Uploads where no event is listened to, and loads on request."""
    bucket = stack.environment["PENSTOCK_BUCKET"]
    stack.s3().put_object(Bucket=bucket, Key=key, Body=text.encode())
    request = ingest_pb2.PopulateRequest(uri=f"s3://{bucket}/{key}", dataset="airports")
    *_, end = stub.Populate(request, timeout=60)
    (load,) = end.loads
    return load


def exported(stub: ingest_pb2_grpc.IngestServiceStub, load: ingest_pb2.Load) -> Export:
    pieces = stub.ExportRejects(ingest_pb2.ExportRejectsRequest(load_id=load.id), timeout=30)
    return [json.loads(line) for line in b"".join(piece.ndjson for piece in pieces).splitlines()]


@pytest.mark.parametrize(
    ("prefix", "write", "mend"), [("Z", as_csv, mended_csv), ("Y", as_ndjson, mended_ndjson)], ids=["csv", "ndjson"]
)
def test_rejects_that_are_mended_and_populated_arrive_and_the_good_rows_of_before_stay(
    stack: RunningStack,
    prefix: str,
    write: Callable[[Sequence[Row]], str],
    mend: Callable[[Export], str],
) -> None:
    rows = rows_of(prefix)
    suffix = write.__name__.removeprefix("as_")
    with stack.channel("INGEST") as channel, connect("aviation.v1.AirportService", environ=stack.environment) as serves:
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        first = populate(stack, stub, f"mending/{prefix}.{suffix}", write(rows))
        assert (first.state, first.rows_inserted) == (ingest_pb2.LOAD_STATE_SUCCEEDED, GOOD)
        assert first.rows_rejected == len(BAD)
        export = exported(stub, first)
        assert len(export) == len(BAD) + 1
        assert {line["object"] for line in export} == {first.uri}
        second = populate(stack, stub, f"mending/{prefix}-mended.{suffix}", mend(export))
        assert (second.state, second.rows_inserted) == (ingest_pb2.LOAD_STATE_SUCCEEDED, len(BAD))
        assert (second.rows_rejected, second.rows_deleted, len(second.unknown_columns)) == (0, 0, 0)
        served = {airport.icao: airport for message in serves.stream() for airport in message.airports}
    assert {row["icao"] for row in rows} <= served.keys()
    assert {served[row["icao"]].latitude for row in rows[:GOOD]} == {1.0}
    for row in rows[GOOD:]:
        airport = served[row["icao"]]
        assert (airport.name, airport.country, airport.latitude, airport.longitude) == (row["name"], "NO", 60.0, 10.0)

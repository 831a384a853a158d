"""The ways of a bad row: exported with the load's rejects, mended, uploaded as a file of its own, populated, served; or
loaded alone when the contract takes it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from shared.client.channel import ClientTls, open_channel
from shared.client.service import connect
from shared.local.certificates import DEMO_CLIENT, CertificateAuthority, issue_local
from shared.local.service import LocalService
from tests.e2e.running_stack import RunningStack

pytestmark = pytest.mark.xdist_group("e2e")

Row: TypeAlias = "Mapping[str, str]"
Export: TypeAlias = "Sequence[Mapping[str, Any]]"

REPOSITORY = Path(__file__).resolve().parents[2]
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


@contextmanager
def mended_ingest(stack: RunningStack, folder: Path) -> Iterator[ingest_pb2_grpc.IngestServiceStub]:
    """An ingest process of the stack whose contract allows more latitudes, as after its roll-out."""
    text = (REPOSITORY / "protos/aviation/v1/airport.proto").read_text()
    (folder / "airport.proto").write_text(text.replace("lte: 90\n", "lte: 9000\n"))
    server, _ = issue_local(CertificateAuthority.ensure(stack.directory / "certificates"))
    environment = {
        **os.environ,
        **stack.environment,
        **server.environment(),
        "PENSTOCK_CONTRACTS": str(folder),
        "PENSTOCK_ALLOWED_IDENTITIES": DEMO_CLIENT,
    }
    service = LocalService(
        "ingest_service", environment=environment, directory=folder, working_directory=REPOSITORY, drain_s=5
    )
    try:
        service.launch()
        service.wait()
        with open_channel(service.address, ClientTls.from_environment(stack.environment)) as channel:
            yield ingest_pb2_grpc.IngestServiceStub(channel)
    finally:
        service.stop()


def rejects_of(stub: ingest_pb2_grpc.IngestServiceStub, load: ingest_pb2.Load) -> ingest_pb2.Load:
    *_, end = stub.Populate(ingest_pb2.PopulateRequest(rejects_of=load.id), timeout=60)
    (loaded,) = end.loads
    return loaded


def test_rejects_arrive_alone_when_the_contract_takes_them_and_newer_rows_stay(
    stack: RunningStack, tmp_path: Path
) -> None:
    rows = rows_of("X")
    for row in rows[GOOD:]:
        row |= {"country": "NO", "lat": "95", "lon": "2"}
    newer = [row | {"name": "newer"} for row in rows[:2]]
    with stack.channel("INGEST") as channel:
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        first = populate(stack, stub, "mending/X.csv", as_csv(rows))
        assert (first.rows_inserted, first.rows_rejected) == (GOOD, len(BAD))
        assert populate(stack, stub, "mending/X-newer.csv", as_csv(newer)).rows_updated == 2
        with pytest.raises(grpc.RpcError) as refused:
            rejects_of(stub, populate(stack, stub, "mending/X-newest.csv", as_csv(newer)))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION  # it has none
    with mended_ingest(stack, tmp_path) as stub:
        second = rejects_of(stub, first)
        assert (second.state, second.rejects_of, second.uri) == (
            ingest_pb2.LOAD_STATE_SUCCEEDED,
            first.id,
            first.uri,
        )
        assert (second.rows_inserted, second.rows_updated, second.rows_rejected) == (len(BAD), 0, 0)
        assert rejects_of(stub, first).state == ingest_pb2.LOAD_STATE_ALREADY_APPLIED
    with connect("aviation.v1.AirportService", environ=stack.environment) as serves:
        served = {airport.icao: airport for message in serves.stream() for airport in message.airports}
    assert {served[row["icao"]].latitude for row in rows[GOOD:]} == {95.0}
    assert [served[row["icao"]].name for row in rows[:3]] == ["newer", "newer", "good 2"]

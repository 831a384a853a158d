"""Input that is only large: 50 MB lines, decompression bombs, 100 MB requests. On a running stack, whose processes must
neither stop nor grow."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import zstandard
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from shared.local.stack import LocalStack
from tests.e2e.running_stack import RunningStack, SpanSink

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("huge_input")]

MIB = 1024 * 1024
LINE_BYTES = 50 * MIB
GOOD = b"icao,name,country,lat,lon\nGOOD,x,DE,1,1\n"
# DESIGN section 3: resident memory stays under this whatever the file's size.
MEMORY_BYTES = 512 * MIB


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """`penstock up` with the repository's contracts."""
    with LocalStack(tmp_path_factory.mktemp("huge"), environ=os.environ, durable=False) as running:
        yield running


@pytest.fixture
def stack(local: LocalStack) -> Iterator[RunningStack]:
    """The stack, which must load and serve as before when the test is over, with bounded memory."""
    stack = RunningStack(directory=local.directory, environment=local.environment, sink=SpanSink())
    yield stack
    load = stack.upload("airports/good.csv", GOOD)
    assert load.state in (ingest_pb2.LOAD_STATE_SUCCEEDED, ingest_pb2.LOAD_STATE_ALREADY_APPLIED), load
    assert local.ended() is None
    for service in local.services.values():
        assert peak_bytes(service.process.pid) < MEMORY_BYTES


def peak_bytes(pid: int) -> int:
    """The largest resident size that the process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found.group(1)) * 1024


def rejects_of(stack: RunningStack, load: ingest_pb2.Load) -> list[ingest_pb2.Reject]:
    with stack.channel("INGEST") as channel:
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        return list(stub.ListRejects(ingest_pb2.ListRejectsRequest(load_id=load.id), timeout=20).rejects)


LINES = {
    "plain.csv": b"icao,name\nAAAA," + b"x" * LINE_BYTES + b"\nBBBB,y\n",
    "quoted.csv": b'icao,name\nAAAA,"' + b"x" * LINE_BYTES + b'"\nBBBB,y\n',
    "quotes.csv": b'icao,name\nAAAA,"' + b'""' * (LINE_BYTES // 2) + b'"\nBBBB,y\n',
    "plain.tsv": b"icao\tname\nAAAA\t" + b"x" * LINE_BYTES + b"\nBBBB\ty\n",
    "value.ndjson": b'{"icao":"A"}\n{"icao":"AAAA","name":"' + b"x" * LINE_BYTES + b'"}\n{"icao":"BBBB"}\n',
    "array.ndjson": b'{"icao":"A"}\n{"icao":"AAAA","x":[' + b"1," * (LINE_BYTES // 2) + b'1]}\n{"icao":"BBBB"}\n',
}


@pytest.mark.parametrize("name", LINES)
def test_line_of_50_mb_is_one_reject(stack: RunningStack, name: str) -> None:
    load = stack.upload(f"airports/{name}", LINES[name])
    assert (load.state, load.reason) == (ingest_pb2.LOAD_STATE_FAILED, "TOO_MANY_REJECTS")
    named = [(one.line, one.rule, one.message) for one in rejects_of(stack, load)]
    assert (2, "row.size", "the row is longer than 16777216 bytes") in named


@pytest.mark.parametrize("name", ["header.csv", "header.tsv"])
def test_header_of_50_mb_is_no_header(stack: RunningStack, name: str) -> None:
    load = stack.upload(f"airports/{name}", b"icao," + b"x" * LINE_BYTES)
    assert load.reason == "BAD_HEADER"
    assert "the row is longer than 16777216 bytes" in load.message


def gzip_of(chunk: bytes, times: int) -> bytes:
    """`chunk` so many times, compressed; never whole in memory."""
    compressor = zlib.compressobj(9, wbits=31)
    return b"".join([*(compressor.compress(chunk) for _ in range(times)), compressor.flush()])


def zstd_of(chunk: bytes, times: int) -> bytes:
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    return b"".join([*(compressor.compress(chunk) for _ in range(times)), compressor.flush()])


BOMBS = {
    "x.csv.zst": lambda: zstd_of(b"icao,name\n", 1) + zstd_of(b"x" * 16 * MIB, 80),
    "x.csv.gz": lambda: gzip_of(b"icao,name\n", 1) + gzip_of(b"x" * MIB, 1100),
    "x.ndjson.gz": lambda: gzip_of(b"x" * MIB, 1100),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_stopped_by_its_density(stack: RunningStack, name: str) -> None:
    load = stack.upload(f"airports/{name}", BOMBS[name]())
    assert (load.state, load.reason) == (ingest_pb2.LOAD_STATE_FAILED, "DECOMPRESSED_TOO_LARGE")
    assert f"airports/{name}: the object grows beyond the limit when decompressed" in load.message


def test_bomb_of_bad_rows_is_not_read_to_its_end(stack: RunningStack) -> None:
    load = stack.upload("airports/bad.csv.gz", gzip_of(b"icao,name\n", 1) + gzip_of(b"\xff\n" * MIB, 256))
    assert (load.state, load.reason) == (ingest_pb2.LOAD_STATE_FAILED, "TOO_MANY_REJECTS")
    assert load.rows_read < 1_000_000
    assert "line 2, field icao: the text is not UTF-8 (utf8)" in load.message


@pytest.mark.parametrize("name", ["blank.csv.gz", "blank.tsv.gz", "blank.ndjson.gz"])
def test_bomb_of_blank_lines_is_no_rows(stack: RunningStack, name: str) -> None:
    header = {"csv": b"icao,name\n", "tsv": b"icao\tname\n", "ndjson": b""}[name.split(".")[1]]
    load = stack.upload(f"airports/{name}", gzip_of(header, 1) + gzip_of(b"\n" * MIB, 256))
    assert (load.state, load.rows_read) == (ingest_pb2.LOAD_STATE_SUCCEEDED, 0)


def pid_of(local: LocalStack, service: str) -> int:
    return local.services[f"{service.lower()}_service"].process.pid


CALLS = {"QUERY": "/aviation.v1.AirportService/ListAirports", "INGEST": "/penstock.ingest.v1.IngestService/ListLoads"}
PACKINGS = {"plain": grpc.Compression.NoCompression, "compressed": grpc.Compression.Gzip}


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize("packing", PACKINGS)
def test_request_of_100_mb_is_refused_and_costs_no_memory(
    stack: RunningStack, local: LocalStack, service: str, packing: str
) -> None:
    before = peak_bytes(pid_of(local, service))
    request = b"\x12\x80\x80\x80\x32" + bytes(100 * MIB)
    with stack.channel(service) as channel:
        call = channel.unary_unary(CALLS[service], None, None)
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=60, compression=PACKINGS[packing])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak_bytes(pid_of(local, service)) - before < 64 * MIB

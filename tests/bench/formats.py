"""The figures of each file format: rows a second from an object's bytes to binary COPY, without S3 and Postgres.

Two threads, as in the service; the same rows in every format, and as many of them must come out.
"""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import cramjam
import pyarrow as pa
import zstandard
from pyarrow import parquet

from ingest_service.decode import DecodeLimits, open_decoder, open_parquet
from ingest_service.pipeline import Reading, copy_stream, parquet_blocks, text_blocks
from shared.contract.model import Dataset
from tests.bench import files
from tests.bench.lab import Lab
from tests.bench.table import Figure, Target, rate
from tests.bench.timing import REPEATS, timed

MOST_ROWS = 200_000
_CHUNK_BYTES = 1024 * 1024
_THREADS = 2
_BLOCKS_AHEAD = 4


def _csv(rows: int) -> bytes:
    return files.csv_bytes(files.shuffled(rows))


def _tsv(rows: int) -> bytes:
    return _csv(rows).replace(b",", b"\t")


def _lines(rows: int) -> list[bytes]:
    return [json.dumps(files.json_row(number)).encode() for number in files.shuffled(rows)]


def _ndjson(rows: int) -> bytes:
    return b"\n".join(_lines(rows))


def _array(rows: int) -> bytes:
    return b"[" + b",\n".join(_lines(rows)) + b"]"


def _parquet(rows: int) -> bytes:
    table = pa.Table.from_pylist([files.json_row(number) for number in files.shuffled(rows)])
    whole = pa.BufferOutputStream()
    parquet.write_table(table, whole)
    return bytes(whole.getvalue())


# By the extensions of the object's name.
BODIES: Mapping[str, Callable[[int], bytes]] = {
    "csv": _csv,
    "tsv": _tsv,
    "ndjson": _ndjson,
    "json": _array,
    "parquet": _parquet,
    "ndjson.gz": lambda rows: gzip.compress(_ndjson(rows), 1),
    "ndjson.zst": lambda rows: zstandard.compress(_ndjson(rows)),
    "ndjson.sz": lambda rows: bytes(cramjam.snappy.compress(_ndjson(rows))),
    "ndjson.bz2": lambda rows: bz2.compress(_ndjson(rows)),
}


def reading(extension: str, lab: Lab) -> Figure:
    """How fast one format is read."""
    rows = min(lab.rows, MOST_ROWS)
    body = BODIES[extension](rows)
    dataset = lab.contracts.datasets["orders"]

    def once() -> None:
        lab.expect(asyncio.run(_read(dataset, extension, body)), (rows, 0), f"rows read and rejected of .{extension}")

    times = [timed(once) for _ in range(REPEATS)]
    return Figure(
        name=f"{rows:,} rows of .{extension}, {len(body) / 1e6:.0f} MB, to binary COPY in the process",
        ours=rate(rows, times, "rows/s"),
        value=rows / min(times),
        target=Target(),
    )


FIGURES: Mapping[str, Callable[[Lab], Figure]] = {
    f"read_{extension}": partial(reading, extension) for extension in BODIES
}


async def _read(dataset: Dataset, extension: str, body: bytes) -> tuple[int, int]:
    """Rows read and rejected."""
    seen = Reading()
    with ThreadPoolExecutor(_THREADS) as executor:
        async for _ in _stream(dataset, extension, body, seen, executor):
            pass
    return seen.rows_read, seen.rows_rejected


def _stream(
    dataset: Dataset, extension: str, body: bytes, seen: Reading, executor: ThreadPoolExecutor
) -> AsyncGenerator[bytes, None]:
    limits = DecodeLimits()
    copied = partial(copy_stream, reading=seen, executor=executor, blocks_ahead=_BLOCKS_AHEAD)
    if extension == "parquet":
        columns = open_parquet(dataset, limits)
        return copied(dataset, columns, parquet_blocks(columns, partial(_part, body), len(body), seen))
    decoder: Any = open_decoder(dataset, f"orders/0.{extension}", None, limits)
    return copied(dataset, decoder, text_blocks(decoder, _chunks(body), seen, executor, size_bytes=len(body)))


async def _part(body: bytes, begin: int, size_bytes: int) -> bytes:
    return body[begin : begin + size_bytes]


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    whole = io.BytesIO(body)
    while chunk := whole.read(_CHUNK_BYTES):
        yield chunk

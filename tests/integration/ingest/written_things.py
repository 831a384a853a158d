"""Things as files of every format, each a function of the things."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import orjson
import pyarrow as pa
from pyarrow import parquet

from tests.integration.merge.lab import Thing

Write: TypeAlias = "Callable[[Sequence[Thing]], bytes]"

COLUMNS = ("owner", "number", "label", "rank")


def separated(things: Sequence[Thing], delimiter: str = ",") -> bytes:
    writer = csv.writer(text := io.StringIO(), lineterminator="\n", delimiter=delimiter)
    writer.writerow(COLUMNS)
    writer.writerows([getattr(one, name) for name in COLUMNS] for one in things)
    return text.getvalue().encode()


def records(things: Sequence[Thing]) -> list[dict[str, Any]]:
    return [{name: asdict(one)[name] for name in COLUMNS} for one in things]


def ndjson(things: Sequence[Thing]) -> bytes:
    """With lines that are blank."""
    return b"\n".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in records(things))


def array(things: Sequence[Thing]) -> bytes:
    """All on one line, which therefore tells no row from another."""
    return orjson.dumps(records(things))


def as_parquet(things: Sequence[Thing]) -> bytes:
    columns = {name: [getattr(one, name) for one in things] for name in COLUMNS}
    parquet.write_table(pa.table(columns), written := io.BytesIO(), row_group_size=5)
    return written.getvalue()


FORMATS: dict[str, Write] = {
    "csv": separated,
    "csv.gz": lambda things: gzip.compress(separated(things)),
    "tsv": lambda things: separated(things, "\t"),
    "ndjson": ndjson,
    "json": array,
    "parquet": as_parquet,
}

"""CSV: what a CSV writer writes is read back; how the bytes arrive and which path a block takes changes nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.decode import DecodeLimits, open_decoder
from ingest_service.decode.splitter import CSV, NDJSON, TSV, RowFormat, Splitter
from shared.contract.model import ContractSet, Dataset

COLUMNS = ("icao", "name", "city", "elevation_ft")
texts = st.text(st.one_of(st.sampled_from('",\n\r \tab"'), st.characters(exclude_categories=["Cs"])), max_size=12)
texts = texts.map(lambda text: text.replace("\0", ""))
rows = st.lists(st.tuples(texts.filter(bool), texts, texts, st.floats().map(repr)), max_size=12)
sizes = st.integers(1, 50)


class Contracts:
    """The datasets, no dataclass: hypothesis prints those in full and warns that it did."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self.datasets = datasets


@pytest.fixture(scope="module")
def named(contracts: ContractSet) -> Contracts:
    """The repository's datasets by name."""
    return Contracts(contracts.datasets)


def decode(
    dataset: Dataset, key: str, data: bytes, *, chunk: int, block_bytes: int, row_by_row: bool = False
) -> dict[str, Any]:
    """Everything that decoding gives, without the cuts between blocks."""
    decoder = open_decoder(dataset, key, None, DecodeLimits(block_bytes=block_bytes))
    blocks = [block for start in range(0, len(data), chunk) for block in decoder.feed(data[start : start + chunk])]
    blocks += decoder.finish()
    done = [decoder.decode_block(block, row_by_row=row_by_row) for block in blocks]
    return {
        "rows": [row for part in done for row in part.batch.to_pylist()],
        "lines": [line for part in done for line in part.lines.to_pylist()],
        "raw": [part.raw(row) for part in done for row in range(part.batch.num_rows)],
        "rejects": [reject for part in done for reject in part.rejects],
        "read": sum(part.rows_read for part in done),
        "unreadable": sum(part.keys_unreadable for part in done),
        "keys": [key for part in done for key in part.rejected_keys.to_pylist()],
    }


@given(
    rows=rows,
    # Before Python 3.13 QUOTE_MINIMAL quotes only those line ends that the writer itself uses.
    dialect=st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), *((csv.QUOTE_ALL, end) for end in ("\n", "\r\n", "\r"))]),
    chunk=sizes,
    block_bytes=sizes,
)
def test_what_a_csv_writer_writes_is_read_back(
    named: Contracts, rows: list[Any], dialect: tuple[Any, str], chunk: int, block_bytes: int
) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written, quoting=dialect[0], lineterminator=dialect[1])
    writer.writerows([COLUMNS, *rows])
    data = written.getvalue().encode()
    got = decode(named.datasets["airports"], "a.csv", data, chunk=chunk, block_bytes=block_bytes)
    assert got["rejects"] == []
    read = [(row["icao"], row["name"] or "", row["city"] or "", repr(row["elevation_ft"])) for row in got["rows"]]
    assert read == rows
    ends = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
    assert all(1 < line <= ends for line in got["lines"])
    assert list(csv.reader([raw.decode() for raw in got["raw"] if b"\n" not in raw and b"\r" not in raw])) == [
        list(row) for row, raw in zip(rows, got["raw"], strict=True) if b"\n" not in raw and b"\r" not in raw
    ]


messy = st.text(st.sampled_from('"",,\n\r\tab1\0é'), max_size=60).map(str.encode)
broken = st.binary(max_size=4)


@given(body=st.tuples(messy, broken, messy).map(b"".join), chunk=sizes, block_bytes=sizes, key=st.sampled_from("ct"))
def test_chunks_blocks_and_paths_change_nothing(
    named: Contracts, body: bytes, chunk: int, block_bytes: int, key: str
) -> None:
    delimiter = b"," if key == "c" else b"\t"
    data = delimiter.join([b"icao", b"elevation_ft", b"name"]) + b"\n" + body
    dataset = named.datasets["airports"]
    whole = decode(dataset, f"a.{key}sv", data, chunk=len(data), block_bytes=len(data))
    for row_by_row in (False, True):
        pieces = decode(dataset, f"a.{key}sv", data, chunk=chunk, block_bytes=block_bytes, row_by_row=row_by_row)
        assert repr(pieces) == repr(whole)
    assert whole["read"] == len(whole["rows"]) + len(whole["rejects"])


cells = st.one_of(
    st.sampled_from(["", " ", '""', "1", " 7 ", "-1", "1e3", "x", "NaN", "true", "T", "2024-02-29", "2024-02-30"]),
    st.sampled_from(
        ["2024-01-01T00:00:00Z", "2024-01-01 10:11", "1.5s", "-0.000000001s", "_-8", "SHIPMENT_STATE_BOOKED"]
    ),
    st.sampled_from(["[]", '"[1,""2""]"', '"{""a"":1}"', "null", "{}", "99999999999999999999", "-0", "0x1F", "3.5e38"]),
    st.text("0123456789-+:.TZesxX ", max_size=8),
)


@given(table=st.lists(st.lists(cells, min_size=29, max_size=29), min_size=1, max_size=4))
def test_both_paths_take_the_same_cells_with_the_same_result(named: Contracts, table: list[list[str]]) -> None:
    dataset = named.datasets["shipments"]
    names = [field.name for field in dataset.message.fields]
    data = "\n".join(",".join(row) for row in [names, *table]).encode()
    fast, slow = (
        decode(dataset, "a.csv", data, chunk=len(data), block_bytes=1 << 20, row_by_row=row_by_row)
        for row_by_row in (False, True)
    )
    assert repr(fast) == repr(slow)


def split(row_format: RowFormat, data: bytes, limits: DecodeLimits, chunk: int) -> tuple[bytes, list[Any]]:
    """The rows with one kind of line end, and the rejects; checks the blocks' lines on the way."""
    splitter = Splitter(row_format, limits)
    blocks = [block for start in range(0, len(data), chunk) for block in splitter.feed(data[start : start + chunk])]
    blocks += splitter.finish()
    line = 1
    for block in blocks:
        assert block.first_line == line
        line += row_format.line_ends(block.data)
    rows = b"".join(block.data for block in blocks).replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n")
    return rows, [(reject.line, reject.rule, reject.raw) for block in blocks for reject in block.rejects]


@given(
    data=st.text(st.sampled_from('"",\n\rab'), max_size=60).map(str.encode),
    row_format=st.sampled_from([CSV, TSV, NDJSON]),
    block_bytes=st.sampled_from([1, 5, 1000]),
    max_row_bytes=st.sampled_from([3, 8, 1000]),
    chunk=sizes,
)
def test_rows_are_cut_the_same_however_the_bytes_arrive(
    data: bytes, row_format: RowFormat, block_bytes: int, max_row_bytes: int, chunk: int
) -> None:
    limits = DecodeLimits(block_bytes=block_bytes, max_row_bytes=max_row_bytes)
    cut: Callable[[int], Any] = lambda size: split(row_format, data, limits, size)  # noqa: E731
    assert cut(chunk) == cut(len(data) + 1)

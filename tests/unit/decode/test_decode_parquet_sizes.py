"""Parquet that declares more than can be held: refused with its size, before Arrow takes the memory for it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from ingest_service.decode import DecodeLimits, MalformedObject, open_parquet
from ingest_service.decode.page_headers import NoHeader, PagesSeen, read_page_header
from shared.contract.model import ContractSet
from shared.errors import Unavailable
from tests.unit.decode.test_decode_parquet import BytesFile, arrow_pool, shipments, written

MIB = 1024 * 1024
# Pages of one chunk each: as large as the writer lets them become.
ONE_PAGE: dict[str, Any] = {"data_page_size": 1 << 30, "max_rows_per_page": 1 << 30, "use_dictionary": False}


def refusal(contracts: ContractSet, data: bytes, most_bytes: int = 48 * MIB) -> MalformedObject:
    """What reading it ends with, while Arrow holds less than `most_bytes`."""
    decoder = open_parquet(contracts.datasets["shipments"], DecodeLimits())
    with arrow_pool() as pool, pytest.raises(MalformedObject) as caught:
        for _ in decoder.blocks(BytesFile(data)):
            pass
    assert pool.max_memory() < most_bytes
    return caught.value


def bombs(size_bytes: int, *parts: str) -> bytes:
    """A text, and these parts of an address, whose pages take so much decompressed and next to nothing in the file."""
    rows = size_bytes // 1000
    texts = pa.array(["x" * 996] * rows)
    address = {"sender": pa.StructArray.from_arrays([texts] * len(parts), names=parts)} if parts else {}
    data = written(shipments(rows, note=texts, **address), compression="zstd", **ONE_PAGE)
    assert len(data) < MIB
    return data


def test_page_that_decompresses_to_more_than_is_held_is_refused_with_its_size(contracts: ContractSet) -> None:
    found = refusal(contracts, bombs(80 * MIB))
    assert found.reason == "PARQUET_TOO_LARGE"
    assert "it may take 67108864: write the file with smaller pages" in found.message


def test_pages_of_many_columns_that_are_held_at_once_count_together(contracts: ContractSet) -> None:
    found = refusal(contracts, bombs(50 * MIB, "city", "country"), most_bytes=300 * MIB)
    assert found.reason == "PARQUET_TOO_LARGE"
    assert "one of each" in found.message


def test_dictionary_too_large_to_be_held_is_refused_with_its_size(contracts: ContractSet) -> None:
    texts = pa.DictionaryArray.from_arrays(
        pa.array(range(90), pa.int32()), [f"{number:06}" + "x" * 999_994 for number in range(90)]
    )
    data = written(shipments(90, note=texts), dictionary_pagesize_limit=1 << 30, compression="zstd", store_schema=False)
    found = refusal(contracts, data)
    assert (found.reason, "90000360 bytes" in found.message) == ("PARQUET_TOO_LARGE", True)


def test_page_that_fits_is_read(contracts: ContractSet) -> None:
    decoder = open_parquet(contracts.datasets["shipments"], DecodeLimits())
    blocks = decoder.blocks(BytesFile(bombs(50 * MIB)))
    assert sum(block.batch.num_rows for block in blocks) == 50 * MIB // 1000


def test_error_of_the_source_is_raised_as_it_is_and_never_laid_to_the_file(contracts: ContractSet) -> None:
    data = written(shipments(20_000))

    class Failing(BytesFile):
        """Ends like a connection once that much was read."""

        def __init__(self, after_bytes: int, error: Exception) -> None:
            super().__init__(data)
            self._after_bytes = after_bytes
            self._error = error

        def read(self, size: int | None = -1) -> bytes:
            if self.bytes_read > self._after_bytes:
                raise self._error
            return super().read(size)

    decoder = open_parquet(contracts.datasets["shipments"], DecodeLimits())
    for error in (OSError("reset by peer"), Unavailable("S3 is away", reason="S3_UNAVAILABLE")):
        for after_bytes in (8, len(data) // 3, len(data) * 4 // 5):
            with pytest.raises(type(error)) as caught:
                list(decoder.blocks(Failing(after_bytes, error)))
            assert caught.value is error


def chunk_of(data: bytes) -> tuple[int, int]:
    column = pa.parquet.read_metadata(BytesFile(data)).row_group(0).column(0)
    begin = column.dictionary_page_offset or column.data_page_offset
    return begin, begin + column.total_compressed_size


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
def test_pages_are_seen_in_pieces_of_any_size(version: str, step: int) -> None:
    texts = pa.array([f"{number:08}" for number in range(20_000)])
    data = written(pa.table({"a": texts}), data_page_version=version, data_page_size=10_000, write_batch_size=100)
    begin, end = chunk_of(data)
    seen = PagesSeen(begin, end)
    for at in range(begin, end, step):
        seen.see(max(begin, at - 3), data[max(begin, at - 3) : min(end, at + step)])
    assert 10_000 <= seen.largest_bytes < 300_000
    one = PagesSeen(begin, end)
    one.see(begin, data[begin:end])
    assert one.largest_bytes == seen.largest_bytes


@pytest.mark.parametrize(
    "data", [b"\x00", b"\x1c" * 100, b"\x19\x00\x00", b"\x15" + b"\xff" * 12, b"\x15\x00\x15\x01\x15\x02\x00"]
)
def test_what_is_no_page_header_is_told_from_one_that_is_cut_off(data: bytes) -> None:
    with pytest.raises(NoHeader):
        read_page_header(data)
    assert read_page_header(b"\x15\x00\x15\x02") is None


def test_row_group_far_larger_than_what_is_held_is_streamed_by_pages(contracts: ContractSet) -> None:
    rows = 200_000
    texts = pa.array([f"{number:0300}" for number in range(rows)])
    data = written(shipments(rows, note=texts), row_group_size=rows, use_dictionary=False, compression="none")
    assert len(data) > 60 * MIB
    decoder = open_parquet(contracts.datasets["shipments"], DecodeLimits())
    with arrow_pool() as pool:
        assert sum(block.batch.num_rows for block in decoder.blocks(BytesFile(data))) == rows
    assert pool.max_memory() < 24 * MIB

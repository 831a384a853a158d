"""How a row group of Parquet is read so that no batch of its rows becomes large, whatever its values share.

Looks at the metadata and, where they do not tell, at the dictionary; must never rely on what a chunk's values may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ingest_service.decode.model import DecodeLimits

# What is fetched of each column at once, within these bounds; READ_BYTES for all of them.
READ_BYTES = 32 * 1024 * 1024
LEAST_STEP_BYTES, MOST_STEP_BYTES = 64 * 1024, 1024 * 1024
# Many columns make a batch slow: it is read in so many rows at least, if they cannot take more than BATCH_BYTES.
LEAST_ROWS = 64
BATCH_BYTES = 32 * 1024 * 1024
DENSE_VALUE_BYTES = 8
LENGTH_BYTES = 4  # before each value of a dictionary
# An empty list shows nothing of the dictionary, other values do, even null ones.
LOOK_ROWS, LOOK_LISTS = 1, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """Rows of a batch, and the paths of the columns whose dictionaries are kept instead of spelled out."""

    batch_rows: int
    dictionaries: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dictionary:
    """What a chunk's dictionary takes in the file before compression, and the longest value in it."""

    size_bytes: int
    longest_bytes: int


def open_group(file: Any, metadata: Any, dictionaries: Sequence[str]) -> parquet.ParquetFile:
    """The file, with these columns as dictionaries."""
    return parquet.ParquetFile(
        file,
        metadata=metadata,
        pre_buffer=False,
        buffer_size=LEAST_STEP_BYTES,
        read_dictionary=list(dictionaries),
        coerce_int96_timestamp_unit="us",  # as nanoseconds, years before 1678 and after 2261 would wrap around
        arrow_extensions_enabled=False,
    )


def step_bytes(leaves: Sequence[int]) -> int:
    """In which steps each of so many columns is fetched."""
    return max(LEAST_STEP_BYTES, min(MOST_STEP_BYTES, READ_BYTES // len(leaves)))


def range_of(column: Any) -> tuple[int, int]:
    """Where the chunk's bytes are in the file: (begin, end)."""
    begin = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        begin = min(begin, column.dictionary_page_offset)
    return begin, begin + column.total_compressed_size


def plan_group(file: Any, metadata: Any, number: int, leaves: Sequence[int], limits: DecodeLimits) -> GroupPlan:
    """How to read the group's `leaves`: rows that make about a block by the size that they have in the file before
    compression, fewer where they could become more than BATCH_BYTES when Arrow spells out their dictionaries.

    A column of hardly more than an index a value is read as a dictionary: a value that a million rows share is held
    once. Columns of mostly distinct values must not be: 3 M rows in one group took ten times the time and 5.7 GiB.
    """
    group = metadata.row_group(number)
    size_bytes = worst_bytes = 0
    dictionaries = []
    for leaf in leaves:
        chunk, column = group.column(leaf), metadata.schema.column(leaf)
        longest_bytes = _longest_spelled(file, metadata, number, leaf)
        if longest_bytes is None:
            dictionaries.append(column.path)
        value_bytes = max(DENSE_VALUE_BYTES, column.length, longest_bytes or 0)
        size_bytes += chunk.total_uncompressed_size
        worst_bytes += max(chunk.total_uncompressed_size, chunk.num_values * value_bytes)
    rows = limits.block_bytes * group.num_rows // max(1, size_bytes)
    most_rows = BATCH_BYTES * group.num_rows // max(1, worst_bytes)
    batch_rows = max(1, min(max(LEAST_ROWS, rows), limits.block_rows, most_rows))
    return GroupPlan(batch_rows=batch_rows, dictionaries=tuple(dictionaries))


def _longest_spelled(file: Any, metadata: Any, number: int, leaf: int) -> int | None:
    """The longest value that Arrow would spell out for rows that share it; None: it is to be read as a dictionary."""
    chunk, column = metadata.row_group(number).column(leaf), metadata.schema.column(leaf)
    if not _has_shared_texts(chunk, column):
        return 0
    dense_bytes = DENSE_VALUE_BYTES * chunk.num_values
    if chunk.total_uncompressed_size <= dense_bytes:
        return None
    found = _dictionary(file, metadata, number, leaf)
    return None if chunk.total_uncompressed_size - found.size_bytes <= dense_bytes else found.longest_bytes


def _has_shared_texts(chunk: Any, column: Any) -> bool:
    """Whether it holds values of any length by way of a dictionary; old writers do not say where theirs begins."""
    if column.physical_type != "BYTE_ARRAY" or column.logical_type.type == "DECIMAL":
        return False
    return bool(chunk.has_dictionary_page) or any("DICTIONARY" in encoding for encoding in chunk.encodings)


def _dictionary(file: Any, metadata: Any, number: int, leaf: int) -> _Dictionary:
    """The chunk's dictionary, from the first rows that have a value.

    Where a chunk does not begin with it, as all known writers do, a value may be as large as a batch.
    """
    column = metadata.schema.column(leaf)
    file.expect([range_of(metadata.row_group(number).column(leaf))], LEAST_STEP_BYTES)
    reader = open_group(file, metadata, [column.path])
    rows = LOOK_LISTS if column.max_repetition_level else LOOK_ROWS
    for batch in reader.iter_batches(rows, row_groups=[number], columns=[column.path], use_threads=False):
        values = _innermost(batch.column(0))
        if len(values.dictionary):
            lengths = pc.binary_length(values.dictionary).cast(pa.int64())
            whole = len(lengths) > len(values)
            return _Dictionary(
                size_bytes=pc.sum(lengths).as_py() + LENGTH_BYTES * len(lengths),
                longest_bytes=pc.max(lengths).as_py() if whole else BATCH_BYTES,
            )
    return _Dictionary(size_bytes=0, longest_bytes=0)


def _innermost(array: pa.Array) -> pa.DictionaryArray:
    """The values of an array that was read of one leaf."""
    while not pa.types.is_dictionary(array.type):
        array = array.field(0) if pa.types.is_struct(array.type) else array.values
    return array


def pieces(batch: pa.RecordBatch, limit_bytes: int) -> Iterator[pa.RecordBatch]:
    """The batch in parts of at most `limit_bytes` with its dictionaries spelled out, or of one row."""
    if batch.num_rows <= 1 or _spelled_bytes(batch) <= limit_bytes:
        yield batch
        return
    half = batch.num_rows // 2
    yield from pieces(batch.slice(0, half), limit_bytes)
    yield from pieces(batch.slice(half), limit_bytes)


def _spelled_bytes(batch: pa.RecordBatch) -> int:
    return sum(_array_bytes(column) for column in batch.columns)


def _array_bytes(array: pa.Array) -> int:
    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(_array_bytes(child) for child in array.flatten())
    if pa.types.is_map(kind):
        array = array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    if isinstance(array, (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)):
        return _array_bytes(array.flatten())
    return int(array.nbytes)

"""Parquet: row group by row group, only the columns that feed fields, in batches of bounded size.

Reads through a file-like object in whatever thread iterates; never knows where the bytes come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pyarrow import parquet

from ingest_service.decode.header import Layout, read_header
from ingest_service.decode.model import ColumnResult, DecodedBlock, MalformedObject
from ingest_service.decode.protojson import names_of, plain_message
from ingest_service.decode.record import Record, RecordField, RowSource, assemble, bounded_names
from ingest_service.decode.typed_columns import typed_column
from ingest_service.rejects import RAW_LIMIT_BYTES
from shared.contract.fields import is_map

MAGIC = b"PAR1"
ENCRYPTED_MAGIC = b"PARE"
TAIL_BYTES = 8
# What is fetched of each column at once, within these bounds; READ_BYTES for all of them.
READ_BYTES = 32 * 1024 * 1024
LEAST_STEP_BYTES, MOST_STEP_BYTES = 64 * 1024, 1024 * 1024
# A value may be large: a batch is first read in so many rows at least, and cut when it turns out too large.
LEAST_ROWS = 64
DENSE_VALUE_BYTES = 8
# Rejects beyond so many of a batch are never kept: their rows need no text.
SHOWN_ROWS = 2000


class RandomAccess(Protocol):
    """A readable, seekable file of known size."""

    size_bytes: int

    def expect(self, ranges: Sequence[tuple[int, int]], step_bytes: int) -> None:
        """These ranges (begin, end) are read next, each from its beginning and in steps of `step_bytes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Rows of a file as Arrow read them; `first_row` is the number of the first one in the file, from 1."""

    first_row: int
    batch: pa.RecordBatch


class ParquetDecoder:
    """Decodes one file. `blocks` is to be iterated in one thread, `decode_block` is safe in any. Both raise
    MalformedObject: CORRUPT_PARQUET, ENCRYPTED_PARQUET, and those of a header. A row's line is its number.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._layout = Layout(names=(), indexes={}, unknown=frozenset())

    def blocks(self, file: Any) -> Iterator[RowBatch]:
        """The file's rows, in order. `file` is a RandomAccess that Arrow can read."""
        if not file.size_bytes:
            return
        _check_tail(file)
        try:
            yield from self._row_groups(file)
        except (pa.ArrowException, OSError) as exc:
            reason = f"the Parquet file cannot be read: {exc}".splitlines()[0]
            raise MalformedObject(reason, reason="CORRUPT_PARQUET") from exc

    def _row_groups(self, file: Any) -> Iterator[RowBatch]:
        metadata = parquet.read_metadata(file)
        schema = metadata.schema.to_arrow_schema()
        layout = read_header([name.encode() for name in schema.names], self._record)
        unknown = layout.unknown | _unknown_children(self._record.fields, schema, layout)
        self._layout = Layout(
            names=layout.names, indexes=layout.indexes, unknown=bounded_names({*unknown}, self._record.limits)
        )
        wanted = [schema.names[index] for index in sorted(layout.indexes.values())]
        leaves = _leaves(metadata, wanted)
        step_bytes = max(LEAST_STEP_BYTES, min(MOST_STEP_BYTES, READ_BYTES // len(leaves)))
        reader = parquet.ParquetFile(
            file,
            metadata=metadata,
            pre_buffer=False,
            buffer_size=LEAST_STEP_BYTES,
            read_dictionary=_dictionaries(metadata, leaves),
            coerce_int96_timestamp_unit="us",  # as nanoseconds, years before 1678 and after 2261 would wrap around
            arrow_extensions_enabled=False,
        )
        first_row = 1
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if not group.num_rows:
                continue
            file.expect([_range_of(group.column(leaf)) for leaf in leaves], step_bytes)
            rows = self._batch_rows(group, leaves)
            batches = reader.iter_batches(rows, row_groups=[number], columns=wanted, use_threads=False)
            for batch in batches:
                for piece in _pieces(batch, 4 * self._record.limits.block_bytes):
                    yield RowBatch(first_row=first_row, batch=piece)
                    first_row += piece.num_rows

    def _batch_rows(self, group: Any, leaves: Sequence[int]) -> int:
        """How many rows make about a block, told by the size that they have in the file before compression."""
        size_bytes = sum(group.column(leaf).total_uncompressed_size for leaf in leaves)
        row_bytes: int = max(1, size_bytes // max(1, group.num_rows))
        limits = self._record.limits
        return max(LEAST_ROWS, min(limits.block_rows, limits.block_bytes // row_bytes))

    def decode_block(self, block: RowBatch) -> DecodedBlock:
        """The rows in canonical form."""
        batch = block.batch
        columns = [self._column(field, batch) for field in self._record.fields]
        lines = pa.arange(block.first_row, block.first_row + batch.num_rows)
        source = RowSource(lines=lines, raw_at=_Shown(block))
        return assemble(self._record, columns, source, [], self._layout.unknown)

    def _column(self, field: RecordField, batch: pa.RecordBatch) -> ColumnResult:
        index = self._layout.indexes.get(field.name)
        if index is None:
            return ColumnResult(values=pa.nulls(batch.num_rows, field.arrow_type), errors={})
        done = typed_column(field.descriptor, batch.column(self._layout.names[index]))
        if not done.errors:
            return done
        kept = [None if row in done.errors else row for row in range(batch.num_rows)]
        return ColumnResult(values=done.values.take(pa.array(kept, pa.int64())), errors=done.errors)


def _check_tail(file: Any) -> None:
    file.seek(max(0, file.size_bytes - TAIL_BYTES))
    tail = file.read(TAIL_BYTES)
    if tail.endswith(ENCRYPTED_MAGIC):
        message = "the Parquet file is encrypted; write it without encryption, the bucket can encrypt it at rest"
        raise MalformedObject(message, reason="ENCRYPTED_PARQUET")
    if not tail.endswith(MAGIC):
        message = "the object does not end as Parquet does: it is cut off, another format, or compressed once more"
        raise MalformedObject(message, reason="CORRUPT_PARQUET")


def _leaves(metadata: Any, wanted: Sequence[str]) -> list[int]:
    """The places of the columns within row groups that the wanted top-level columns consist of."""
    columns = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    return [
        place
        for place, path in enumerate(columns)
        if any(path == name or path.startswith(f"{name}.") for name in wanted)
    ]


def _dictionaries(metadata: Any, leaves: Sequence[int]) -> list[str]:
    """The byte columns that somewhere take hardly more than an index a value.

    Read so, a value that a million rows share is held once: a few bytes of file cannot become gigabytes before anybody
    can look. Columns of mostly distinct values must not be: 3 M rows in one group took ten times the time and 5.7 GiB.
    """
    found = []
    for leaf in leaves:
        column = metadata.schema.column(leaf)
        groups = (metadata.row_group(number).column(leaf) for number in range(metadata.num_row_groups))
        if column.physical_type == "BYTE_ARRAY" and any(map(_is_dense, groups)):
            found.append(column.path)
    return found


def _is_dense(chunk: Any) -> bool:
    size_bytes: int = chunk.total_uncompressed_size
    return bool(chunk.has_dictionary_page) and size_bytes <= DENSE_VALUE_BYTES * chunk.num_values


def _range_of(column: Any) -> tuple[int, int]:
    begin = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        begin = min(begin, column.dictionary_page_offset)
    return begin, begin + column.total_compressed_size


def _pieces(batch: pa.RecordBatch, limit_bytes: int) -> Iterator[pa.RecordBatch]:
    """The batch in parts of at most `limit_bytes` with its dictionaries spelled out, or of one row."""
    if batch.num_rows <= 1 or _spelled_bytes(batch) <= limit_bytes:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half), limit_bytes)
    yield from _pieces(batch.slice(half), limit_bytes)


def _spelled_bytes(batch: pa.RecordBatch) -> int:
    return sum(_array_bytes(column) for column in batch.columns)


def _array_bytes(array: pa.Array) -> int:
    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary).take(array.indices)
        return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)
    if pa.types.is_struct(array.type):
        return sum(_array_bytes(child) for child in array.flatten())
    if pa.types.is_list(array.type):
        return _array_bytes(array.flatten())
    return int(array.nbytes)


def _unknown_children(fields: Sequence[RecordField], schema: pa.Schema, layout: Layout) -> set[str]:
    """The dotted names of nested columns that no field goes by."""
    found: set[str] = set()
    for field in fields:
        index = layout.indexes.get(field.name)
        if index is not None:
            found |= _unknown_below(field.descriptor, schema.field(index).type, layout.names[index])
    return found


def _unknown_below(field: FieldDescriptor, kind: pa.DataType, name: str) -> set[str]:
    message = plain_message(field)
    kind = _entries_type(kind, many=is_map(field)) if field.is_repeated else kind
    if message is None or not pa.types.is_struct(kind):
        return set()
    return _unknown_names(message, kind, name)


def _entries_type(kind: pa.DataType, *, many: bool) -> pa.DataType:
    if pa.types.is_map(kind):
        return kind.item_type
    if not hasattr(kind, "value_type"):
        return kind
    element = kind.value_type
    return (
        element.field("value").type if many and pa.types.is_struct(element) and "value" in _names(element) else element
    )


def _names(kind: pa.StructType) -> list[str]:
    return [child.name for child in kind]


def _unknown_names(message: Descriptor, kind: pa.StructType, prefix: str) -> set[str]:
    known = names_of(message)
    found: set[str] = set()
    for child in kind:
        path = f"{prefix}.{child.name}"
        found |= _unknown_below(known[child.name], child.type, path) if child.name in known else {path}
    return found


class _Shown:
    """A row as JSON, for rejects: Parquet has no text of it."""

    def __init__(self, block: RowBatch) -> None:
        self._block = block
        self._left = SHOWN_ROWS

    def __call__(self, line: int) -> bytes:
        if self._left <= 0:
            return b""
        self._left -= 1
        row = line - self._block.first_row
        values = {name: _shown_value(self._block.batch.column(name)[row]) for name in self._block.batch.schema.names}
        return _json(values)[:RAW_LIMIT_BYTES]


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)


def _shown_value(value: pa.Scalar) -> Any:
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    if isinstance(value, pa.BinaryScalar):  # texts too, which need not be UTF-8
        return value.as_buffer().to_pybytes()[:RAW_LIMIT_BYTES].decode(errors="replace") if value.is_valid else None
    try:
        plain = value.as_py()
        _json(plain)
    except (ValueError, TypeError, OverflowError):  # nanoseconds and years that Python cannot hold
        return f"<{value.type}>"
    return plain

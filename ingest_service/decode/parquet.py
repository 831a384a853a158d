"""Parquet: row group by row group, only the columns that feed fields, in batches of bounded size.

Reads through a file-like object in whatever thread iterates; never knows where the bytes come from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pyarrow import parquet

from ingest_service.decode.guarded_file import GuardedFile, RandomAccess
from ingest_service.decode.header import Layout, read_header
from ingest_service.decode.model import ColumnResult, DecodedBlock, MalformedObject
from ingest_service.decode.protojson import names_of, plain_message
from ingest_service.decode.record import Record, RecordField, RowSource, assemble, bounded_names
from ingest_service.decode.row_groups import open_group, pieces, plan_group, range_of, step_bytes
from ingest_service.decode.typed_columns import typed_column
from ingest_service.rejects import RAW_LIMIT_BYTES
from shared.contract.fields import is_map

MAGIC = b"PAR1"
ENCRYPTED_MAGIC = b"PARE"
TAIL_BYTES = 8
# A footer is read at once, and takes nine times its size in memory (500 columns in 200 row groups: 11 and 97 MiB).
MAX_FOOTER_BYTES = 16 * 1024 * 1024
# Rejects beyond so many of a batch are never kept: their rows need no text.
SHOWN_ROWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Rows of a file as Arrow read them; `first_row` is the number of the first one in the file, from 1."""

    first_row: int
    batch: pa.RecordBatch


class ParquetDecoder:
    """Decodes one file. `blocks` is to be iterated in one thread, `decode_block` is safe in any. Both raise
    MalformedObject: CORRUPT_PARQUET, PARQUET_TOO_LARGE, ENCRYPTED_PARQUET, and those of a header. A row's line is its
    number.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._layout = Layout(names=(), indexes={}, unknown=frozenset())

    def blocks(self, file: RandomAccess) -> Iterator[RowBatch]:
        """The file's rows, in order. `file` is one that Python can read too; what that raises is raised as it is."""
        if not file.size_bytes:
            return
        guarded = GuardedFile(file)
        _check_tail(guarded)
        try:
            yield from self._row_groups(guarded)
        except MemoryError:  # Arrow's too, which is an ArrowException: nothing is wrong with the file
            raise
        except (pa.ArrowException, OSError) as exc:
            if guarded.failure is not None:
                raise guarded.failure from exc
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
        limits = self._record.limits
        first_row = 1
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if not group.num_rows:
                continue
            plan = plan_group(file, metadata, number, leaves, limits)
            file.expect([range_of(group.column(leaf)) for leaf in leaves], step_bytes(leaves))
            reader = open_group(file, metadata, plan.dictionaries)
            for batch in reader.iter_batches(plan.batch_rows, row_groups=[number], columns=wanted, use_threads=False):
                for piece in pieces(batch, 4 * limits.block_bytes):
                    yield RowBatch(first_row=first_row, batch=piece)
                    first_row += piece.num_rows

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
    footer_bytes = int.from_bytes(tail[:4], "little")
    if footer_bytes > file.size_bytes - TAIL_BYTES - len(MAGIC):
        message = f"the Parquet footer of {footer_bytes} bytes is longer than the file: it is cut off or damaged"
        raise MalformedObject(message, reason="CORRUPT_PARQUET")
    if footer_bytes > MAX_FOOTER_BYTES:
        message = f"the Parquet footer takes {footer_bytes} bytes, it may take {MAX_FOOTER_BYTES}"
        raise MalformedObject(f"{message}: write the file in fewer row groups or columns", reason="PARQUET_TOO_LARGE")


def _leaves(metadata: Any, wanted: Sequence[str]) -> list[int]:
    """The places of the columns within row groups that the wanted top-level columns consist of."""
    columns = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    return [
        place
        for place, path in enumerate(columns)
        if any(path == name or path.startswith(f"{name}.") for name in wanted)
    ]


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

"""What decoding must know of a dataset's fields, built once per object; how decoded columns become a DecodedBlock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import FieldDescriptor

from ingest_service.arrow_schema import by_number, field_type, record_schema
from ingest_service.decode.model import BadValue, ColumnResult, DecodedBlock, DecodeLimits
from ingest_service.decode.protojson import Converter, field_converter, real_oneofs, two_members
from ingest_service.rejects import Reject
from shared.contract.fields import is_wrapper, kind_of
from shared.contract.model import Dataset, Kind

LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordField:
    """One top-level field. `kind` is None for nested, repeated and map fields, `convert` takes its JSON value."""

    descriptor: FieldDescriptor
    name: str
    sources: tuple[str, ...]
    kind: Kind | None
    wrapper: bool
    is_key: bool
    arrow_type: pa.DataType
    convert: Converter


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Record:
    """The dataset's record: its fields in field-number order, its key, its canonical schema."""

    fields: tuple[RecordField, ...]
    key: tuple[str, ...]
    schema: pa.Schema
    oneofs: tuple[tuple[str, ...], ...]
    limits: DecodeLimits

    def known(self) -> dict[str, FieldDescriptor]:
        """The fields by every name that a file may carry them under."""
        return {name: field.descriptor for field in self.fields for name in field.sources}


def record_of(dataset: Dataset, limits: DecodeLimits) -> Record:
    """The record of a dataset."""
    return Record(
        fields=tuple(_field(dataset, field) for field in by_number(dataset.message)),
        key=dataset.key,
        schema=record_schema(dataset.message),
        oneofs=tuple(real_oneofs(dataset.message)),
        limits=limits,
    )


def _field(dataset: Dataset, field: FieldDescriptor) -> RecordField:
    return RecordField(
        descriptor=field,
        name=field.name,
        sources=tuple(dataset.sources[field.name]),
        kind=None if field.is_repeated else kind_of(field),
        wrapper=is_wrapper(field),
        is_key=field.name in dataset.key,
        arrow_type=field_type(field),
        convert=field_converter(field, top_level=True),
    )


def convert_values(values: Sequence[Any], convert: Callable[[Any], Any], arrow_type: pa.DataType) -> ColumnResult:
    """The row-wise path of one field: each value that is not None through `convert`, failures by row."""
    errors: dict[int, BadValue] = {}
    done: list[Any] = []
    for row, value in enumerate(values):
        try:
            done.append(None if value is None else convert(value))
        except BadValue as bad:
            errors[row] = bad
            done.append(None)
    return ColumnResult(values=pa.array(done, arrow_type), errors=errors)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """Where the rows of a block stand: the line of each row that was read into columns, and a line's raw bytes."""

    lines: pa.Int64Array
    raw_at: Callable[[int], bytes]


def assemble(
    record: Record,
    columns: Sequence[ColumnResult],
    source: RowSource,
    structural: Sequence[Reject],
    unknown: frozenset[str],
) -> DecodedBlock:
    """Good rows apart from rejected ones. `structural` rejects are rows that never came into columns."""
    batch = pa.RecordBatch.from_arrays([column.values for column in columns], schema=record.schema)
    errors = _row_errors(record, columns, batch)
    lines, keys, unreadable = source.lines, batch.select(list(record.key)).slice(0, 0), 0
    rejects = list(structural)
    if errors:
        kept = pa.array([row not in errors for row in range(batch.num_rows)])
        rejects += [_reject(bad, lines[row].as_py(), source) for row, bad in errors.items()]
        keys, unreadable = _rejected_keys(record, batch, kept)
        batch, lines = batch.filter(kept), lines.filter(kept)
    rejects.sort(key=lambda reject: reject.line)
    return DecodedBlock(
        batch=batch,
        lines=lines,
        order=lines,
        raw=lambda row: source.raw_at(lines[row].as_py()),
        rejects=rejects,
        rows_read=batch.num_rows + len(rejects),
        unknown_columns=unknown,
        rejected_keys=keys,
        keys_unreadable=len(structural) + unreadable,
    )


def _row_errors(record: Record, columns: Sequence[ColumnResult], batch: pa.RecordBatch) -> dict[int, BadValue]:
    """The first error of each bad row, in field-number order."""
    errors: dict[int, BadValue] = {}
    for field, column in zip(record.fields, columns, strict=True):
        for row, bad in column.errors.items():
            errors.setdefault(row, bad.inside(field.name))
        if field.is_key and column.values.null_count > len(column.errors):
            for row in _rows_where(column.values.is_null()):
                errors.setdefault(row, _missing_key(field.name))
    for oneof in record.oneofs:
        valid = [batch.column(name).is_valid().cast(pa.int8()) for name in oneof]
        count = valid[0]
        for more in valid[1:]:
            count = pc.add(count, more)
        for row in _rows_where(pc.greater(count, 1)):
            errors.setdefault(row, two_members([name for name in oneof if batch.column(name)[row].is_valid]))
    return errors


def _missing_key(name: str) -> BadValue:
    # ProtoJSON leaves default values out, yet a row without its key is far more often broken than meant: the default of
    # a key field must be written out (0, "").
    return BadValue("key.missing", "the key field has no value; write its default out if that is meant", name)


def _rows_where(mask: pa.BooleanArray) -> list[int]:
    rows: list[int] = pc.indices_nonzero(mask).to_pylist()
    return rows


def _reject(bad: BadValue, line: int, source: RowSource) -> Reject:
    return Reject(line=line, field=bad.path, rule=bad.rule, message=bad.message, raw=source.raw_at(line))


def _rejected_keys(record: Record, batch: pa.RecordBatch, kept: pa.BooleanArray) -> tuple[pa.RecordBatch, int]:
    """The readable keys of the rejected rows, and how many are not."""
    rejected = batch.select(list(record.key)).filter(pc.invert(kept))
    readable = rejected.column(0).is_valid()
    for column in rejected.columns[1:]:
        readable = pc.and_(readable, column.is_valid())
    keys = rejected.filter(readable)
    return keys, rejected.num_rows - keys.num_rows


def bounded_names(names: Mapping[str, Any] | set[str], limits: DecodeLimits) -> frozenset[str]:
    """Names for the ledger, cut to a bounded number and length."""
    return frozenset(name[:LONGEST_NAME] for name in sorted(names)[: limits.max_unknown_columns])

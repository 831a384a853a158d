"""One block of NDJSON to columns: Arrow reads it by a plan made from a sample; fields without a plan, and blocks that
Arrow refuses, are read from parsed objects. Never takes part in cutting rows."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json

from ingest_service.decode.json_rows import JsonRows
from ingest_service.decode.json_types import NotPlain, named_column, plan
from ingest_service.decode.model import Block, ColumnResult, DecodedBlock
from ingest_service.decode.protojson import first_present, unknown_keys
from ingest_service.decode.record import Record, RecordField, RowSource, assemble, bounded_names, convert_values

# Arrow reads -0 as the double -0.0, orjson as the integer 0. The suspicion is cheap, as it begins with fixed bytes.
MAYBE_NEGATIVE_ZERO = re.compile(rb"-0[,}\]\s]")
NEGATIVE_ZERO = re.compile(rb"[:\[,\s]-0[,}\]\s]")
# The type to read each name of a field with; empty where the field is read from parsed objects.
Plan = Mapping[str, pa.DataType]


class NdjsonReader:
    """Decodes the blocks of one object. Without state: blocks may be decoded in parallel."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._known = record.known()

    def decode(self, block: Block, *, row_by_row: bool = False) -> DecodedBlock:
        """The block's rows; with `row_by_row` no field takes the columnar path (tests compare the two)."""
        rows = JsonRows(block, self._known)
        decoded = None if row_by_row else self._read(rows)
        if decoded is None:
            objects = rows.objects()
            columns = [_from_objects(field, objects) for field in self._record.fields]
            decoded = columns, unknown_keys(objects, self._known)
        columns, unknown = decoded
        source = RowSource(lines=rows.lines, raw_at=rows.raw_at)
        return assemble(self._record, columns, source, rows.rejects, bounded_names(unknown, self._record.limits))

    def _read(self, rows: JsonRows) -> tuple[list[ColumnResult], set[str]] | None:
        """The columnar path; None where Arrow refuses the block or might read a row otherwise than ProtoJSON."""
        # A null for the first row is a segmentation fault in Arrow (26.0.1), and a row of nulls further down.
        if not rows.data or not rows.maybe_objects or _needs_care(rows.data):
            return None
        sample = rows.sample()
        plans = {field.name: _plan(field, sample) for field in self._record.fields}
        schema = pa.schema([pa.field(name, kind) for named in plans.values() for name, kind in named.items()])
        strict = all(plans.values()) and not unknown_keys(sample, self._known)
        table = _parse(rows, schema, strict=True) if strict else None
        if table is not None:
            return self._columns(rows, table, plans, set())
        # Names that Arrow does not know, or fields that it cannot read: those come from the parsed rows, in one pass.
        unknown = unknown_keys(rows.objects(), self._known)
        if strict and not unknown:
            return None
        table = _parse(rows, schema, strict=False)
        return self._columns(rows, table, plans, unknown) if table is not None else None

    def _columns(
        self, rows: JsonRows, table: pa.Table, plans: Mapping[str, Plan], unknown: set[str]
    ) -> tuple[list[ColumnResult], set[str]] | None:
        read = {name: pa.concat_arrays(table.column(name).chunks) for name in table.column_names}
        columns: list[ColumnResult] = []
        for field in self._record.fields:
            column = _from_arrow(field, read) if plans[field.name] else None
            if column is None:
                column = _from_objects(field, rows.objects())
            columns.append(column)
        # A row that only Arrow could read (a bare NaN) has left `rows`, which then fit these columns no more.
        return (columns, unknown) if len(rows.lines) == table.num_rows else None


class ArrayReader:
    """Decodes blocks of array elements: NDJSON but for the lines where rows begin."""

    def __init__(self, record: Record) -> None:
        self._rows = NdjsonReader(record)

    def decode(self, block: Block, *, row_by_row: bool = False) -> DecodedBlock:
        """The block's rows."""
        decoded, lines, first = self._rows.decode(block, row_by_row=row_by_row), block.lines, block.first_line
        assert lines is not None
        return dataclasses.replace(
            decoded,
            lines=pa.array(lines, pa.int64()).take(pc.subtract(decoded.order, first)),
            rejects=[dataclasses.replace(reject, line=lines[reject.line - first]) for reject in decoded.rejects],
        )


def _needs_care(data: bytes) -> bool:
    """Whether the texts hold what Arrow and ProtoJSON, or Arrow and Postgres, see differently: -0 and NUL."""
    if b"\\u0000" in data:
        return True
    return MAYBE_NEGATIVE_ZERO.search(data) is not None and NEGATIVE_ZERO.search(data) is not None


def _plan(field: RecordField, sample: Sequence[Mapping[str, Any]]) -> Plan:
    plans = {name: plan(field.descriptor, [row.get(name) for row in sample]) for name in field.sources}
    return plans if all(kind is not None for kind in plans.values()) else {}


def _parse(rows: JsonRows, schema: pa.Schema, *, strict: bool) -> pa.Table | None:
    """The rows by the schema, None where Arrow refuses them; `strict` refuses names that are not in it."""
    if not rows.data or not schema.names:
        return None
    options = json.ParseOptions(
        explicit_schema=schema,
        newlines_in_values=False,
        unexpected_field_behavior="error" if strict else "ignore",
    )
    try:
        table = json.read_json(
            io.BytesIO(rows.data), json.ReadOptions(use_threads=False, block_size=len(rows.data) + 1), options
        )
    except pa.ArrowInvalid:
        return None
    # Two objects on one line are two rows to Arrow.
    return table if table.num_rows == len(rows.lines) else None


def _from_arrow(field: RecordField, read: Mapping[str, pa.Array]) -> ColumnResult | None:
    try:
        return ColumnResult(values=named_column(field.descriptor, field.sources, read), errors={})
    except NotPlain:
        return None


def _from_objects(field: RecordField, objects: Sequence[Mapping[str, Any]]) -> ColumnResult:
    values = [first_present(row, field.sources) for row in objects]
    return convert_values(values, field.convert, field.arrow_type)

"""A decoded block as the rows to stage: typed columns, framed wire bytes, line; and the rows that may not be staged.

Pure and thread-safe: blocks are encoded in parallel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ingest_service.columns import typed_batch, typed_column
from ingest_service.decode.model import DecodedBlock, PassedOver
from ingest_service.encode.limits import oversized
from ingest_service.encode.message import encode_framed, framed_size
from ingest_service.rejects import Reject
from ingest_service.validate import Violation, violations
from shared.contract.model import MAX_INDEXED_BYTES, Dataset

WIRE = "_wire"
LINE = "_line"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBlock:
    """`batch`: the typed columns in the order of `dataset.columns`, then `_wire` and `_line`. `rejects`: in line order,
    decode's among them; a row that breaks several rules is there several times. `rejected_keys`: the typed key columns
    of all rejected rows whose key is readable."""

    batch: pa.RecordBatch
    rejects: list[Reject]
    rejected_keys: pa.RecordBatch


def encode_block(dataset: Dataset, decoded: DecodedBlock) -> EncodedBlock:
    """The block's rows ready for COPY, without those that are too large or break a buf.validate rule."""
    typed = typed_batch(dataset, decoded.batch)
    wire = encode_framed(dataset.message, decoded.batch)
    found = [*_too_large(dataset, wire), *_not_indexable(dataset, typed), *violations(dataset, typed, wire)]
    batch = pa.RecordBatch.from_arrays([*typed.columns, wire, decoded.order], names=[*typed.schema.names, WIRE, LINE])
    keys = [_typed_keys(dataset, decoded.rejected_keys)]
    if found:
        kept = _kept(batch, {violation.row for violation in found})
        keys.append(typed.select(list(dataset.key)).filter(pc.invert(kept)))
        batch = batch.filter(kept)
    rejects = [*decoded.rejects, *_rejects(decoded, found)]
    rejects.sort(key=lambda reject: reject.line)
    return EncodedBlock(batch=batch, rejects=rejects, rejected_keys=pa.concat_batches(keys))


def keys_only(dataset: Dataset, passed: PassedOver, schema: pa.Schema) -> pa.RecordBatch:
    """Rows that are passed over, as rows to stage: key and line, all else null. `schema`: of the wanted ones."""
    given = {column.name: typed_column(column, passed.keys.column(column.name)) for column in dataset.key_columns}
    given[LINE] = passed.order
    arrays = [given.get(field.name, pa.nulls(len(passed.order), field.type)) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _typed_keys(dataset: Dataset, keys: pa.RecordBatch) -> pa.RecordBatch:
    arrays = [typed_column(column, keys.column(column.name)) for column in dataset.key_columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(dataset.key))


def _too_large(dataset: Dataset, wire: pa.BinaryArray) -> Iterator[Violation]:
    # Framing keeps the order of sizes: comparing framed sizes needs no second look at the message's own.
    limit = pa.scalar(framed_size(dataset.max_row_bytes), pa.int32())
    for row in _rows(pc.greater(pc.binary_length(wire), limit)):
        size = len(wire[row].as_buffer())
        message = f"the encoded record takes {size} bytes with its frame; max_row_bytes is {dataset.max_row_bytes}"
        yield Violation(row=row, field="", rule="row.size", message=message)


def _not_indexable(dataset: Dataset, typed: pa.RecordBatch) -> Iterator[Violation]:
    message = f"the values of one index entry take more than {MAX_INDEXED_BYTES} bytes"
    # A key is in every index: what it is too large for is said once.
    places = dict.fromkeys((row, field) for field, chosen in oversized(dataset, typed) for row in _rows(chosen))
    for row, field in places:
        yield Violation(row=row, field=field, rule="index.size", message=message)


def _rows(chosen: pa.BooleanArray) -> list[int]:
    rows: list[int] = pc.indices_nonzero(chosen).to_pylist()
    return rows


def _kept(batch: pa.RecordBatch, rows: set[int]) -> pa.BooleanArray:
    return pa.array([row not in rows for row in range(batch.num_rows)], pa.bool_())


def _rejects(decoded: DecodedBlock, found: Sequence[Violation]) -> Iterator[Reject]:
    for one in found:
        yield Reject(
            line=decoded.lines[one.row].as_py(),
            place=decoded.order[one.row].as_py() - decoded.first_place,
            field=one.field,
            rule=one.rule,
            message=one.message,
            raw=decoded.raw(one.row),
        )

"""Which rows hold values too large to be indexed. Pure; whole columns at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from shared.contract.model import MAX_INDEXED_BYTES, Dataset, Kind

# What a value of the kind takes in an index entry; the others take their length.
FIXED_BYTES = {
    Kind.BOOL: 1,
    Kind.INT32: 4,
    Kind.ENUM: 4,
    Kind.DATE: 4,
    Kind.FLOAT: 4,
    Kind.UINT64: 20,
    Kind.DURATION: 16,
}
VARIABLE = frozenset({Kind.STRING, Kind.BYTES})


def indexes(dataset: Dataset) -> list[tuple[str, ...]]:
    """The columns of each B-tree that takes values of rows: key, filterable, sortable and composite, with the key."""
    flagged = [(column.name,) for column in dataset.columns if column.ordered]
    declared = [tuple(field.name for field in index) for index in dataset.indexes]
    with_key = [(*names, *(name for name in dataset.key if name not in names)) for names in ((), *flagged, *declared)]
    return list(dict.fromkeys(with_key))


def oversized(dataset: Dataset, typed: pa.RecordBatch) -> Iterator[tuple[str, pa.BooleanArray]]:
    """For each index that some row is too large for: its largest column, and which rows those are.

    `typed` is a batch of columns.typed_batch. Sums are compared with MAX_INDEXED_BYTES.
    """
    for names in indexes(dataset):
        variable = [name for name in names if dataset.column(name).kind in VARIABLE]
        fixed = sum(FIXED_BYTES.get(dataset.column(name).kind, 8) for name in names if name not in variable)
        lengths = {name: pc.binary_length(typed.column(name)).fill_null(0) for name in variable}
        largest = {name: pc.max(values).as_py() or 0 for name, values in lengths.items()}
        if fixed + sum(largest.values()) <= MAX_INDEXED_BYTES:
            continue
        total = pa.repeat(pa.scalar(fixed, pa.int32()), typed.num_rows)
        for values in lengths.values():
            total = pc.add(total, values)
        too_large = pc.greater(total, pa.scalar(MAX_INDEXED_BYTES, pa.int32()))
        if pc.any(too_large).as_py():
            yield max(largest, key=lambda name: largest[name]), too_large

"""Pieces: what a row's bytes are joined from. Columns of bytes, and constants that every row carries.

A null or empty value in a column adds nothing to its row. Joining is what encoding costs (9 ns per row and piece), so
pieces are kept few, and apart until the last moment. Never looks at descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

# bytes: the same for every row, also for rows that hold nothing else.
Piece: TypeAlias = pa.BinaryArray | bytes

EMPTY = b""
FIRST_OFFSET = pa.array([0], pa.int32())


def join(pieces: Sequence[Piece], rows: int) -> pa.BinaryArray:
    """Each row's pieces in order, one after the other; no nulls in the result."""
    columns = [piece for piece in pieces if not isinstance(piece, bytes)]
    if not columns:
        return pa.repeat(pa.scalar(b"".join(_constants(pieces)), pa.binary()), rows)
    if len(pieces) == 1 and not columns[0].null_count:
        return columns[0]
    return pc.binary_join_element_wise(
        *_merge_constants(pieces), EMPTY, null_handling="replace", null_replacement=EMPTY
    )


def byte_lengths(pieces: Sequence[Piece], rows: int) -> pa.Int32Array:
    """The length in bytes of each row's pieces together; no nulls in the result."""
    constant = pa.scalar(sum(map(len, _constants(pieces))), pa.int32())
    total: pa.Int32Array | None = None
    for piece in pieces:
        if not isinstance(piece, bytes):
            lengths = pc.binary_length(piece)
            if lengths.null_count:
                lengths = lengths.fill_null(0)
            total = lengths if total is None else pc.add(total, lengths)
    if total is None:
        return pa.repeat(constant, rows)
    return pc.add(total, constant) if constant.as_py() else total


def regroup(elements: pa.BinaryArray, counts: pa.Int32Array) -> pa.BinaryArray:
    """The bytes of each row's elements, for consecutive runs of `counts` elements; no bytes are copied.

    `elements` holds no nulls and as many values as the counts add up to.
    """
    if not len(elements):
        return pa.repeat(pa.scalar(EMPTY, pa.binary()), len(counts))
    _, offsets_buffer, data = elements.buffers()
    ends = pa.Array.from_buffers(pa.int32(), len(elements) + 1, [None, offsets_buffer], offset=elements.offset)
    offsets = ends.take(offsets_of(counts))
    return pa.Array.from_buffers(pa.binary(), len(counts), [None, offsets.buffers()[1], data])


def offsets_of(lengths: pa.Int32Array) -> pa.Int32Array:
    """Arrow offsets of values of these lengths: one more than there are values, beginning with 0."""
    return pa.concat_arrays([FIRST_OFFSET, pc.cumulative_sum(lengths)])


def _constants(pieces: Sequence[Piece]) -> list[bytes]:
    return [piece for piece in pieces if isinstance(piece, bytes)]


def _merge_constants(pieces: Sequence[Piece]) -> list[pa.BinaryArray | pa.BinaryScalar]:
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if isinstance(piece, bytes) and isinstance(last, bytes):
            merged[-1] = last + piece
        else:
            merged.append(piece)
    return [pa.scalar(piece, pa.binary()) if isinstance(piece, bytes) else piece for piece in merged]

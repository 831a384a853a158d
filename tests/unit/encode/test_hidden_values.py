"""What a columnar reader may leave under nulls, and what no message can hold."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ingest_service.arrow_schema import record_schema
from ingest_service.encode.message import encode_messages, frame, framed_size
from shared.contract.model import ContractSet


def record(contracts: ContractSet, **columns: pa.Array) -> tuple[pa.RecordBatch, pa.BinaryArray]:
    """A batch of shipments with these columns, others null, and its messages."""
    descriptor = contracts.datasets["shipments"].message
    (rows,) = {len(column) for column in columns.values()}
    arrays = [columns.get(field.name, pa.nulls(rows, field.type)) for field in record_schema(descriptor)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=record_schema(descriptor))
    return batch, encode_messages(descriptor, batch)


def test_values_under_a_null_struct_are_not_encoded(contracts: ContractSet) -> None:
    moments = pa.StructArray.from_arrays(
        [pa.array([1, 2], pa.int64()), pa.array([3, 4], pa.int32())],
        names=["seconds", "nanos"],
        mask=pa.array([True, False]),
    )
    _, messages = record(contracts, update_time=moments)
    assert messages.to_pylist() == [b"", b"\x2a\x04\x08\x02\x10\x04"]


def test_values_under_a_null_list_are_not_encoded(contracts: ContractSet) -> None:
    tags = pa.ListArray.from_arrays(pa.array([0, 1, 2]), pa.array(["a", "b"]), mask=pa.array([True, False]))
    _, messages = record(contracts, tags=tags)
    assert messages.to_pylist() == [b"", b"\x72\x01b"]


@pytest.mark.parametrize(
    ("name", "values", "arrow_type"),
    [
        ("tags", [["a", None]], pa.list_(pa.string())),
        ("counters", [[{"key": None, "value": 1}]], pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())]))),
        (
            "counters",
            [[{"key": "k", "value": None}]],
            pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())])),
        ),
    ],
)
def test_a_null_inside_a_list_or_map_is_refused(
    contracts: ContractSet, name: str, values: list[object], arrow_type: pa.DataType
) -> None:
    with pytest.raises(ValueError, match=f"{name}: .* holds a null"):
        record(contracts, **{name: pa.array(values, arrow_type)})


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 2_097_152])
def test_framed_size_is_the_size_of_a_frame(size: int) -> None:
    (framed,) = frame(pa.array([b"x" * size], pa.binary())).to_pylist()
    assert len(framed) == framed_size(size)

"""Parquet: a record of any shape, written in Arrow's own types, is read back as the same record."""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ingest_service.arrow_schema import SCALAR_TYPES, by_number
from ingest_service.decode import DecodeLimits, open_parquet
from shared.contract.fields import MESSAGE_KINDS, WRAPPER_KINDS, is_map
from shared.contract.model import ContractSet, Dataset, Kind
from tests.property.test_decode_ndjson_objects import Shipments, fill, messages, one_nan, shipments

__all__ = ["ContractSet", "shipments"]

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
ARROW_KINDS = {
    Kind.TIMESTAMP: pa.timestamp("us", "UTC"),
    Kind.DURATION: pa.duration("us"),
    Kind.DATE: pa.date32(),
}
Layout = Mapping[str, Any]


def arrow_type(field: FieldDescriptor, layout: Layout) -> pa.DataType:
    """What a writer would choose for the field."""
    if is_map(field):
        assert field.message_type is not None
        key, item = by_number(field.message_type)
        entry = element_type(key, layout), element_type(item, layout)
        return (
            pa.map_(*entry) if layout["maps"] else pa.list_(pa.struct(list(zip(("key", "value"), entry, strict=True))))
        )
    element = element_type(field, layout)
    return (layout["list"](element)) if field.is_repeated else element


def element_type(field: FieldDescriptor, layout: Layout) -> pa.DataType:
    if field.message_type is None:
        found = SCALAR_TYPES[field.type]
        return layout["text"] if found == pa.string() else found
    name = field.message_type.full_name
    if name in MESSAGE_KINDS:
        return ARROW_KINDS[MESSAGE_KINDS[name]]
    if name in WRAPPER_KINDS:
        return element_type(field.message_type.fields_by_name["value"], layout)
    return pa.struct([(child.name, arrow_type(child, layout)) for child in field.message_type.fields])


def arrow_value(field: FieldDescriptor, value: Any) -> Any:
    """The value as pyarrow takes it for that type; times are cut to microseconds, in `value` too."""
    if is_map(field):
        assert field.message_type is not None
        item = by_number(field.message_type)[1]
        return [{"key": key, "value": arrow_element(item, element)} for key, element in value.items()]
    return [arrow_element(field, element) for element in value] if field.is_repeated else arrow_element(field, value)


def arrow_element(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is None:
        return value
    name = field.message_type.full_name
    match MESSAGE_KINDS.get(name):
        case Kind.TIMESTAMP | Kind.DURATION:
            cut = value["nanos"] % 1000 if value["nanos"] >= 0 else -(-value["nanos"] % 1000)
            value["nanos"] -= cut
            return value["seconds"] * 1_000_000 + value["nanos"] // 1000
        case Kind.DATE:
            return datetime.date(value["year"], value["month"], value["day"])
    if name in WRAPPER_KINDS:
        return value.get("value", field.message_type.fields_by_name["value"].default_value)
    return {
        child.name: arrow_value(child, value[child.name]) for child in field.message_type.fields if child.name in value
    }


def table_of(dataset: Dataset, rows: Sequence[dict[str, Any]], layout: Layout) -> pa.Table:
    columns = {}
    for field in dataset.message.fields:
        kind = arrow_type(field, layout)
        values = [arrow_value(field, row[field.name]) if field.name in row else None for row in rows]
        if pa.types.is_map(kind):
            values = [v if v is None else [(entry["key"], entry["value"]) for entry in v] for v in values]
        columns[field.name] = pa.array(values, kind)
    return pa.table(columns)


class BytesFile(io.BytesIO):
    size_bytes = 0

    def expect(self, ranges: Sequence[tuple[int, int]], step_bytes: int) -> None:
        """Nothing to prepare."""


layouts = st.fixed_dictionaries(
    {
        "maps": st.booleans(),
        "list": st.sampled_from([pa.list_, pa.large_list]),
        "text": st.sampled_from([pa.string(), pa.large_string()]),
    }
)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data(), layout=layouts, use_dictionary=st.booleans(), row_group_size=st.integers(1, 4))
def test_what_is_written_in_arrows_types_is_read_back(
    shipments: Shipments, data: st.DataObject, layout: Layout, use_dictionary: bool, row_group_size: int
) -> None:
    dataset = shipments.dataset
    rows = data.draw(st.lists(messages(dataset.message, dataset.key), min_size=1, max_size=5))
    table = table_of(dataset, rows, layout)
    sink = BytesFile()
    parquet.write_table(table, sink, use_dictionary=use_dictionary, row_group_size=row_group_size)
    sink.size_bytes = len(sink.getvalue())
    sink.seek(0)
    decoder = open_parquet(dataset, DecodeLimits())
    done = [decoder.decode_block(block) for block in decoder.blocks(sink)]
    assert [reject for part in done for reject in part.rejects] == []
    assert {name for part in done for name in part.unknown_columns} == set()
    read = [fill(dataset.message_class(), row) for part in done for row in part.batch.to_pylist()]
    written = [fill(dataset.message_class(), row) for row in rows]
    assert [one_nan(message) for message in read] == [one_nan(message) for message in written]

"""Which rows of a block are staged, and how the others are reported."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pytest

from ingest_service.arrow_schema import record_schema
from ingest_service.blocks import encode_block
from ingest_service.decode.model import PLACES, DecodedBlock
from ingest_service.encode.message import framed_size
from ingest_service.rejects import Reject
from shared.contract.model import MAX_INDEXED_BYTES, ContractSet, Dataset

GOOD: dict[str, Any] = {"carrier": "dhl", "number": 1}


def decoded(dataset: Dataset, rows: list[dict[str, Any]], rejects: tuple[Reject, ...] = ()) -> DecodedBlock:
    """Rows on the lines 11, 13, 15 and so on."""
    names = [field.name for field in dataset.message.fields]
    complete = [{**dict.fromkeys(names), **row} for row in rows]
    schema = record_schema(dataset.message)
    return DecodedBlock(
        batch=pa.RecordBatch.from_pylist(complete, schema),
        lines=pa.array(range(11, 11 + 2 * len(rows), 2), pa.int64()),
        order=pa.array(range(11, 11 + 2 * len(rows), 2), pa.int64()),
        raw=lambda row: f"raw {row}".encode(),
        rejects=rejects,
        rows_read=len(rows) + len(rejects),
        unknown_columns=frozenset(),
        rejected_keys=pa.RecordBatch.from_pylist([], pa.schema([schema.field(name) for name in dataset.key])),
        keys_unreadable=0,
    )


def places(rejects: list[Reject]) -> list[tuple[int, str, str]]:
    return [(reject.line, reject.field, reject.rule) for reject in rejects]


def test_columns_are_the_contracts_then_wire_and_line(contracts: ContractSet) -> None:
    dataset = contracts.datasets["shipments"]
    block = encode_block(dataset, decoded(dataset, [GOOD, {**GOOD, "number": 2}]))
    assert block.batch.schema.names == [*(column.name for column in dataset.columns), "_wire", "_line"]
    assert block.batch.column("_line").to_pylist() == [11, 13]
    wire = block.batch.column("_wire")[1].as_py()
    assert wire == b"\x0a\x07" + dataset.message_class(carrier="dhl", number=2).SerializeToString(deterministic=True)
    assert block.rejects == []


def test_a_block_without_rows_has_the_same_columns(contracts: ContractSet) -> None:
    dataset = contracts.datasets["shipments"]
    empty, full = (encode_block(dataset, decoded(dataset, rows)).batch for rows in ([], [GOOD]))
    assert (empty.num_rows, empty.schema) == (0, full.schema)


def test_a_row_that_breaks_two_rules_is_two_rejects_and_one_missing_row(contracts: ContractSet) -> None:
    dataset = contracts.datasets["shipments"]
    bad = {"carrier": "", "number": 5, "insured_value": -1.0, "parcels": [{"barcode": "x"}, {"barcode": ""}]}
    earlier = Reject(line=12, field="number", rule="type.uint64", message="", raw=b"")
    block = encode_block(dataset, decoded(dataset, [GOOD, bad, {**GOOD, "number": 9}], (earlier,)))
    assert block.batch.column("number").to_pylist() == [1, 9]
    assert block.batch.column("_line").to_pylist() == [11, 15]
    assert places(block.rejects) == [
        (12, "number", "type.uint64"),
        (13, "carrier", "string.min_len"),
        (13, "insured_value", "double.gte"),
        (13, "parcels[1].barcode", "string.min_len"),
    ]
    assert block.rejects[1].raw == b"raw 1"


def test_a_record_of_max_row_bytes_is_kept_and_one_byte_more_is_rejected(contracts: ContractSet) -> None:
    full = contracts.datasets["shipments"]
    message = full.message_class(carrier="dhl", number=1, signature=bytes(300))
    dataset = dataclasses.replace(full, max_row_bytes=message.ByteSize())
    rows = [{**GOOD, "signature": bytes(300)}, {**GOOD, "signature": bytes(301)}]
    block = encode_block(dataset, decoded(dataset, rows))
    assert len(block.batch.column("_wire")[0].as_py()) == framed_size(dataset.max_row_bytes)
    assert (block.batch.num_rows, places(block.rejects)) == (1, [(13, "", "row.size")])


def test_values_are_summed_per_index_entry(contracts: ContractSet) -> None:
    """The key's 20 bytes of number count, and an index that does not hold the large column does not."""
    dataset = contracts.datasets["shipments"]
    room = MAX_INDEXED_BYTES - 20
    longest = max(room - 8, 0)  # update_time is sortable: its index entry holds the timestamp and the key
    rows = [
        {"carrier": "x" * longest, "number": 1},
        {"carrier": "x" * room, "number": 1},
        {**GOOD, "note": {"value": "x" * 9999}},
    ]
    block = encode_block(dataset, decoded(dataset, rows))
    assert block.batch.column("_line").to_pylist() == [11, 15]
    assert places(block.rejects) == [(13, "carrier", "index.size")]


def test_rows_of_several_objects_are_told_apart_or_refused(contracts: ContractSet) -> None:
    block = decoded(contracts.datasets["shipments"], [GOOD])
    second = block.of_object(2)
    assert (second.order.to_pylist(), second.first_place) == ([2 * PLACES + 11], 2 * PLACES)
    with pytest.raises(ValueError, match="cannot be told"):
        second.of_object(1)

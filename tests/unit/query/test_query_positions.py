"""A position keeps what places its row, of whatever kind, and nothing else: held against plain reading of a record."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from query_service.positions import positions
from shared.contract.build import load_contracts
from shared.contract.model import Dataset, IndexField
from tests.integration.query.lab import frame

CONTRACT = """
syntax = "proto3";
package t.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/type/date.proto";
import "penstock/contract/v1/contract.proto";
enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1; COLOR_ODD = -5; }
message Site { string code = 1; optional int32 floor = 2; string note = 3; }
message Box { Site site = 1; string town = 2; }
message Thing {
  option (penstock.contract.v1.dataset) = { name: "things" key: "day" key: "number" file_policy: FILE_POLICY_MERGE };
  google.type.Date day = 1;
  uint64 number = 2;
  string name = 3 [(penstock.contract.v1.column).sortable = true];
  optional string nick = 4 [(penstock.contract.v1.column).sortable = true];
  google.protobuf.Int32Value weight = 5 [(penstock.contract.v1.column).sortable = true];
  google.protobuf.Timestamp made = 6 [(penstock.contract.v1.column).sortable = true];
  Color color = 7 [(penstock.contract.v1.column).sortable = true];
  double price = 8 [(penstock.contract.v1.column).sortable = true];
  oneof size { int32 inches = 9 [(penstock.contract.v1.column).sortable = true]; string label = 10; }
  Box box = 11 [(penstock.contract.v1.column) = { filterable_paths: ["town", "site.code", "site.floor"] }];
  string note = 12;
  repeated string tags = 13;
}
"""
COLUMNS = ["name", "nick", "weight", "made", "color", "price", "inches", "box.town", "box.site.code", "box.site.floor"]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder: Path = tmp_path_factory.mktemp("positions")
    (folder / "thing.proto").write_text(CONTRACT)
    return load_contracts(folder).datasets["things"]


def thing(dataset: Dataset, chance: random.Random) -> Any:
    """A record whose fields are there or not, and are defaults or not."""
    record = dataset.message_class(note="n" * chance.randrange(200), tags=["a", "b"])
    record.day.year, record.day.month, record.day.day = 2024, chance.randint(1, 12), 7
    record.number = chance.choice([0, 1, 2**64 - 1])
    fill: dict[str, list[Any]] = {
        "name": ["", "ä"],
        "nick": ["", "x"],
        "color": [0, 1, -5],
        "price": [0.0, -0.0, 2.5, float("inf")],
        "inches": [0, 7],
        "label": ["", "XL"],
    }
    for name, values in fill.items():
        if chance.random() < 0.6:
            setattr(record, name, chance.choice(values))
    if chance.random() < 0.6:
        record.weight.value = chance.choice([0, -3])
    if chance.random() < 0.6:
        record.made.seconds, record.made.nanos = chance.choice([(0, 0), (-1, 999_999_999), (1_700_000_000, 5000)])
    if chance.random() < 0.7:
        record.box.SetInParent()
        record.box.town = chance.choice(["", "Bonn"])
        if chance.random() < 0.7:
            record.box.site.code = chance.choice(["", "c"])
            record.box.site.note = "unwanted"
            if chance.random() < 0.5:
                record.box.site.floor = chance.choice([0, -1])
    return record


def read(record: Any, column: str) -> Any:
    """The value of a column by plain reading; None where it is NULL."""
    *around, name = column.split(".")
    for part in around:
        if not record.HasField(part):
            return None
        record = getattr(record, part)
    if record.DESCRIPTOR.fields_by_name[name].has_presence and not record.HasField(name):
        return None
    value = getattr(record, name)
    match name:
        case "weight":
            return value.value
        case "made":
            return datetime.fromtimestamp(value.seconds, UTC).replace(microsecond=value.nanos // 1000)
        case "day":
            return date(value.year, value.month, value.day)
        case "number":
            return Decimal(value)
        case _:
            return value


@pytest.mark.parametrize("seed", range(200))
def test_a_position_is_what_its_order_reads_of_the_record(things: Dataset, seed: int) -> None:
    chance = random.Random(seed)
    record = thing(things, chance)
    columns: Sequence[str] = [*chance.sample(COLUMNS, chance.randint(0, 4)), *things.key]
    found = positions(things, tuple(IndexField(name=name) for name in columns))
    position = found.of(frame(record.SerializeToString()))
    assert found.values(position) == tuple(read(record, column) for column in columns)
    kept = things.message_class.FromString(position)
    allowed = {column.partition(".")[0] for column in columns}
    assert {field.name for field, _ in kept.ListFields()} <= allowed
    assert (kept.note, list(kept.tags), kept.box.site.note) == ("", [], "")

"""Columns of fields inside messages say what the encoded messages say, whatever is missing on the way to them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.arrow_schema import record_schema
from ingest_service.columns import typed_batch
from ingest_service.encode.message import encode_messages
from shared.contract.build import load_contracts
from shared.contract.model import Dataset
from tests.integration.query.lab import typed_value

CONTRACT = """
syntax = "proto3";
package zoo.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "penstock/contract/v1/contract.proto";
enum Size { SIZE_UNSPECIFIED = 0; SIZE_BIG = 1; }
message Leaf {
  string text = 1; bytes data = 2; bool flag = 3; uint64 units = 4; uint32 few = 5; Size size = 6;
  optional string maybe = 7; google.protobuf.Int64Value wrapped = 8; google.protobuf.Timestamp at = 9;
  repeated sint32 list = 10; oneof choice { string one = 11; int32 other = 12; }
}
message Branch { string name = 1; Leaf leaf = 2; }
message Tree {
  option (penstock.contract.v1.dataset) = { name: "trees" key: "id" file_policy: FILE_POLICY_MERGE };
  int32 id = 1;
  Branch branch = 2 [(penstock.contract.v1.column) = { filterable_paths: [
    "name", "leaf.text", "leaf.data", "leaf.flag", "leaf.units", "leaf.few", "leaf.size", "leaf.maybe", "leaf.wrapped",
    "leaf.at", "leaf.list", "leaf.one", "leaf.other"
  ] }];
  Leaf leaf = 3 [(penstock.contract.v1.column) = { filterable_paths: ["text", "at"] }];
}
"""

ANY_LEAF = st.fixed_dictionaries(
    {
        "text": st.sampled_from([None, "", "é"]),
        "data": st.sampled_from([None, b"", b"\0\xff"]),
        "flag": st.sampled_from([None, False, True]),
        "units": st.sampled_from([None, 0, 2**64 - 1]),
        "few": st.sampled_from([None, 0, 2**32 - 1]),
        "size": st.sampled_from([None, 0, 1, 9]),
        "maybe": st.sampled_from([None, "", "x"]),
        "wrapped": st.sampled_from([None, {"value": None}, {"value": -1}]),
        "at": st.sampled_from([None, {"seconds": 5, "nanos": 7000}, {"seconds": None, "nanos": None}]),
        "list": st.sampled_from([None, [], [1, -2]]),
    }
).flatmap(
    lambda leaf: st.sampled_from([(None, None), ("", None), (None, 0)]).map(
        lambda pair: {**leaf, "one": pair[0], "other": pair[1]}
    )
)
LEAVES = st.none() | ANY_LEAF
BRANCHES = st.none() | st.fixed_dictionaries({"name": st.sampled_from([None, "", "b"]), "leaf": LEAVES})
ROWS = st.lists(st.fixed_dictionaries({"id": st.integers(0, 9), "branch": BRANCHES, "leaf": LEAVES}), max_size=8)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "zoo.proto").write_text(CONTRACT)
    return load_contracts(folder).datasets["trees"]


@settings(deadline=None)
@given(rows=ROWS, start=st.integers(0, 3))
def test_columns_equal_the_encoded_messages(trees: Dataset, rows: list[dict[str, Any]], start: int) -> None:
    batch = pa.RecordBatch.from_pylist(rows, record_schema(trees.message)).slice(start)
    messages = [trees.message_class.FromString(data) for data in encode_messages(trees.message, batch).to_pylist()]
    typed = typed_batch(trees, batch)
    assert typed.schema.names == [column.name for column in trees.columns]
    for column, values in zip(trees.columns, typed.columns, strict=True):
        found = values.to_pylist()
        if pa.types.is_timestamp(values.type):
            found = [None if value is None else value.timestamp() for value in found]
            expected = [_seconds(typed_value(column, message)) for message in messages]
        else:
            expected = [typed_value(column, message) for message in messages]
        assert found == expected, column.name


def _seconds(moment: Any) -> float | None:
    return None if moment is None else moment.replace(tzinfo=None).timestamp()

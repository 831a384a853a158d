"""Rules held against whole columns trust no row that protovalidate finds fault with, and doubt none without need."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest_service.arrow_schema import record_schema
from ingest_service.column_rules import column_rules
from ingest_service.columns import typed_batch
from ingest_service.encode.message import encode_framed
from ingest_service.validate import compile_rules, row_violations, violations
from shared.contract.build import load_contracts
from shared.contract.model import Dataset

_HEAD = """syntax = "proto3"; package rules.v1;
import "buf/validate/validate.proto"; import "google/protobuf/duration.proto"; import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "penstock/contract/v1/contract.proto";
enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; COLOUR_BLUE = 5; }
message Part { string name = 1; }
message Ruled { string name = 1 [(buf.validate.field).string.min_len = 1]; }
message Row {
  option (penstock.contract.v1.dataset) = {name: "rows" key: "id" file_policy: FILE_POLICY_MERGE};
"""

# Every rule that is judged by columns, each on a field of its own.
_JUDGED = """
  string id = 1;
  string pattern = 2 [(buf.validate.field).string.pattern = "^(A[a-f]{1,2}|[B-D]?_)+\\\\.?$"];
  string part = 3 [(buf.validate.field).string.pattern = "a.b"];
  string sized = 4 [(buf.validate.field).string = {min_len: 2, max_len: 3}];
  string exact = 5 [(buf.validate.field).string = {len: 2, not_in: ["aa"]}];
  string weighed = 6 [(buf.validate.field).string = {min_bytes: 1, max_bytes: 4}];
  string heavy = 7 [(buf.validate.field).string.len_bytes = 2];
  string ends = 8 [(buf.validate.field).string = {prefix: "a", suffix: "b", contains: "_", not_contains: "A"}];
  string chosen = 9 [(buf.validate.field).string.in = "a", (buf.validate.field).string.in = ""];
  string fixed = 10 [(buf.validate.field).string.const = "a"];
  int32 low = 11 [(buf.validate.field).int32 = {gt: -1, lte: 7}];
  sint64 high = 12 [(buf.validate.field).sint64 = {gte: 0, lt: 9223372036854775807}];
  uint64 whole = 13 [(buf.validate.field).uint64 = {not_in: [0, 18446744073709551615]}];
  fixed32 some = 14 [(buf.validate.field).fixed32 = {in: [0, 4294967295]}];
  double real = 15 [(buf.validate.field).double = {gte: 0, lte: 1}];
  float single = 16 [(buf.validate.field).float.const = 0.1];
  bool yes = 17 [(buf.validate.field).bool.const = true];
  Colour colour = 18 [(buf.validate.field).enum = {defined_only: true, not_in: [0]}];
  bytes raw = 19 [(buf.validate.field).bytes = {min_len: 1, max_len: 2}];
  optional string maybe = 20 [(buf.validate.field).string.min_len = 1];
  optional int32 must = 21 [(buf.validate.field).required = true, (buf.validate.field).int32.gte = 0];
  string filled = 22 [(buf.validate.field).required = true];
  double nonzero = 23 [(buf.validate.field).required = true];
  repeated int32 few = 24 [(buf.validate.field).repeated = {min_items: 1, max_items: 2}];
  repeated string any = 25 [(buf.validate.field).required = true];
  google.protobuf.Timestamp when = 26 [(buf.validate.field).required = true];
  google.protobuf.StringValue wrapped = 27 [(buf.validate.field).string.max_len = 1];
  oneof choice { string left = 28 [(buf.validate.field).string.min_len = 1]; int64 right = 29; }
  int64 free = 30 [(buf.validate.field).ignore = IGNORE_ALWAYS, (buf.validate.field).int64.gt = 7];
  double above = 31 [(buf.validate.field).double.gt = 0];
  repeated Part parts = 32;
"""
# Each of these alone makes every row doubtful.
BEYOND = [
    "string x = 2 [(buf.validate.field).string.email = true];",
    'string x = 2 [(buf.validate.field).string.pattern = "\\\\d"];',
    'string x = 2 [(buf.validate.field).string.pattern = "(?i)a"];',
    'string x = 2 [(buf.validate.field).string.pattern = "[^a]"];',
    'string x = 2 [(buf.validate.field).string.pattern = "a+?"];',
    'string x = 2 [(buf.validate.field).string.pattern = "é"];',
    "string x = 2 [(buf.validate.field) = {ignore: IGNORE_IF_ZERO_VALUE, string: {min_len: 2}}];",
    'string x = 2 [(buf.validate.field).cel = {id: "x" message: "x" expression: "this != \'x\'"}];',
    "int32 x = 2 [(buf.validate.field).int32 = {lt: 3, gt: 7}];",
    "double x = 2 [(buf.validate.field).double.in = 0];",
    "double x = 2 [(buf.validate.field).double.finite = true];",
    "repeated int32 x = 2 [(buf.validate.field).repeated.unique = true];",
    "repeated string x = 2 [(buf.validate.field).repeated.items.string.min_len = 1];",
    "map<string, string> x = 2 [(buf.validate.field).map.min_pairs = 1];",
    "google.protobuf.Timestamp x = 2 [(buf.validate.field).timestamp.lt_now = true];",
    "google.protobuf.Timestamp x = 2 [(buf.validate.field).timestamp = {gte: {seconds: 0}, lt: {seconds: 9}}];",
    "google.protobuf.Duration x = 2 [(buf.validate.field).duration = {gt: {seconds: 9}, lt: {seconds: 0}}];",
    "string x = 2 [(buf.validate.field).string.max_len = 2147483648];",
    "bytes x = 2 [(buf.validate.field).bytes.min_len = 2147483648];",
    "repeated string x = 2 [(buf.validate.field).repeated.max_items = 18446744073709551615];",
    "Part x = 2 [(buf.validate.field).required = true];",
    "Ruled x = 2;",
    "repeated Ruled x = 2;",
    "oneof x { option (buf.validate.oneof).required = true; string y = 2; string z = 3; }",
    'option (buf.validate.message).cel = {id: "x" message: "x" expression: "this.id != \'x\'"};',
]

_FILES = itertools.count()


def _dataset(folder: Path, fields: str) -> Dataset:
    place = folder / f"contracts{next(_FILES)}"
    place.mkdir()
    (place / "rules.proto").write_text(f"{_HEAD}{fields}}}\n")
    return load_contracts(place).datasets["rows"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return _dataset(tmp_path_factory.mktemp("rules"), _JUDGED)


_TEXTS = st.one_of(
    st.text("aAbBef_.\n", max_size=4),
    st.sampled_from(["", "a", "aa", "é", "ééé", "\U00010000", "a_b", "a_bf", "fa_b", "Aa_.", "a\nb"]),
)
_VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): _TEXTS,
    pa.binary(): st.binary(max_size=3),
    pa.bool_(): st.booleans(),
    pa.int32(): st.sampled_from([-1, 0, 1, 5, 7, 8, 2**31 - 1]),
    pa.int64(): st.sampled_from([-1, 0, 1, 2**63 - 1]),
    pa.uint32(): st.sampled_from([0, 1, 2**32 - 1]),
    pa.uint64(): st.sampled_from([0, 1, 2**64 - 1]),
    pa.float32(): st.sampled_from([0.0, 0.1, float("nan")]),
    pa.float64(): st.sampled_from([0.0, -0.0, 5e-324, 1.0, 1.5, -1.0, float("nan"), float("inf")]),
}


def _values(arrow_type: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_list(arrow_type):
        return st.lists(_values(arrow_type.value_type), max_size=3)
    if pa.types.is_struct(arrow_type):
        return st.fixed_dictionaries({field.name: _values(field.type) for field in arrow_type})
    return _VALUES[arrow_type]


# Keeps every rule: a row is trusted only where all its fields are.
GOOD: dict[str, Any] = {
    "pattern": "AaB_.", "part": "xa.by", "sized": "éé", "exact": "éé", "weighed": "é", "heavy": "é", "ends": "a_b",
    "chosen": "", "fixed": "a", "low": 7, "high": 0, "whole": 1, "some": 2**32 - 1, "real": 0.5, "single": 0.1,
    "yes": True, "colour": 5, "raw": b"x", "must": 0, "filled": "x", "nonzero": 1.0, "few": [1], "any": [""],
    "when": {"seconds": 0, "nanos": 0}, "wrapped": {"value": "é"}, "above": 5e-324, "free": 1,
}  # fmt: skip


@st.composite
def _batches(draw: st.DrawFn, dataset: Dataset) -> pa.RecordBatch:
    """Rows that differ from the good one in one or two fields."""
    schema = record_schema(dataset.message)
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        changed = draw(st.lists(st.sampled_from(schema.names), min_size=1, max_size=2, unique=True))
        values = {name: draw(st.none() | _values(schema.field(name).type)) for name in changed}
        if values.get("left") is not None:
            values["right"] = None  # members of one oneof
        rows.append({**GOOD, **values})
    return pa.RecordBatch.from_pylist(rows, schema=schema)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_violations_are_protovalidates_own_whoever_looks_first(judged: Dataset, data: st.DataObject) -> None:
    batch = data.draw(_batches(judged))
    wire = encode_framed(judged.message, batch)
    found = violations(judged, typed_batch(judged, batch), wire)
    assert found == row_violations(compile_rules(judged), wire)


def test_row_that_keeps_all_rules_is_not_looked_at(judged: Dataset) -> None:
    bad = {**GOOD, "sized": ""}
    batch = pa.RecordBatch.from_pylist([GOOD, bad, GOOD], schema=record_schema(judged.message))
    rules = column_rules(judged)
    assert rules is not None
    assert rules.doubtful(typed_batch(judged, batch)).to_pylist() == [1]
    found = violations(judged, typed_batch(judged, batch), encode_framed(judged.message, batch))
    assert [(one.row, one.field, one.rule) for one in found] == [(1, "sized", "string.min_len")]


@pytest.mark.parametrize("field", BEYOND)
def test_rule_that_columns_cannot_judge_leaves_every_row_to_protovalidate(tmp_path: Path, field: str) -> None:
    assert column_rules(_dataset(tmp_path, f"string id = 1; {field}")) is None

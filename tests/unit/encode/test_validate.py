"""buf.validate rules over framed rows: where a violation lies, and which rules are refused at start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ingest_service.encode.message import frame
from ingest_service.validate import ROWS_PER_CALL, Violation, compile_rules, row_violations
from shared.contract.build import load_contracts
from shared.contract.model import Dataset

CONTRACT = """syntax = "proto3"; package rules;
import "buf/validate/validate.proto"; import "penstock/contract/v1/contract.proto";
message Part {
  string name = 1 [(buf.validate.field).string.min_len = 2];
  optional int32 size = 2 [
    (buf.validate.field).cel = {id: "part.size" message: "too small" expression: "100 / this < 50"}
  ];
}
message Row {
  option (penstock.contract.v1.dataset) = {name: "rows" key: "id" file_policy: FILE_POLICY_MERGE};
  option (buf.validate.message).cel = {id: "row.whole" message: "the row is bad" expression: "this.id != 'bad'"};
  string id = 1 [(buf.validate.field).string.max_len = 3];
  Part part = 2;
  repeated Part parts = 3;
  map<string, Part> named = 4 [(buf.validate.field).map.keys.string.min_len = 2];
  map<bool, string> flags = 5 [(buf.validate.field).map.values.string.min_len = 2];
  oneof choice {
    option (buf.validate.oneof).required = true;
    string a = 6;
    string b = 7;
  }
}
"""


def contract(folder: Path, text: str) -> Dataset:
    (folder / "rules.proto").write_text(text)
    return load_contracts(folder).datasets["rows"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return contract(tmp_path_factory.mktemp("rules"), CONTRACT)


def wire(dataset: Dataset, *rows: dict[str, Any]) -> pa.BinaryArray:
    return frame(pa.array([dataset.message_class(**row).SerializeToString() for row in rows], pa.binary()))


def violations(dataset: Dataset, rows: pa.BinaryArray) -> list[Violation]:
    """One by one: which rows need not be looked at is the matter of test_column_rules."""
    return row_violations(compile_rules(dataset), rows)


def places(found: list[Violation]) -> list[tuple[int, str, str]]:
    return [(one.row, one.field, one.rule) for one in found]


def test_violations_name_row_path_and_rule(dataset: Dataset) -> None:
    bad = {
        "id": "long!",
        "part": {"name": "x"},
        "parts": [{"name": "ok"}, {"name": "y"}],
        "named": {"k": {"name": "ok"}},
        "flags": {True: "z"},
        "a": "",
    }
    found = violations(dataset, wire(dataset, {"id": "ok", "a": ""}, bad, {"id": "bad", "a": ""}, {"id": "ok"}))
    assert places(found) == [
        (1, "id", "string.max_len"),
        (1, "part.name", "string.min_len"),
        (1, "parts[1].name", "string.min_len"),
        (1, 'named["k"]', "string.min_len"),
        (1, "flags[true]", "string.min_len"),
        (2, "", "row.whole"),
        (3, "choice", "required"),
    ]
    assert found[5].message == "the row is bad"


def test_rows_are_counted_across_calls_and_from_the_start_of_a_slice(dataset: Dataset) -> None:
    rows = [{"id": "ok", "a": ""}] * (2 * ROWS_PER_CALL + 10)
    rows[5] = rows[ROWS_PER_CALL] = rows[2 * ROWS_PER_CALL + 9] = {"id": "long!", "a": ""}
    found = violations(dataset, wire(dataset, *rows).slice(3))
    assert [one.row for one in found] == [2, ROWS_PER_CALL - 3, 2 * ROWS_PER_CALL + 6]


def test_a_rule_that_fails_on_one_row_rejects_that_row_only(dataset: Dataset) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "ok", "a": ""},
        {"id": "ok", "a": "", "part": {"name": "nn", "size": 0}},
        {"id": "long!", "a": ""},
    ]
    found = violations(dataset, wire(dataset, *rows))
    assert places(found) == [(1, "", "part.size"), (2, "id", "string.max_len")]
    assert "divide by zero" in found[0].message


def test_two_contract_sets_with_the_same_message_names_keep_their_own_rules(dataset: Dataset, tmp_path: Path) -> None:
    other = contract(tmp_path, CONTRACT.replace("max_len = 3", "max_len = 9"))
    row = {"id": "long!", "a": ""}
    assert violations(other, wire(other, row)) == []
    assert len(violations(dataset, wire(dataset, row))) == 1


def test_rules_that_fail_on_an_empty_record_only_are_accepted(tmp_path: Path) -> None:
    compile_rules(contract(tmp_path, CONTRACT.replace("optional int32", "int32")))

"""Changes that stored rows do not survive are refused; all others become migrations."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from shared.contract.build import load_contracts
from shared.contract.diff import Plan, diff
from shared.contract.snapshot import Snapshot, snapshots
from tests.integration.contract_sql.texts import BOX, FIELDS, OPTIONS, contract, write_contract


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "contracts"


def snapshot_of(folder: Path, text: str) -> dict[str, Snapshot]:
    return snapshots(load_contracts(write_contract(folder, text)))


def changed(folder: Path, before: str, after: str) -> Plan:
    return diff(snapshot_of(folder, before), snapshot_of(folder, after))


def edited(old: str, new: str) -> str:
    assert old in FIELDS
    return contract(FIELDS.replace(old, new))


REFUSED = {
    "renumbered": (edited("amount = 3", "amount = 30"), "Item.amount: number changes from 3 to 30"),
    "retyped": (edited("int64 amount", "int32 amount"), "Item.amount: type changes from implicit int64"),
    "made optional": (edited("int64 amount", "optional int64 amount"), "Item.amount: type changes"),
    "made required to be present": (edited("optional double", "double"), "Item.weight: type changes"),
    "made repeated": (edited("int64 amount", "repeated int64 amount"), "Item.amount: type changes"),
    "made an enum": (edited("int64 amount", "Colour amount"), "Item.amount: type changes"),
    "made a number": (edited("Colour colour", "int32 colour"), "Item.colour: type changes"),
    "another message": (edited("Box box", "google.type.Date box"), "Item.box.month: type changes|Item.box: type"),
    "wrapped": (
        edited("Box box", "google.protobuf.StringValue box"),
        "Item.box: type of the column changes from none to nullable wrapped string",
    ),
    "renamed": (edited("int64 amount", "int64 quantity"), "Item.quantity: renamed from amount"),
    "removed": (edited("int64 amount = 3;", ""), r"Item.amount: removed.*write `reserved 3;`"),
    "swapped": (
        contract(FIELDS.replace("label = 2", "label = 9").replace("amount = 3", "amount = 2")),
        "Item.amount: type changes from implicit string to implicit int64\n.*amount: number changes from 3 to 2",
    ),
    "another key": (contract(options=OPTIONS.replace('"id"', '["id", "label"]')), "Item: the key changes from"),
    "nested renumbered": (contract(box=BOX.replace("height = 2", "height = 3")), "Item.box.height: number changes"),
    "nested retyped": (contract(box=BOX.replace("int32 height", "string height")), "Item.box.height: type changes"),
    "nested removed": (contract(box="string material = 1;"), r"Item.box.height: removed.*write `reserved 2;`"),
    "joined in a oneof": (
        edited("int64 amount = 3;\noptional double weight = 4;", "oneof x { int64 amount = 3; double weight = 4; }"),
        "Item.(amount|weight): (type changes|joins oneof)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_change_that_would_make_stored_rows_lie_is_refused(folder: Path, case: str) -> None:
    after, reason = REFUSED[case]
    plan = changed(folder, contract(), after)
    assert not plan.drafts
    assert re.search(reason, "\n".join(plan.refusals))
    assert plan.refusals[-1].startswith(
        "shop.v1.Item: take the refused changes back, or give the message a new dataset"
    )


def test_optional_fields_that_join_a_oneof_are_refused(folder: Path) -> None:
    before = contract("string id = 1; optional string a = 2; optional string b = 3;")
    after = contract("string id = 1; oneof x { string a = 2; string b = 3; }")
    plan = changed(folder, before, after)
    assert plan.refusals[0] == "shop.v1.Item.b: joins oneof x with a; rows may hold both"


def test_another_file_policy_is_refused(folder: Path) -> None:
    old = snapshot_of(folder, contract())
    plan = diff(old, {"items": replace(old["items"], file_policy="MIRROR")})
    assert "file_policy changes from MERGE to MIRROR" in plan.refusals[0]


def test_the_number_of_a_dropped_field_never_comes_back(folder: Path) -> None:
    old = snapshot_of(folder, contract())
    dropped = diff(old, snapshot_of(folder, edited("int64 amount = 3;", "reserved 3;")))
    record = dropped.drafts[-1].record
    assert record is not None
    assert record.retired == ("3",)
    again = diff({"items": record}, snapshot_of(folder, edited("int64 amount = 3;", "string amount = 3;")))
    assert "number 3 belonged to a removed field" in again.refusals[0]


ADDITIVE = {
    "nothing": (contract(), []),
    "a comment, a rule, a source": (
        edited("int64 amount = 3;", 'int64 amount = 3 [(penstock.contract.v1.column).source = "qty"];'),
        [],
    ),
    "a field": (contract(FIELDS + "int32 size = 8;"), ["add_size"]),
    "a field with an index": (
        contract(FIELDS + "int32 size = 8 [(penstock.contract.v1.column).sortable = true];"),
        ["add_size", "index_size", "contract"],
    ),
    "a nested field": (contract(box=BOX + "int32 width = 3;"), ["contract"]),
    "a nested name": (contract(box=BOX.replace("height", "tallness")), ["contract"]),
    "a field without a column": (contract(FIELDS + "map<string, Box> boxes = 8;"), ["contract"]),
    "merge to snapshot": (contract(options=OPTIONS.replace("MERGE", "SNAPSHOT")), ["contract"]),
    "a limit": (contract(options=OPTIONS + " max_reject_percent: 5"), ["contract"]),
    "an index": (
        contract(options=OPTIONS + ' indexes: {fields: ["amount desc"]}'),
        ["index_amount", "contract"],
    ),
    "no index": (
        edited("string label = 2 [(penstock.contract.v1.column).filterable = true]", "string label = 2"),
        ["drop_index_label", "contract"],
    ),
    "a reserved field": (edited("int64 amount = 3;", "reserved 3;"), ["drop_amount"]),
    "an indexed reserved field": (
        edited("string label = 2 [(penstock.contract.v1.column).filterable = true];", "reserved 2;"),
        ["drop_index_label", "drop_label"],
    ),
}


@pytest.mark.parametrize("case", ADDITIVE)
def test_an_additive_change_becomes_migrations_in_the_right_order(folder: Path, case: str) -> None:
    after, titles = ADDITIVE[case]
    plan = changed(folder, contract(), after)
    assert not plan.refusals
    assert len(plan.drafts) == len(titles)
    assert all(draft.title.startswith(title) for draft, title in zip(plan.drafts, titles, strict=True))
    assert [draft.record is not None for draft in plan.drafts] == [False] * (len(titles) - 1) + [True] * bool(titles)


def inside(path: str, fields: str = FIELDS) -> str:
    """The fields with a filterable path inside the box."""
    return fields.replace("box = 6;", f'box = 6 [(penstock.contract.v1.column).filterable_paths = "{path}"];')


PATHS = {
    "of a field that was there": (contract(inside("height")), ["add_box_height"]),
    "of a new field": (contract(inside("width"), box=BOX + "optional int32 width = 3;"), ["add_box_width"]),
    "of a new message": (
        contract(FIELDS + 'Box lid = 8 [(penstock.contract.v1.column).filterable_paths = "height"];'),
        ["add_lid_height"],
    ),
    "beside other changes": (
        contract(
            inside("height") + "int32 size = 8 [(penstock.contract.v1.column).sortable = true];",
            options=OPTIONS + ' indexes: {fields: ["box.height", "size"]} indexes: {fields: ["amount"]}',
        ),
        ["add_size", "index_size", "index_amount", "add_box_height"],
    ),
}


@pytest.mark.parametrize("case", PATHS)
def test_a_path_is_added_with_its_indexes_where_there_are_no_rows(folder: Path, case: str) -> None:
    after, titles = PATHS[case]
    plan = changed(folder, contract(), after)
    assert not plan.refusals
    assert all(draft.title.startswith(title) for draft, title in zip(plan.drafts, titles, strict=True))
    added, guarded, *indexes = plan.drafts[-1].up
    assert "ADD COLUMN" in added
    assert 'IF EXISTS (SELECT FROM "data"."items")' in guarded
    assert ["CREATE INDEX" in statement for statement in indexes] == [True] * (1 + (case == "beside other changes"))


def test_a_path_does_not_go_to_another_field(folder: Path) -> None:
    """The table would have two columns of its name for a while, and the index would seem to be there."""
    before = contract(inside("height"))
    renumbered = contract(inside("height"), box="string material = 1; int32 tall = 2; optional int32 height = 3;")
    assert (
        "Item.box.height: is another field now, 6.3 and no longer 6.2"
        in changed(folder, before, renumbered).refusals[0]
    )
    moved = (
        FIELDS.replace("box = 6;", "old_box = 6;")
        + 'Box box = 8 [(penstock.contract.v1.column).filterable_paths = "height"];'
    )
    assert (
        "Item.box.height: is another field now, 8.2 and no longer 6.2"
        in changed(folder, before, contract(moved)).refusals[0]
    )


def test_a_path_no_longer_named_loses_its_column_and_its_field_cannot_be_renamed(folder: Path) -> None:
    before = contract(inside("height"))
    dropped = changed(folder, before, contract())
    assert not dropped.refusals
    assert [draft.title.rpartition("_")[0] for draft in dropped.drafts] == ["drop_index_box_height", "drop_box"]
    renamed = changed(folder, before, contract(inside("tall"), box=BOX.replace("height", "tall")))
    assert renamed.refusals[0] == "shop.v1.Item.box.tall: renamed from box.height: running services use the old column"


def test_an_index_of_an_existing_table_is_built_concurrently_and_alone(folder: Path) -> None:
    plan = changed(folder, contract(), ADDITIVE["an index"][0])
    index = plan.drafts[0]
    assert not index.transactional
    assert [statement.partition(" IF")[0][:25] for statement in index.up] == [
        "DROP INDEX CONCURRENTLY",
        "CREATE INDEX CONCURRENTLY",
    ]


def test_a_dataset_gone_from_the_contracts_keeps_its_table(folder: Path) -> None:
    assert diff(snapshot_of(folder, contract()), {}) == Plan(drafts=(), refusals=())

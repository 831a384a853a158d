"""What `penstock.datasets.contract` keeps, and the check that both services make at start."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from shared.contract.model import Column, ContractSet, Kind
from shared.contract.snapshot import Snapshot, check_applied, from_dict, snapshots, to_dict
from shared.errors import ConfigError


def rows(applied: dict[str, Snapshot]) -> list[tuple[str, str, str]]:
    return [(name, kept.fingerprint, json.dumps(to_dict(kept))) for name, kept in applied.items()]


def test_a_snapshot_survives_json(contracts: ContractSet) -> None:
    shipments = snapshots(contracts)["shipments"]
    inner = Column(name="sender.city", number=11, inner=(2,), kind=Kind.STRING, implicit=True, nullable=True)
    wider = replace(shipments, columns=(*shipments.columns, inner))
    assert (to_dict(shipments)["format"], to_dict(wider)["format"]) == (1, 2)
    for name, kept in (*snapshots(contracts).items(), ("shipments", wider)):
        assert from_dict(name, kept.fingerprint, json.loads(json.dumps(to_dict(kept)))) == kept


def test_reserving_an_unused_number_changes_nothing(contracts: ContractSet) -> None:
    kept = snapshots(contracts)["airports"]
    assert replace(kept, reserved=(("", 99, 99),)) == kept


def test_a_snapshot_of_another_version_is_refused(contracts: ContractSet) -> None:
    with pytest.raises(ConfigError, match="another version of Penstock"):
        from_dict("airports", "0", to_dict(snapshots(contracts)["airports"]) | {"format": 3})


def test_the_applied_contract_is_accepted(contracts: ContractSet) -> None:
    check_applied(rows(snapshots(contracts)), contracts)


def test_a_dataset_missing_from_the_database_is_named_with_what_to_run(contracts: ContractSet) -> None:
    with pytest.raises(ConfigError, match=r"dataset airports is not in the database.*penstock migrate"):
        check_applied(rows({"shipments": snapshots(contracts)["shipments"]}), contracts)


def test_another_fingerprint_is_refused(contracts: ContractSet) -> None:
    applied = snapshots(contracts)
    applied["airports"] = replace(applied["airports"], fingerprint="00")
    with pytest.raises(ConfigError, match="dataset airports differs from the contract"):
        check_applied(rows(applied), contracts)


def test_a_missing_index_is_refused_because_queries_would_scan(contracts: ContractSet) -> None:
    applied = snapshots(contracts)
    plain = tuple(replace(column, filterable=False) for column in applied["airports"].columns)
    applied["airports"] = replace(applied["airports"], columns=plain)
    with pytest.raises(ConfigError, match="dataset airports lacks index airports__iata"):
        check_applied(rows(applied), contracts)


def test_a_database_with_more_indexes_and_datasets_is_accepted_while_pods_roll_out(contracts: ContractSet) -> None:
    applied = snapshots(contracts)
    more = tuple(replace(column, sortable=True) for column in applied["airports"].columns)
    applied["airports"] = replace(applied["airports"], columns=more)
    applied["others"] = replace(applied["shipments"], name="others")
    check_applied(rows(applied), contracts)

"""Whether the database holds what the model says, once every event has been settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from ingest_service.failures import MEANINGS
from ingest_service.ledger.records import LoadState, LoadTrigger
from shared.contract.model import ContractSet, Dataset
from tests.chaos.buckets import Buckets
from tests.chaos.site import Row, Site
from tests.integration.merge.fold import Address, Fold, Key, newest_claims
from tests.integration.merge.lab import Lab, Thing

# How an attempt may have ended: done, nothing to do, or followed by another one.
_ENDED = frozenset({"SUCCEEDED", "ALREADY_APPLIED", "SUPERSEDED", "ABANDONED", "FAILED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Holds the tables of every dataset against the buckets."""

    connection: psycopg.Connection[Row]
    buckets: Buckets

    def check(self, dataset: Dataset) -> None:
        """Raises AssertionError."""
        fold = self._folded(dataset)
        fold.check_settled(self.buckets.present)
        self._check_rows(dataset, fold)
        self._check_bookkeeping(dataset, fold)
        if dataset.mirrors:
            self._check_owners(dataset, fold)

    def _folded(self, dataset: Dataset) -> Fold:
        """What was committed, in its order. Versions have no gaps, and each is of one load."""
        statement = "SELECT * FROM penstock.loads WHERE dataset = %s ORDER BY dataset_version, ended_at"
        loads = self.connection.execute(statement, [dataset.name]).fetchall()
        assert {load["state"] for load in loads} <= _ENDED
        for load in loads:
            assert load["state"] != LoadState.FAILED or _comes_again(load["reason"]), load
        fold = Fold(policy=dataset.file_policy)
        for load in (load for load in loads if load["state"] == LoadState.SUCCEEDED):
            self._apply(fold, load)
            assert load["dataset_version"] == fold.version, "versions have a gap, or one of them two loads"
        return fold

    def _apply(self, fold: Fold, load: Row) -> None:
        address = load["bucket"], load["key"]
        if load["trigger"] == LoadTrigger.UNLOAD:
            fold.removed(address)
            return
        identity = (load["version_id"],) if load["version_id"] else (load["etag"], load["last_modified"])
        fold.applied(self.buckets.known[address, identity], may_repeat=address in self.buckets.returning)

    def _check_rows(self, dataset: Dataset, fold: Fold) -> None:
        lab = Lab(url="", dataset=dataset)
        held = self.connection.execute(f'SELECT * FROM data."{dataset.name}"'.encode()).fetchall()
        assert len(held) == len(fold.rows)
        assert {_key(row): row["_wire"] for row in held} == {key: lab.wire(thing) for key, thing in fold.rows.items()}
        assert {_key(row): row["label"] for row in held} == {key: thing.label for key, thing in fold.rows.items()}
        assert {_key(row): row["_version"] for row in held} == fold.changed_at

    def _check_bookkeeping(self, dataset: Dataset, fold: Fold) -> None:
        statement = "SELECT version, row_count FROM penstock.datasets WHERE name = %s"
        row = self.connection.execute(statement, [dataset.name]).fetchone()
        assert row == {"version": fold.version, "row_count": len(fold.rows)}
        gone = self.connection.execute(f'SELECT * FROM data."{dataset.name}__deleted"'.encode()).fetchall()
        assert sorted((_key(row), row["_version"]) for row in gone) == sorted(fold.tombstones)

    def _check_owners(self, dataset: Dataset, fold: Fold) -> None:
        """Every row is the newest object's that has its key; every other one waits in the shadow."""
        shown = self._of_objects(dataset, dataset.name)
        assert {_key(row): _address(row) for row in shown} == newest_claims(fold.claims.values())[1]
        waiting = self._of_objects(dataset, f"{dataset.name}__shadow")
        things = [Thing(owner=row["owner"], number=int(row["number"]), label=row["label"]) for row in waiting]
        assert len(waiting) == len(fold.waiting())
        assert {(_address(row), thing) for row, thing in zip(waiting, things, strict=True)} == fold.waiting()

    def _of_objects(self, dataset: Dataset, table: str) -> Sequence[Row]:
        statement = f"""
            SELECT owner, number, label, bucket, key FROM data."{table}" AS held
            JOIN penstock.objects ON objects.id = held._object AND objects.dataset = %s
        """
        return self.connection.execute(statement.encode(), [dataset.name]).fetchall()


def check(site: Site, buckets: Buckets, contracts: ContractSet) -> None:
    """All datasets."""
    with site.connect() as connection:
        for dataset in contracts.datasets.values():
            try:
                Verdict(connection=connection, buckets=buckets).check(dataset)
            except (AssertionError, KeyError) as exc:
                raise AssertionError(f"{dataset.name}: {type(exc).__name__}: {exc}") from exc


def _comes_again(reason: str) -> bool:
    return reason != "INTERNAL" and MEANINGS[reason].again


def _key(row: Mapping[str, Any]) -> Key:
    return row["owner"], int(row["number"])


def _address(row: Mapping[str, Any]) -> Address:
    return row["bucket"], row["key"]

"""What a table must hold after what the ledger says was committed: a plain model of the three file policies.

It folds one version after the other and knows nothing of SQL, of events, and of who delivered them when.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ingest_service.ledger.records import ObjectVersion
from shared.contract.model import FilePolicy
from tests.integration.merge.lab import Thing

# Bucket and key of an object; owner and number of a row.
Address: TypeAlias = "tuple[str, str]"
Key: TypeAlias = "tuple[str, int]"
Rows: TypeAlias = "dict[Key, Thing]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """One version of one object, and the rows in it."""

    version: ObjectVersion
    things: Sequence[Thing]

    @property
    def address(self) -> Address:
        return self.version.bucket, self.version.key

    @property
    def rows(self) -> Rows:
        return {thing.key: thing for thing in self.things}

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes it the identical version."""
        version = self.version
        return (version.version_id,) if version.version_id else (version.etag, version.last_modified)

    @property
    def rank(self) -> tuple[dt.datetime, str, str]:
        """What makes one object newer than another."""
        assert self.version.last_modified is not None
        return self.version.last_modified, self.version.bucket, self.version.key


@dataclass(kw_only=True)
class Fold:
    """The table after `version` commits. `claims`: what was applied last of each object, as long as it counts."""

    policy: FilePolicy
    version: int = 0
    rows: Rows = field(default_factory=dict)
    changed_at: dict[Key, int] = field(default_factory=dict)
    tombstones: set[tuple[Key, int]] = field(default_factory=set)
    claims: dict[Address, Content] = field(default_factory=dict)
    snapshots: list[Content] = field(default_factory=list)

    def applied(self, content: Content, *, may_repeat: bool = False) -> None:
        """The next version is that of a load. `may_repeat`: the object was removed at some time, and came back."""
        assert may_repeat or not self._is_shown(content), f"{content.version.uri} was applied twice"
        self.version += 1
        self.claims[content.address] = content
        if self.policy is FilePolicy.MERGE:
            self._become(self.rows | content.rows)
        elif self.policy is FilePolicy.MIRROR:
            self._become(newest_claims(self.claims.values())[0])
        else:
            self._replace(content)

    def removed(self, address: Address) -> None:
        """The next version is that of the removal of an object whose rows go with it."""
        self.version += 1
        del self.claims[address]
        self._become(newest_claims(self.claims.values())[0])

    def waiting(self) -> set[tuple[Address, Thing]]:
        """MIRROR: rows that lie in the bucket and are not shown, with their objects."""
        _, owners = newest_claims(self.claims.values())
        return {
            (address, thing)
            for address, content in self.claims.items()
            for thing in content.things
            if owners[thing.key] != address
        }

    def check_settled(self, present: Mapping[Address, Content]) -> None:
        """Every event was delivered: the table follows from what lies in the buckets, as far as the policy says so."""
        held = {address: content.identity for address, content in present.items()}
        applied = {address: content.identity for address, content in self.claims.items()}
        if self.policy is FilePolicy.MIRROR:
            assert applied == held
            assert self.rows == newest_claims(present.values())[0]
        elif self.policy is FilePolicy.MERGE:
            assert {address: applied.get(address) for address in held} == held
        else:
            newest = max((snapshot.rank for snapshot in self.snapshots), default=None)
            for content in present.values():
                assert newest is not None
                assert content.rank <= newest, f"{content.version.uri} is newer than what is shown"
                assert content.address != self.snapshots[-1].address or self._is_shown(content)

    def _replace(self, content: Content) -> None:
        """Versions of one object are put in order by its events, not by their age."""
        last = self.snapshots[-1] if self.snapshots else content
        assert content.rank >= last.rank or content.address == last.address, "an older snapshot replaced a newer one"
        self.snapshots.append(content)
        self._become(content.rows)

    def _is_shown(self, content: Content) -> bool:
        last = self.snapshots[-1] if self.snapshots else self.claims.get(content.address)
        return last is not None and (last.address, last.identity) == (content.address, content.identity)

    def _become(self, rows: Rows) -> None:
        self.tombstones |= {(key, self.version) for key in self.rows.keys() - rows.keys()}
        same = {key for key, thing in rows.items() if self.rows.get(key) == thing}
        self.changed_at = {key: self.changed_at[key] if key in same else self.version for key in rows}
        self.rows = rows


def newest_claims(contents: Iterable[Content]) -> tuple[Rows, dict[Key, Address]]:
    """By key: the row of the newest object that holds it, and that object."""
    rows: Rows = {}
    owners: dict[Key, Address] = {}
    for content in sorted(contents, key=lambda content: content.rank):
        rows |= content.rows
        owners |= dict.fromkeys(content.rows, content.address)
    return rows, owners

"""Brings a database to a set of contracts: core migrations first, then the contracts' own; and back again.

Everything here is safe to repeat, to run twice at once, and to kill at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.contract import migration_files, snapshot
from shared.contract.diff import diff
from shared.contract.model import ContractSet
from shared.errors import ConfigError, ContractError, FailedPrecondition
from shared.postgres import bookkeeping

CORE_FOLDER = Path(__file__).resolve().parents[2] / "migrations"
CORE = "core"
CONTRACTS = "contracts"
LOCK_WAIT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationState:
    """One migration, by the id `core/...` or `contracts/...`."""

    id: str
    applied: bool


def apply(
    database_url: str, contracts: Path | None, *, generated: Path | None = None, lock_wait_s: float = LOCK_WAIT_S
) -> list[str]:
    """Applies what is missing; returns the ids. `contracts` as for load_contracts; `generated` is one more folder.

    Raises ConfigError (unreachable, not allowed), FailedPrecondition (a migration failed; it left no trace) and
    Unavailable (locked: run it again).
    """
    done: list[str] = []
    with bookkeeping.session(database_url, lock_wait_s=lock_wait_s) as backend:
        applied = set(bookkeeping.applied_ids(backend))
        for migration in _migrations(contracts, generated):
            if migration.id not in applied:
                bookkeeping.run(backend, migration, "apply")
                applied.add(migration.id)
                done.append(migration.id)
    return done


def rollback(
    database_url: str, contracts: Path | None, count: int | None, *, lock_wait_s: float = LOCK_WAIT_S
) -> list[str]:
    """Takes back the last `count` migrations (None: all) with the rows in their tables; returns the ids."""
    done: list[str] = []
    with bookkeeping.session(database_url, lock_wait_s=lock_wait_s) as backend:
        known = {migration.id: migration for migration in _migrations(contracts, None)}
        chosen = bookkeeping.applied_ids(backend)[::-1][:count]
        _refuse_unknown(chosen, known)
        for name in chosen:
            bookkeeping.run(backend, known[name], "rollback")
            done.append(name)
    return done


def status(database_url: str, contracts: Path | None) -> list[MigrationState]:
    """Every migration in the order of application, and whether the database has it. Takes no lock."""
    with bookkeeping.connect(database_url) as backend:
        applied = set(bookkeeping.applied_ids(backend))
    return [MigrationState(id=m.id, applied=m.id in applied) for m in _migrations(contracts, None)]


def applied_rows(database_url: str) -> list[tuple[str, str, str]]:
    """The rows of snapshot.APPLIED_SQL; empty where core was never applied."""
    with bookkeeping.connect(database_url) as backend:
        if backend.execute("SELECT to_regclass('penstock.datasets')").fetchone()[0] is None:
            return []
        return [(str(name), str(mark), str(text)) for name, mark, text in backend.execute(snapshot.APPLIED_SQL)]


def applied_snapshots(database_url: str) -> dict[str, snapshot.Snapshot]:
    """The contracts that the database was migrated for, by dataset."""
    rows = applied_rows(database_url)
    return {name: snapshot.from_dict(name, mark, json.loads(text)) for name, mark, text in rows}


def bring_up(database_url: str, contracts: Path | None, loaded: ContractSet, generated: Path) -> list[str]:
    """`apply`, then migrations for what the contracts' folder has none for, written to `generated` and applied.

    For the local stack: a contract without migrations just works, and the contracts' own folder is never written to.
    Raises ContractError with every change that is refused.
    """
    done = apply(database_url, contracts, generated=generated)
    generate_missing(database_url, contracts, loaded, generated)
    done += apply(database_url, contracts, generated=generated)
    snapshot.check_applied(applied_rows(database_url), loaded)
    return done


def generate_missing(database_url: str, contracts: Path | None, loaded: ContractSet, generated: Path) -> list[Path]:
    """Writes migrations from what the database has to what the contracts say; returns the files."""
    plan = diff(applied_snapshots(database_url), snapshot.snapshots(loaded))
    if plan.refusals:
        raise ContractError(plan.refusals)
    folders = (migration_files.folder_of(contracts), generated)
    last = max(migration_files.last_number(folder) for folder in folders)
    return migration_files.write(generated, migration_files.number(plan.drafts, last)) if plan.drafts else []


def _migrations(contracts: Path | None, generated: Path | None) -> list[Any]:
    core = bookkeeping.read_folder(CORE_FOLDER, CORE)
    if not core:
        message = f"no core migrations in {CORE_FOLDER}: run penstock from a checkout or an image of this repository"
        raise ConfigError(message, reason="NO_CORE_MIGRATIONS")
    folders = [migration_files.folder_of(contracts), *([generated] if generated else [])]
    return [*core, *(m for folder in folders for m in bookkeeping.read_folder(folder, CONTRACTS))]


def _refuse_unknown(chosen: Sequence[str], known: Mapping[str, Any]) -> None:
    unknown = [name for name in chosen if name not in known]
    if unknown:
        message = f"{unknown[0]} was applied from another folder: roll it back with its own --contracts first"
        raise FailedPrecondition(message, reason="MIGRATION_UNKNOWN")

"""`penstock contract sql`: writes the next migration of a contract set, with its rollback, for review."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from shared.cli.migrate import contracts_path
from shared.contract import migration_files, snapshot
from shared.contract.build import load_contracts
from shared.contract.diff import Draft, diff
from shared.contract.model import ContractSet
from shared.errors import ContractError, FailedPrecondition
from shared.postgres import migrate


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `sql` to the subcommands of `penstock contract`."""
    parser = subparsers.add_parser("sql", help="write the next migration of the contracts, with its rollback")
    parser.add_argument("path", type=Path, nargs="?", help="folder or descriptor set; default: protos/")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: migrations/ beside the contracts")
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="compare with what this database has (default: PENSTOCK_DATABASE_URL; where neither is set, with what the "
        "migrations beside the contracts record)",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a migration is missing")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs `penstock contract sql`. Raises ContractError with every change that is refused."""
    path = contracts_path(arguments.path)
    folder = arguments.out or migration_files.folder_of(path)
    url = arguments.database_url or os.environ.get("PENSTOCK_DATABASE_URL", "")
    loaded = load_contracts(path)
    applied = _in_database(url, path) if url else _in_files(folder, loaded)
    plan = diff(applied, snapshot.snapshots(loaded))
    if plan.refusals:
        raise ContractError(plan.refusals)
    if not plan.drafts:
        print("the migrations are up to date with the contracts")
        return 0
    if arguments.check:
        print(f"migrations are missing for {_datasets(plan.drafts)}: run penstock contract sql")
        return 1
    for written in migration_files.write(folder, migration_files.number(plan.drafts, _last_number(folder, path))):
        print(written)
    return 0


def _in_database(url: str, path: Path | None) -> dict[str, snapshot.Snapshot]:
    """What the database has. Migrations that wait to be applied there would be written a second time."""
    pending = [state.id for state in migrate.status(url, path) if not state.applied]
    waiting = [name for name in pending if name.startswith(f"{migrate.CONTRACTS}/")]
    if waiting:
        message = f"{waiting[0]} is not applied to the database yet: run penstock migrate first"
        raise FailedPrecondition(message, reason="MIGRATION_PENDING")
    return migrate.applied_snapshots(url)


def _in_files(folder: Path, loaded: ContractSet) -> dict[str, snapshot.Snapshot]:
    """What the folder's migrations leave applied."""
    applied = migration_files.recorded(folder)
    for name in sorted(applied.keys() - loaded.datasets.keys()):
        print(f"note: dataset {name} is in {folder} and in no contract any more; its table stays", file=sys.stderr)
    return applied


def _last_number(folder: Path, path: Path | None) -> int:
    return max(migration_files.last_number(folder), migration_files.last_number(migration_files.folder_of(path)))


def _datasets(drafts: tuple[Draft, ...]) -> str:
    return ", ".join(sorted({draft.dataset for draft in drafts}))

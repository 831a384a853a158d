"""`penstock migrate`: applies core and contract migrations, shows them, or takes them back."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from shared.contract.build import load_contracts
from shared.contract.snapshot import check_applied
from shared.errors import ConfigError
from shared.postgres import migrate


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the subcommand; `func(args)` returns the exit code."""
    parser = subparsers.add_parser("migrate", help="apply core and contract migrations")
    parser.add_argument("--contracts", type=Path, metavar="PATH", help="folder or descriptor set; default: protos/")
    parser.add_argument("--database-url", metavar="URL", help="default: PENSTOCK_DATABASE_URL")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--status", action="store_true", help="list the migrations and whether they are applied")
    action.add_argument(
        "--rollback", nargs="?", const="1", metavar="N|all", help="take back the last N migrations and their rows"
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs `penstock migrate`; expected errors are raised as PenstockError."""
    url = database_url(arguments.database_url)
    contracts = contracts_path(arguments.contracts)
    if arguments.status:
        for state in migrate.status(url, contracts):
            print(f"{'applied' if state.applied else 'pending'}  {state.id}")
    elif arguments.rollback is not None:
        for name in migrate.rollback(url, contracts, _count(arguments.rollback)):
            print(f"rolled back  {name}")
    else:
        _apply(url, contracts)
    return 0


def _apply(url: str, contracts: Path | None) -> None:
    loaded = load_contracts(contracts)
    done = migrate.apply(url, contracts)
    for name in done:
        print(f"applied  {name}")
    check_applied(migrate.applied_rows(url), loaded)
    if not done:
        print("nothing to apply")


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--rollback {text}: give a number of migrations or all", reason="ARGUMENT")
    return int(text)


def database_url(argument: str | None) -> str:
    """The URL given, or PENSTOCK_DATABASE_URL."""
    url = argument or os.environ.get("PENSTOCK_DATABASE_URL", "")
    if not url:
        message = (
            "no database: set PENSTOCK_DATABASE_URL or give --database-url (postgresql://user:password@host:port/db)"
        )
        raise ConfigError(message, reason="DATABASE_URL")
    return url


def contracts_path(argument: Path | None) -> Path | None:
    """The path given, or PENSTOCK_CONTRACTS; None for the repository's own contracts."""
    configured = os.environ.get("PENSTOCK_CONTRACTS", "")
    return argument or (Path(configured) if configured else None)

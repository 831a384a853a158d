"""`penstock contract`: check contracts, write their migrations and documentation, generate stubs for callers."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from shared.cli import contract_docs, contract_sql
from shared.contract.build import load_contracts
from shared.contract.compile import PROTOS
from shared.contract.model import ContractSet
from shared.contract.stubs import generate_python
from shared.errors import ConfigError


def add_parser(subparsers: Any) -> None:
    """Adds `contract` and its actions."""
    parser = subparsers.add_parser("contract", help="check contracts, write migrations, documentation and stubs")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="refuse contracts that break a rule; describe the others")
    add_path(check)
    check.set_defaults(func=run_check)
    contract_sql.add_parser(actions)
    add_path(contract_docs.add_parser(actions))
    stubs = actions.add_parser("stubs", help="generate typed stubs for callers")
    add_path(stubs)
    stubs.add_argument("--lang", choices=["python"], default="python", help="language of the stubs (default: python)")
    stubs.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    stubs.set_defaults(func=run_stubs)


def add_path(parser: argparse.ArgumentParser) -> None:
    """The contracts argument that every action takes."""
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        default=os.environ.get("PENSTOCK_CONTRACTS") or None,
        metavar="PATH",
        help="folder of .proto files or a FileDescriptorSet (default: PENSTOCK_CONTRACTS, else protos/)",
    )


def run_check(args: argparse.Namespace) -> int:
    """Prints one line a dataset and one a service; raises ContractError where a rule is broken."""
    for line in describe(load_contracts(args.path)):
        print(line)
    return 0


def describe(contracts: ContractSet) -> list[str]:
    """What a checked set of contracts will serve."""
    lines = [
        f"dataset {dataset.name}: {dataset.message.full_name}, key {', '.join(dataset.key)}, "
        f"{len(dataset.columns)} columns, {dataset.file_policy.value}"
        for dataset in contracts.datasets.values()
    ]
    for service in contracts.services:
        methods = ", ".join(method.name for method in service.methods)
        lines.append(f"service {service.full_name}: serves {service.dataset.name} with {methods}")
    return lines or ["no message has the dataset option: nothing will be loaded or served"]


def run_stubs(args: argparse.Namespace) -> int:
    """Generates the stubs of checked contracts."""
    folder = args.path or PROTOS
    if not folder.is_dir():
        raise ConfigError(f"{folder}: stubs are made from a folder of .proto files", reason="NOT_A_FOLDER")
    load_contracts(folder)
    try:
        written = generate_python(folder, args.out)
    except OSError as exc:
        raise ConfigError(f"{args.out}: cannot be written to ({exc.strerror})", reason="CANNOT_WRITE") from exc
    print(f"{len(written)} files in {args.out}; put it on PYTHONPATH, with grpcio and protobuf installed")
    return 0

"""`penstock contract docs`: the API reference (Markdown) and OpenAPI of contracts, from their comments."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from shared.contract.build import build_contracts
from shared.contract.compile import PROTOS, compile_folder
from shared.contract.openapi import openapi
from shared.contract.reference import reference
from shared.errors import ConfigError


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Adds `docs` to the subcommands of `penstock contract`."""
    parser = actions.add_parser("docs", help="write API.md and openapi.json of contracts, from their comments")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write to (default: the contracts')")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is stale")
    parser.set_defaults(func=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Writes the two files, or compares them."""
    folder = args.path or PROTOS
    if not folder.is_dir():
        raise ConfigError(f"{folder}: documentation is made from a folder of .proto files", reason="NOT_A_FOLDER")
    out = args.out or folder
    texts = documents(folder)
    if args.check:
        stale = [name for name, text in texts.items() if _read(out / name) != text]
        if stale:
            raise ConfigError(f"{out}: {', '.join(stale)} out of date: run penstock contract docs", reason="STALE_DOCS")
        return 0
    _write(out, texts)
    print(f"{', '.join(texts)} in {out}")
    return 0


def documents(folder: Path) -> Mapping[str, str]:
    """The texts by file name. Raises ContractError where the contracts break a rule."""
    contracts = build_contracts(compile_folder(folder, source_info=True, also=["penstock/rpc/v1/error_reason.proto"]))
    described = openapi(contracts, metadata.version("penstock"))
    return {
        "API.md": reference(contracts),
        "openapi.json": json.dumps(described, indent=1, ensure_ascii=False) + "\n",
    }


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _write(out: Path, texts: Mapping[str, str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text)
    except OSError as exc:
        raise ConfigError(f"{out}: cannot be written to ({exc.strerror})", reason="CANNOT_WRITE") from exc

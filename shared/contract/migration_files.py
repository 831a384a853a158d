"""Contract migrations as files: a draft's text in yoyo's form, the numbering, and the contracts a folder has recorded.

The texts are made to be reviewed. Never touches a database.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.contract import ddl
from shared.contract.compile import PROTOS
from shared.contract.diff import ALTER_LOCK_TIMEOUT, BUILD_LOCK_TIMEOUT, Draft
from shared.contract.snapshot import Snapshot, from_dict, to_dict
from shared.errors import ConfigError

FOLDER = "migrations"
ROLLBACK_SUFFIX = ".rollback.sql"
_NUMBERED = re.compile(r"(\d+)\..*\.sql")
# Written by _record_sql; the JSON holds no single quote.
_RECORD = re.compile(
    r"INSERT INTO penstock\.datasets \(name, fingerprint, contract\)\s+"
    r"VALUES \('([a-z][a-z0-9_]*)', '([0-9a-f]+)', '([^']*)'\)"
)
# Files without a transaction contradict what .squawk.toml assumes of all files, and say so where squawk looks.
_NO_TRANSACTION = "-- transactional: false\n"
_SQUAWK = "-- squawk-ignore ban-concurrent-index-creation-in-transaction\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationFile:
    """A migration with its rollback; `name` is without suffix, as yoyo names it."""

    name: str
    up: str
    down: str


def folder_of(contracts: Path | None) -> Path:
    """Where the migrations of a contract set live: beside it. None: the repository's `protos/`."""
    contracts = contracts or PROTOS
    return contracts.parent / FOLDER if contracts.is_file() else contracts / FOLDER


def number(drafts: Iterable[Draft], after: int) -> list[MigrationFile]:
    """The drafts as files, numbered from `after` + 1."""
    return [
        MigrationFile(name=f"{position:04d}.{draft.dataset}.{draft.title}", up=_up(draft), down=_down(draft))
        for position, draft in enumerate(drafts, after + 1)
    ]


def last_number(folder: Path) -> int:
    """The highest number in a folder of migrations; 0 where there is none."""
    return max((int(found[1]) for path in _files(folder) if (found := _NUMBERED.fullmatch(path.name))), default=0)


def write(folder: Path, files: Sequence[MigrationFile]) -> list[Path]:
    """Writes migrations and rollbacks; returns the migrations' paths. Never overwrites."""
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            path = folder / f"{file.name}.sql"
            for target, text in ((folder / f"{file.name}{ROLLBACK_SUFFIX}", file.down), (path, file.up)):
                with target.open("x", encoding="utf-8") as stream:
                    stream.write(text)
            written.append(path)
    except OSError as exc:
        message = f"{exc.filename or folder}: cannot be written ({exc.strerror}); choose another folder with --out"
        raise ConfigError(message, reason="MIGRATIONS_NOT_WRITABLE") from exc
    return written


def recorded(folder: Path) -> dict[str, Snapshot]:
    """The contracts that the folder's migrations leave applied, by dataset: those of the last file that records one."""
    found: dict[str, Snapshot] = {}
    for path in _files(folder):
        for name, fingerprint, contract in _RECORD.findall(path.read_text(encoding="utf-8")):
            found[name] = from_dict(name, fingerprint, json.loads(contract))
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.sql") if not path.name.endswith(ROLLBACK_SUFFIX))


def _up(draft: Draft) -> str:
    statements = [*draft.up, *([_record_sql(draft.record)] if draft.record else [])]
    return _text(draft, f"{draft.dataset}: {_words(draft.title)}.", statements)


def _down(draft: Draft) -> str:
    restored = [_record_sql(draft.restore)] if draft.restore else []
    forgotten = [f"DELETE FROM penstock.datasets WHERE name = {ddl.quote_literal(draft.dataset)}"]  # noqa: S608  quoted
    first = restored if draft.restore or not draft.record else forgotten
    return _text(draft, f"Takes back: {draft.dataset}: {_words(draft.title)}.", [*first, *draft.down])


def _words(title: str) -> str:
    return title.replace("_", " ", 1)


def _text(draft: Draft, heading: str, statements: Sequence[str]) -> str:
    if draft.transactional:
        timeouts = f"SET LOCAL lock_timeout = '{ALTER_LOCK_TIMEOUT}';\nSET LOCAL statement_timeout = '60s';\n"
        return f"-- {heading}\n{timeouts}\n" + "".join(f"{statement};\n" for statement in statements)
    head = f"-- {heading}\n{_NO_TRANSACTION}SET lock_timeout = '{BUILD_LOCK_TIMEOUT}';\nSET statement_timeout = 0;\n"
    return head + "".join(f"\n{_SQUAWK}{statement};\n" for statement in statements)


def _record_sql(applied: Snapshot) -> str:
    """Records the contract as applied. One form for all files, because `recorded` reads it back."""
    contract = _pretty(to_dict(applied)).replace("'", "\\u0027")
    return (
        "INSERT INTO penstock.datasets (name, fingerprint, contract)\n"
        f"VALUES ('{applied.name}', '{applied.fingerprint}', '{contract}')\n"
        "ON CONFLICT (name) DO UPDATE\n"
        "SET fingerprint = excluded.fingerprint, contract = excluded.contract, updated_at = now()"
    )


def _pretty(value: dict[str, Any]) -> str:
    """JSON with one column or field a line, so that a reviewer's diff shows what changed."""
    return "{\n" + ",\n".join(f"  {json.dumps(name)}: {_lines(part)}" for name, part in value.items()) + "\n}"


def _lines(part: Any) -> str:
    if isinstance(part, dict) and any(isinstance(item, dict) for item in part.values()):
        return (
            "{\n" + ",\n".join(f"    {json.dumps(name)}: {json.dumps(item)}" for name, item in part.items()) + "\n  }"
        )
    if isinstance(part, list) and any(isinstance(item, dict) for item in part):
        return "[\n" + ",\n".join(f"    {json.dumps(item)}" for item in part) + "\n  ]"
    return json.dumps(part)

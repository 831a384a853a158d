"""From the contracts that were applied to those of today: the migrations in between, or why there can be none.

Pure. Additive changes become ALTERs that running services do not notice; the rest is refused (evolution.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from shared.contract import ddl
from shared.contract.evolution import refusals, removed
from shared.contract.model import Column
from shared.contract.snapshot import Snapshot

# An ALTER waits behind every open reader and everybody else waits behind it, so it gives up soon.
ALTER_LOCK_TIMEOUT = "5s"
# A concurrent build waits for open transactions too and blocks neither readers nor writers meanwhile.
BUILD_LOCK_TIMEOUT = "30min"
# There are no rows, so nobody waits for it.
_PLAIN_INDEX = "-- squawk-ignore require-concurrent-index-creation"

# Statements that make a change, and those that take it back.
Change = tuple[list[str], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One migration file before it has a number. `record` is the contract it records as applied, if it does.

    `up` and `down` are statements without semicolon. Where `transactional` is False each one commits by itself, and
    running `up` again after a crash in the middle must do no harm.
    """

    dataset: str
    title: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    transactional: bool = True
    record: Snapshot | None = None
    restore: Snapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `diff` found: the drafts in the order to apply, and refusals (then nothing shall be applied)."""

    drafts: tuple[Draft, ...]
    refusals: tuple[str, ...]


def diff(applied: Mapping[str, Snapshot], current: Mapping[str, Snapshot]) -> Plan:
    """Compares by dataset name. A dataset that has gone from the contracts keeps its table: another set may hold it."""
    drafts: list[Draft] = []
    problems: list[str] = []
    for name, new in sorted(current.items()):
        old = applied.get(name)
        if old is None:
            drafts.append(_creation(new))
            continue
        found = refusals(old, new)
        problems += found
        new = replace(new, retired=tuple(sorted({*old.retired, *removed(old, new)})))
        if not found and new != old:
            drafts += _alteration(old, new)
    return Plan(drafts=tuple(drafts), refusals=tuple(problems))


def _creation(new: Snapshot) -> Draft:
    return Draft(
        dataset=new.name,
        title="create",
        up=(*ddl.create_statements(new), *(index.create_sql for index in ddl.index_statements(new))),
        down=tuple(ddl.drop_statements(new)),
        record=new,
    )


def _alteration(old: Snapshot, new: Snapshot) -> list[Draft]:
    """Columns first, then each index in a file of its own, and last the record that all of it is there."""
    added = [column for column in new.columns if column.path not in _paths(old)]
    dropped = [column for column in old.columns if column.path not in _paths(new)]
    inside = [column for column in added if column.inner]
    grow = [_add_column(new, column) for column in added if not column.inner]
    last = [*_add_inside(new, inside), *(_drop_column(new, column) for column in dropped)]
    indexes = list(_index_drafts(old, _without(new, inside)))
    if not indexes:
        return [_contract_draft(old, new, [*grow, *last], _title(added, dropped))]
    title = _title([column for column in added if not column.inner], [])
    columns = [_columns_draft(new, grow, title)] if grow else []
    return [*columns, *indexes, _contract_draft(old, new, last, _title(inside, dropped))]


def _paths(state: Snapshot) -> frozenset[str]:
    return frozenset(column.path for column in state.columns)


def _without(state: Snapshot, columns: Sequence[Column]) -> Snapshot:
    """The contract as if it did not name these paths."""
    names = {column.name for column in columns}
    kept = tuple(column for column in state.columns if column.name not in names)
    indexes = tuple(index for index in state.indexes if not any(part.name in names for part in index))
    return replace(state, columns=kept, indexes=indexes)


def _add_inside(new: Snapshot, columns: Sequence[Column]) -> list[Change]:
    """Columns of fields inside messages, and their indexes, while there are no rows.

    Bytes may hold a field that no contract of now had: one without a column is there after a rollback too, and nothing
    tells. The lock of the first ALTER lasts until the contract is recorded, and no load by the one of before comes
    after that, as its fingerprint differs. To add them again needs the same, so a rollback retires nothing.
    """
    if not columns:
        return []
    names = ", ".join(column.name for column in columns)
    reason = f"{new.name} has rows, and the values that they may hold of {names} are in no column"
    way = (
        "unload the rows and load them again afterwards, or give the dataset a new name and load the same files into it"
    )
    plain = {index.name for index in ddl.index_statements(_without(new, columns))}
    indexes = [index for index in ddl.index_statements(new) if index.name not in plain]
    return [
        *(_add_plainly(new, column) for column in columns),
        ([_refuse_rows(new, f"{reason}: {way}")], []),
        *(([f"{_PLAIN_INDEX}\n{index.create_sql}"], []) for index in indexes),
    ]


def _title(added: list[Column], dropped: list[Column]) -> str:
    """A file name's words: what changed where that is one column, `contract` where no column did."""
    if len(added) + len(dropped) == 1:
        return (f"add_{added[0].name}" if added else f"drop_{dropped[0].name}").replace(".", "_")
    return "columns" if added or dropped else "contract"


def _add_column(new: Snapshot, column: Column) -> Change:
    add, drop = _add_plainly(new, column)
    retire = [_retire(new, column, table) for table in ddl.row_tables(new)]
    return [_refuse_retired(new, column), *add], [*retire, *drop]


def _add_plainly(new: Snapshot, column: Column) -> Change:
    # A constant default needs no rewrite of the table (Postgres 11), so the lock is held for a moment only.
    tables, definition = ddl.row_tables(new), ddl.column_definition(column)
    add = [f"ALTER TABLE {table} ADD COLUMN {definition}" for table in tables]
    return add, [f"ALTER TABLE {table} DROP COLUMN {ddl.quote_ident(column.name)}" for table in tables]


def _retire(new: Snapshot, column: Column, table: str) -> str:
    """Stored bytes keep the values of a column that a rollback drops; adding it again beside them would be a lie.

    So a rollback retires the field's number where any row holds a value, and `_refuse_retired` keeps it away.
    """
    holds_value = f"{ddl.quote_ident(column.name)} IS DISTINCT FROM {ddl.absent_value(column)}"
    name = ddl.quote_literal(new.name)
    retired = f"""coalesce(contract -> 'retired', '[]') || '["{column.path}"]'"""
    return (
        f"UPDATE penstock.datasets\nSET contract = jsonb_set(contract, '{{retired}}', {retired})\n"
        f"WHERE name = {name} AND EXISTS (SELECT FROM {table} WHERE {holds_value})"
    )


def _refuse_retired(new: Snapshot, column: Column) -> str:
    name = ddl.quote_literal(new.name)
    rows = f"SELECT FROM penstock.datasets WHERE name = {name} AND contract -> 'retired' ? '{column.path}'"
    reason = f"{new.name}.{column.name} was rolled back while rows carried it: give the field another number"
    return _guard(f"IF EXISTS ({rows}) THEN RAISE EXCEPTION {ddl.quote_literal(reason)}; END IF;")


def _guard(body: str) -> str:
    return f"DO $guard$ BEGIN {body} END $guard$"


def _drop_column(new: Snapshot, column: Column) -> Change:
    """Taken back only while the table is empty: the values are gone, and a default beside `_wire` would be a lie."""
    tables, name = ddl.row_tables(new), ddl.quote_ident(column.name)
    reason = f"{new.name}.{column.name} was dropped and its values are gone: unload the rows first"
    # The contract reserves its number, or names its path no more: the consent that squawk asks for.
    drop = [f"-- squawk-ignore ban-drop-column\nALTER TABLE {table} DROP COLUMN {name}" for table in tables]
    return drop, [*_add_plainly(new, column)[0], _refuse_rows(new, reason)]


def _refuse_rows(new: Snapshot, reason: str) -> str:
    # A row waits in the shadow only behind one in the table, so the table alone tells.
    return _guard(f"IF EXISTS (SELECT FROM {ddl.table(new)}) THEN RAISE EXCEPTION {ddl.quote_literal(reason)}; END IF;")


def _index_drafts(old: Snapshot, new: Snapshot) -> Iterator[Draft]:
    before = {index.name: index for index in ddl.index_statements(old)}
    after = {index.name: index for index in ddl.index_statements(new)}
    for name, index in after.items():
        if name not in before:
            yield _index_draft(new, index, create=True)
    for name, index in before.items():
        if name not in after:
            yield _index_draft(new, index, create=False)


def _index_draft(new: Snapshot, index: ddl.Index, *, create: bool) -> Draft:
    """A build that was killed leaves an INVALID index of that name: dropping it first makes the file safe to repeat."""
    build = (index.drop_concurrently_sql, index.create_concurrently_sql)
    drop = (index.drop_concurrently_sql,)
    words = index.name.removeprefix(f"{new.name}__")
    return Draft(
        dataset=new.name,
        title=f"{'index' if create else 'drop_index'}_{words}",
        up=build if create else drop,
        down=drop if create else build,
        transactional=False,
    )


def _columns_draft(new: Snapshot, changes: list[Change], title: str) -> Draft:
    return Draft(
        dataset=new.name,
        title=title,
        up=tuple(statement for up, _ in changes for statement in up),
        down=tuple(statement for _, down in reversed(changes) for statement in down),
    )


def _contract_draft(old: Snapshot, new: Snapshot, changes: list[Change], title: str) -> Draft:
    return replace(_columns_draft(new, changes, title), record=new, restore=old)

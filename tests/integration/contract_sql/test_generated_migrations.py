"""Generated migrations on a real Postgres: every type, and every additive change over rows, forth and back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from shared.contract import migration_files
from shared.contract.build import load_contracts
from shared.contract.diff import diff
from shared.contract.snapshot import check_applied, snapshots
from shared.errors import FailedPrecondition, Unavailable
from shared.local.postgres import EmbeddedPostgres
from shared.postgres import migrate
from tests.conftest import new_database
from tests.integration.contract_sql.catalog import execute, schema, value
from tests.integration.contract_sql.texts import (
    BOX,
    EVERY_TYPE,
    FIELDS,
    INSERT,
    OPTIONS,
    contract,
    write_contract,
    write_migrations,
)

ROOT = Path(__file__).resolve().parents[3]


def migrated(url: str, folder: Path, text: str) -> list[str]:
    write_contract(folder, text)
    write_migrations(folder)
    done = migrate.apply(url, folder)
    check_applied(migrate.applied_rows(url), load_contracts(folder))
    return done


LABEL = "string label = 2 [(penstock.contract.v1.column).filterable = true];"
CHANGES = {
    "every type": contract(FIELDS + EVERY_TYPE),
    "an index with its field": contract(FIELDS + "string x = 8 [(penstock.contract.v1.column).searchable = true];"),
    "flags": contract(
        FIELDS.replace(LABEL, "string label = 2 [(penstock.contract.v1.column) = {sortable: true searchable: true}];")
    ),
    "no index": contract(FIELDS.replace(LABEL, "string label = 2;")),
    "composite indexes": contract(
        options=OPTIONS + ' indexes: {fields: ["amount desc", "label"]} indexes: {fields: ["colour", "amount"]}'
    ),
    "a nested field": contract(box=BOX + "repeated int32 widths = 3;"),
    "a limit": contract(options=OPTIONS + " max_reject_percent: 5 max_row_bytes: 1000"),
    "another policy": contract(options=OPTIONS.replace("MERGE", "SNAPSHOT")),
    "text that must be quoted": contract(
        FIELDS + "int32 select = 8 [(penstock.contract.v1.column).sortable = true]; int32 end = 9; bool begin = 10;"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_additive_change_applies_over_rows_and_is_taken_back(
    postgres: EmbeddedPostgres, postgres_url: str, tmp_path: Path, change: str
) -> None:
    migrated(postgres_url, tmp_path / "grown", contract())
    execute(postgres_url, INSERT)
    before = schema(postgres_url)
    done = migrated(postgres_url, tmp_path / "grown", CHANGES[change])
    with new_database(postgres) as fresh:
        migrated(fresh, tmp_path / "fresh", CHANGES[change])
        assert schema(postgres_url) == schema(fresh), "a grown table equals one made at once"
    assert value(postgres_url, "SELECT count(*) FROM data.items WHERE amount > 0") == 500
    migrate.rollback(postgres_url, tmp_path / "grown", len(done))
    assert schema(postgres_url) == before
    assert value(postgres_url, "SELECT count(*) FROM data.items WHERE amount > 0") == 500
    assert migrate.apply(postgres_url, tmp_path / "grown") == done


def test_a_dropped_field_comes_back_only_to_an_empty_table(postgres_url: str, tmp_path: Path) -> None:
    """Its values are gone, and `_wire` still has them: a default in the column would be a lie."""
    folder = tmp_path / "contracts"
    migrated(postgres_url, folder, contract())
    before = schema(postgres_url)
    execute(postgres_url, INSERT)
    assert migrated(postgres_url, folder, contract(FIELDS.replace("int64 amount = 3;", "reserved 3;"))) == [
        "contracts/0002.items.drop_amount"
    ]
    with pytest.raises(FailedPrecondition, match=r"items\.amount was dropped and its values are gone"):
        migrate.rollback(postgres_url, folder, 1)
    execute(postgres_url, "DELETE FROM data.items")
    migrate.rollback(postgres_url, folder, 1)
    assert schema(postgres_url) == before


def test_a_field_rolled_back_with_values_is_not_added_again_beside_them(postgres_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "contracts"
    migrated(postgres_url, folder, contract())
    migrated(postgres_url, folder, contract(FIELDS + "int32 size = 8;"))
    execute(postgres_url, INSERT, "UPDATE data.items SET size = 7 WHERE id = 'id1'")
    migrate.rollback(postgres_url, folder, 1)
    with pytest.raises(FailedPrecondition, match=r"items\.size was rolled back while rows carried it"):
        migrate.apply(postgres_url, folder)
    plan = diff(migrate.applied_snapshots(postgres_url), snapshots(load_contracts(folder)))
    assert "number 8 belonged to a removed field" in plan.refusals[0]


WIDE = BOX + "repeated int32 depth = 3;"
PATHS = contract(
    FIELDS.replace("box = 6;", 'box = 6 [(penstock.contract.v1.column) = {filterable_paths: ["height", "depth"]}];')
    + "int32 size = 8 [(penstock.contract.v1.column).sortable = true];",
    box=WIDE,
    options=OPTIONS + ' indexes: {fields: ["box.height desc", "label"]}',
)


@pytest.mark.parametrize("policy", ["MERGE", "MIRROR"])
def test_a_path_is_added_to_an_empty_table_only(
    postgres: EmbeddedPostgres, postgres_url: str, tmp_path: Path, policy: str
) -> None:
    """Stored bytes may hold values of the field, also of one that is new: what was rolled back leaves them there."""
    folder, plain, paths = tmp_path / "contracts", contract(), PATHS
    if policy == "MIRROR":
        plain, paths = (text.replace("FILE_POLICY_MERGE", "FILE_POLICY_MIRROR") for text in (plain, paths))
    migrated(postgres_url, folder, plain)
    before = schema(postgres_url)
    execute(postgres_url, INSERT)
    with pytest.raises(
        FailedPrecondition, match=r"items has rows, and the values that they may hold of box\.height, box"
    ):
        migrated(postgres_url, folder, paths)
    execute(postgres_url, "DELETE FROM data.items")
    done = migrate.apply(postgres_url, folder)
    assert [name.rpartition("items.")[2] for name in done] == ["columns"]
    with new_database(postgres) as fresh:
        migrated(fresh, tmp_path / "fresh", paths)
        assert schema(postgres_url) == schema(fresh)
    migrate.rollback(postgres_url, folder, 3)
    assert schema(postgres_url) == before


def test_a_path_rolled_back_comes_again_to_an_empty_table_only(postgres_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "contracts"
    migrated(postgres_url, folder, contract())
    done = migrated(postgres_url, folder, PATHS)
    execute(postgres_url, INSERT)
    migrate.rollback(postgres_url, folder, len(done))
    with pytest.raises(FailedPrecondition, match="items has rows"):
        migrate.apply(postgres_url, folder)


def test_a_path_is_given_up_beside_rows_and_comes_back_without(postgres_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "contracts"
    migrated(postgres_url, folder, PATHS)
    before = schema(postgres_url)
    execute(postgres_url, INSERT)
    given_up = FIELDS + "int32 size = 8 [(penstock.contract.v1.column).sortable = true];"
    done = migrated(postgres_url, folder, contract(given_up, box=WIDE))
    with pytest.raises(FailedPrecondition, match=r"items\.box\.(height|depth) was dropped and its values are gone"):
        migrate.rollback(postgres_url, folder, 1)
    execute(postgres_url, "DELETE FROM data.items")
    migrate.rollback(postgres_url, folder, len(done))
    assert schema(postgres_url) == before


def test_an_alter_gives_up_soon_when_a_reader_holds_the_table(postgres_url: str, tmp_path: Path) -> None:
    """Everybody who comes after a waiting ALTER waits behind it."""
    folder = tmp_path / "contracts"
    migrated(postgres_url, folder, contract())
    write_contract(folder, contract(FIELDS + "int32 size = 8;"))
    (path,) = write_migrations(folder)
    assert "SET LOCAL lock_timeout" in path.read_text()
    path.write_text(path.read_text().replace("'5s'", "'50ms'"))
    before = schema(postgres_url)
    with psycopg.connect(postgres_url) as reader:
        reader.execute("SELECT FROM data.items")
        with pytest.raises(Unavailable, match=r"0002\.items\.add_size.*run it again"):
            migrate.apply(postgres_url, folder)
    assert schema(postgres_url) == before
    assert migrate.apply(postgres_url, folder) == ["contracts/0002.items.add_size"]


def test_every_file_passes_squawk(tmp_path: Path) -> None:
    indexes = OPTIONS + ' indexes: {fields: ["amount desc", "label"]}'
    unlabelled = (FIELDS + EVERY_TYPE).replace(LABEL, "reserved 2;")
    texts = (
        contract(),
        contract(FIELDS + EVERY_TYPE),
        contract(FIELDS + EVERY_TYPE, options=indexes),
        contract(unlabelled),
        contract(
            unlabelled.replace("box = 6;", 'box = 6 [(penstock.contract.v1.column).filterable_paths = "height"];')
        ),
        contract(unlabelled),
    )
    for text in texts:
        write_contract(tmp_path, text)
        write_migrations(tmp_path)
    files = sorted(migration_files.folder_of(tmp_path).glob("*.sql"))
    names = ["create", "columns", "index", "contract", "drop_index", "drop_index", "drop_label"]
    names += ["add_box_height", "drop_index", "drop_box_height"]
    ups = [path.name for path in files if not path.name.endswith(".rollback.sql")]
    assert [name.split(".")[2].startswith(word) for name, word in zip(ups, names, strict=True)] == [True] * len(names)
    squawk = str(Path(sys.executable).parent / "squawk")
    command = [squawk, "--config", str(ROOT / ".squawk.toml"), *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout


def test_the_repository_has_migrations_for_its_own_contracts() -> None:
    contracts = load_contracts()
    recorded = migration_files.recorded(migration_files.folder_of(None))
    assert not diff(recorded, snapshots(contracts)).drafts


def test_the_shadow_of_a_mirror_has_every_column_of_its_table(
    postgres: EmbeddedPostgres, postgres_url: str, tmp_path: Path
) -> None:
    """Grown as made at once, taken back, and made again."""
    options = OPTIONS.replace("MERGE", "MIRROR")
    grown = contract(FIELDS + "int32 size = 8;", options=options)
    migrated(postgres_url, tmp_path / "grown", contract(options=options))
    before = schema(postgres_url)
    done = migrated(postgres_url, tmp_path / "grown", grown)
    with new_database(postgres) as fresh:
        migrated(fresh, tmp_path / "fresh", grown)
        assert schema(postgres_url) == schema(fresh)
        migrate.rollback(fresh, tmp_path / "fresh", 1)
        assert value(fresh, "SELECT to_regclass('data.items__shadow')") is None
    migrate.rollback(postgres_url, tmp_path / "grown", len(done))
    assert schema(postgres_url) == before
    assert migrate.apply(postgres_url, tmp_path / "grown") == done
    migrated(postgres_url, tmp_path / "grown", contract(grown_without_amount(), options=options))
    for table in ("items", "items__shadow"):
        columns = f"SELECT count(*) FROM information_schema.columns WHERE table_name = '{table}'"
        assert value(postgres_url, f"{columns} AND column_name = 'size'") == 1
        assert value(postgres_url, f"{columns} AND column_name = 'amount'") == 0


def grown_without_amount() -> str:
    return FIELDS.replace("int64 amount = 3;", "reserved 3;") + "int32 size = 8;"

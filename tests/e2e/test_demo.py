"""`penstock demo` and `penstock seed`: what they tell is true, and the lines they print work as they stand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 100.0
AIRPORTS = 28_000


def environment() -> dict[str, str]:
    """Without the developer's own settings, importable as in this test process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PENSTOCK_CONTRACTS"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "shared/generated"), *sys.path])}


def penstock(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "shared.cli.main", *arguments]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )


@contextmanager
def demo(directory: Path) -> Iterator[list[str]]:
    """The lines that a demo printed up to the point where it stays up."""
    process = subprocess.Popen(
        penstock("demo", "--dir", str(directory)),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    timer = threading.Timer(DEADLINE_S, process.kill)
    timer.start()
    try:
        yield list(_until_it_stays_up(process))
    finally:
        timer.cancel()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def _until_it_stays_up(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rstrip("\n")
        if "The stack stays up" in line:
            return


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where any user can reach it: from pytest's own folder root's Postgres would move to /var/tmp."""
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as parent:
        Path(parent).chmod(0o755)
        yield Path(parent) / "stack"


def test_demo_serves_what_it_loaded_and_its_lines_can_be_pasted(directory: Path) -> None:
    with demo(directory) as lines:
        text = "\n".join(lines)
        loaded = re.search(r"airports: SUCCEEDED, (\d+) read, (\d+) inserted", text)
        streamed = re.search(r"(\d+) airports in \d+ messages .* ended with END_REASON_COMPLETE", text)
        assert loaded is not None, text
        assert streamed is not None, text
        assert int(loaded[1]) > AIRPORTS
        assert loaded[2] == streamed[1]
        assert "\x1b" not in text
        [grpcurl] = [line for line in lines if "/grpcurl " in line]
        [python] = [line for line in lines if "from shared.client.service import" in line]
        listed = run("sh", "-c", grpcurl)
        assert listed.returncode == 0, listed.stderr
        assert listed.stdout.count('"icao": "BI') == 3
        got = run("sh", "-c", python)
        assert got.returncode == 0, got.stderr
        assert 'icao: "BIRK"' in got.stdout

        seeded = run(*penstock("seed", "--dir", str(directory)))
        assert seeded.returncode == 0, seeded.stderr
        assert re.search(r"^airports: SUCCEEDED, .*unchanged", seeded.stdout, re.MULTILINE)
        assert re.search(r"^shipments: SUCCEEDED, 500 read, 500 inserted", seeded.stdout, re.MULTILINE)
        undone = run(*penstock("seed", "--undo", "--dir", str(directory)))
        assert undone.returncode == 0, undone.stderr
        assert re.search(r"^shipments: SUCCEEDED, 500 deleted", undone.stdout, re.MULTILINE)


def test_seed_without_a_stack_says_what_to_do(directory: Path) -> None:
    result = run(*penstock("seed", "--dir", str(directory)))
    assert result.returncode == 2
    assert "run penstock up first" in result.stderr
    assert len(result.stderr.splitlines()) == 1

"""`python -m ingest_service --check`: what the service was told, or everything that is wrong with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = {
    "PENSTOCK_DATABASE_URL": "postgresql://u:p@nowhere.invalid/db",
    "PENSTOCK_QUEUE_URL": "http://nowhere.invalid/queue",
    "PENSTOCK_TLS": "off",
    "PATH": "/usr/bin:/bin",
}


def check(**settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ingest_service", "--check"]
    return subprocess.run(command, env=SETTINGS | settings, capture_output=True, text=True, timeout=60, check=False)


def test_sources_that_work_are_told_and_the_check_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text("sources: [{dataset: airports, bucket: lake, prefix: in/, glob: '**/*.csv'}]")
    done = check(PENSTOCK_SOURCES=str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "source: s3://lake/in/ glob **/*.csv -> airports\n" in done.stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sources: [{dataset: nope, bucket: lake}]", ":1: sources[0].dataset: no contract has the dataset 'nope'"),
        (None, "cannot be read"),
    ],
)
def test_sources_that_do_not_work_end_the_check_and_say_why(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "sources.yaml"
    if text:
        path.write_text(text)
    done = check(PENSTOCK_SOURCES=str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}")
    assert problem in done.stderr

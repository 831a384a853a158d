"""The benchmark itself, on so few rows that its figures mean nothing: all of them, every check held."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import FIGURES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]


def test_benchmark_prints_one_row_for_each_figure_and_all_its_checks_hold() -> None:
    environment = {**os.environ, "ROWS": "2000", "ONLY": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench"], env=environment, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    head, rule, *rows = [line for line in run.stdout.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in head.strip("|").split("|")] == [
        "figure",
        "Penstock",
        "baseline",
        "ratio",
        "target",
        "met",
    ]
    assert set(rule) <= set("|- ")
    assert len(rows) == len(FIGURES)
    assert all(row.count("|") == head.count("|") for row in rows)
    assert "2,000 rows" in run.stdout
    assert "checks of counts and hashes held, 0 failed" in run.stdout

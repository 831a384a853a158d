"""`penstock migrate` as processes of their own, to be run at once and killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 30.0
APPLY = """
import sys
from pathlib import Path
from shared.postgres import migrate
for name in migrate.apply(sys.argv[1], Path(sys.argv[2])):
    print(name)
"""


def start(url: str, contracts: Path) -> subprocess.Popen[str]:
    """Starts applying; the migrations that it applied come on standard output."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'shared' / 'generated'}", "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", APPLY, url, str(contracts)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    """The lines of a process that must succeed and say nothing else."""
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, "")
    return output.splitlines()


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, as an evicted pod ends."""
    process.kill()
    process.communicate(timeout=DEADLINE_S)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Polls until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE_S} s"
        time.sleep(0.02)

"""The README's blocks marked `sh test` run as they stand, in order, in one shell and a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```sh test\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.xdist_group("e2e")
def test_every_block_marked_as_test_runs(tmp_path: Path) -> None:
    blocks = BLOCK.findall((REPOSITORY / "README.md").read_text())
    assert len(blocks) >= 5
    script = "set -euo pipefail\n" + "\n".join(blocks)
    scripts = sysconfig.get_path("scripts")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "AWS_", "PYTHON"))}
    environment = {**kept, "PATH": os.pathsep.join([scripts, os.environ["PATH"]])}
    if emulator := os.environ.get("PENSTOCK_EMULATOR"):
        environment["PENSTOCK_EMULATOR"] = emulator
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    log = tmp_path / "up.log"
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{log.read_text() if log.exists() else ''}"
    assert "Pride and Prejudice" in result.stdout

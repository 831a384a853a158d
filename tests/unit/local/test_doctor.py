"""`doctor` runs before anything is installed, on the interpreter that the machine has, and names each missing thing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

DOCTOR = Path(__file__).resolve().parents[3] / "shared" / "cli" / "doctor.py"


def doctor(*arguments: str, path: str | None = None, emulator: str | None = None) -> subprocess.CompletedProcess[str]:
    """Without site packages and without this repository on the import path, as on a fresh machine."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(DOCTOR), *arguments],
        env={"PATH": path or "/usr/bin:/bin", **({"PENSTOCK_EMULATOR": emulator} if emulator else {})},
        capture_output=True,
        text=True,
        check=False,
    )


def test_doctor_needs_nothing_but_the_standard_library() -> None:
    result = doctor("--help")
    assert result.returncode == 0
    assert result.stderr == ""


def test_missing_disk_space_is_one_line_and_exit_code_one() -> None:
    result = doctor("--disk", str(2**62))
    assert result.returncode == 1
    assert [line for line in result.stderr.splitlines() if "GB free in" in line and "GB are needed" in line]
    assert all(line.startswith("doctor: ") for line in result.stderr.splitlines())


def test_missing_make_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    result = doctor("--disk", "0", path=str(tmp_path))
    assert result.returncode == 1
    assert "apt install make" in result.stderr


def test_quiet_doctor_says_nothing_on_standard_output() -> None:
    assert doctor("--quiet", "--disk", "0").stdout == ""


def test_doctor_parses_on_old_interpreters() -> None:
    """Python 3.8 must get as far as saying that it is too old."""
    ast.parse(DOCTOR.read_text(), feature_version=(3, 8))

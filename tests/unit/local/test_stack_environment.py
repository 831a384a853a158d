"""`DIR/env`: what a shell reads is what was written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.local.environment import inherited, read_environment, without_proxy, write_environment

VALUES = {"PLAIN": "http://127.0.0.1:1", "AWKWARD": 'it\'s "quoted" $HOME `id` \\ and = spaced', "EMPTY": ""}


def test_shell_and_reader_get_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "env"
    write_environment(path, VALUES)
    script = '. "$1"; printf "%s\\0" "$PLAIN" "$AWKWARD" "$EMPTY"'
    shell = subprocess.run(["sh", "-c", script, "sh", str(path)], capture_output=True, text=True, check=True)
    assert shell.stdout.split("\0")[:3] == list(VALUES.values())
    assert read_environment(path) == VALUES


def test_file_with_the_password_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("old")
    path.chmod(0o644)
    write_environment(path, VALUES)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["env"]


def test_missing_file_says_that_no_stack_is_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="penstock up"):
        read_environment(tmp_path / "env")


def test_settings_of_another_account_or_database_are_not_inherited() -> None:
    environ = {"AWS_PROFILE": "work", "PGHOST": "elsewhere", "PENSTOCK_LOG_LEVEL": "DEBUG", "PATH": "/bin"}
    kept = inherited(environ)
    assert kept["PENSTOCK_LOG_LEVEL"] == "DEBUG"
    assert kept["PATH"] == "/bin"
    assert "AWS_PROFILE" not in kept
    assert "PGHOST" not in kept


def test_loopback_never_goes_through_a_proxy() -> None:
    assert without_proxy({"no_proxy": "internal"})["NO_PROXY"] == "internal,127.0.0.1,localhost"

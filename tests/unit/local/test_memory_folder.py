"""The folder in memory that the tests' own Postgres lies in."""

from __future__ import annotations

import os
from pathlib import Path

from shared.local.lock import exclusive
from tests.memory_folder import memory_folder


def left_behind(root: Path, name: str, age_s: float = 3600.0) -> Path:
    folder = root / f"penstock-tests-{name}"
    folder.mkdir()
    (folder / "lock").touch()
    changed = folder.stat().st_mtime - age_s
    os.utime(folder, (changed, changed))
    return folder


def test_folder_can_be_passed_through_and_goes_with_the_block(tmp_path: Path) -> None:
    with memory_folder(tmp_path, needed_bytes=0) as folder:
        assert folder is not None
        assert folder.stat().st_mode & 0o777 == 0o711
        (folder / "data").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    abandoned, young, held = (left_behind(tmp_path, name) for name in ("abandoned", "young", "held"))
    os.utime(young)
    other = tmp_path / "other"
    other.mkdir()
    with exclusive(held / "lock", "held"), memory_folder(tmp_path, needed_bytes=0):
        assert not abandoned.exists()
        assert young.exists()
        assert held.exists()
        assert other.exists()


def test_short_memory_and_no_such_folder_give_none(tmp_path: Path) -> None:
    with memory_folder(tmp_path, needed_bytes=2**62) as folder:
        assert folder is None
    with memory_folder(tmp_path / "absent", needed_bytes=0) as folder:
        assert folder is None

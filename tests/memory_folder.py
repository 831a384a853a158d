"""A folder in memory for the data of a test process's Postgres, where the machine has plenty of it.

Each test has a database of its own, some 360 files, and drops it. Ext4 without a journal looks through all files that
were deleted in the last minutes for each one that it makes: CREATE DATABASE took 120 to 240 ms, here it takes 14.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.local.lock import AlreadyUp, exclusive

MEMORY = Path("/dev/shm")
_PREFIX = "penstock-tests-"
# A server takes 0.4 GB with its WAL and the largest tables of the tests; there are as many as test processes.
_NEEDED_BYTES = 6 * 1024**3
# Between a folder and its lock lie microseconds; whoever finds no lock after so long finds a killed process's folder.
_SETTLED_S = 60.0


@contextmanager
def memory_folder(root: Path = MEMORY, needed_bytes: int = _NEEDED_BYTES) -> Iterator[Path | None]:
    """A folder that any user can pass through, gone with the block; None where memory is short or there is no tmpfs.

    What a killed process left there goes too.
    """
    if not root.is_dir() or min(shutil.disk_usage(root).free, _available_bytes()) < needed_bytes:
        yield None
        return
    _sweep(root)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    try:
        folder.chmod(0o711)
        with exclusive(folder / "lock", "these tests run already"):
            yield folder
    finally:
        shutil.rmtree(folder)


def _available_bytes() -> int:
    """Memory that is free or can be made so; 0 where the kernel does not tell, as on macOS."""
    with suppress(FileNotFoundError):
        told = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
        return int(told[1]) * 1024 if told else 0
    return 0


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError, AlreadyUp):  # another process sweeps as well; or its tests still run
            status = folder.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _SETTLED_S:
                continue
            with exclusive(folder / "lock", "these tests run already"):
                shutil.rmtree(folder)

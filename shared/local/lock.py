"""One stack a folder: a lock that the kernel releases however its holder ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import FailedPrecondition


class AlreadyUp(FailedPrecondition):
    """Another process holds the folder."""


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path`, which names this process; raises AlreadyUp with the holder's id where it is held."""
    # "a+": a second opener must not empty the file before it knows that the lock is its own.
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise AlreadyUp(f"{what} (pid {holder})", reason="ALREADY_UP", metadata={"pid": holder}) from exc
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield

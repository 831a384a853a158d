"""What a postmaster says about itself: its lock file, and its log when it does not start."""

from __future__ import annotations

import os
import time
from pathlib import Path

from shared.errors import ConfigError

LOCK_FILE = "postmaster.pid"
_STATUS_LINE = 7  # of the lock file, from 0; pg_ctl's LOCK_FILE_LINE_PM_STATUS
_POLL_S = 0.01

# What the server writes when the machine is at fault, and the line to show for it.
_KNOWN_FAILURES: tuple[tuple[str, str, str], ...] = (
    ("No space left on device", "NO_DISK", "no space left on the disk (or in /dev/shm) for Postgres"),
    ("could not write to file", "NO_DISK", "no space left on the disk for Postgres"),
    ("shared memory segment", "NO_SHARED_MEMORY", "Postgres cannot get shared memory: raise the limit of /dev/shm"),
    ("could not create any TCP/IP sockets", "NO_LOOPBACK", "Postgres cannot listen on 127.0.0.1"),
    ("incompatible with server", "WRONG_VERSION", "the data is of another Postgres version: use a new DIR"),
    ("cannot execute binary file", "WRONG_ARCHITECTURE", "the Postgres binaries do not run on this machine"),
    ("cannot run", "NOT_EXECUTABLE", "the Postgres binaries cannot be executed"),
)


def status(data_directory: Path, pid: int) -> str:
    """`starting`, `ready`, `stopping`; empty where the lock file is not yet that process's."""
    lines = _lock_lines(data_directory)
    if len(lines) <= _STATUS_LINE or lines[0] != str(pid):
        return ""
    return lines[_STATUS_LINE].strip()


def wait_for_predecessor(data_directory: Path, *, timeout_s: float) -> None:
    """Removes the lock of a server that was killed; waits for one that is still shutting down.

    Raises ConfigError where that one goes on running.
    """
    deadline = time.monotonic() + timeout_s
    while (pid := _lock_holder(data_directory)) is not None:
        if not _is_server_of(pid, data_directory):
            (data_directory / LOCK_FILE).unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            raise ConfigError(f"a Postgres (pid {pid}) still runs over {data_directory}", reason="ALREADY_RUNNING")
        time.sleep(_POLL_S)


def failure(what: str, text: str, log_path: Path) -> ConfigError:
    """The error for what the server wrote: one line that says what to do where the cause is known."""
    for needle, reason, message in _KNOWN_FAILURES:
        if needle in text:
            return ConfigError(f"{message} (see {log_path})", reason=reason)
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
    return ConfigError(f"{what}: {last} (see {log_path})", reason="POSTGRES_FAILED")


def _lock_lines(data_directory: Path) -> list[str]:
    try:
        return (data_directory / LOCK_FILE).read_text().splitlines()
    except FileNotFoundError:
        return []


def _lock_holder(data_directory: Path) -> int | None:
    lines = _lock_lines(data_directory)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _is_server_of(pid: int, data_directory: Path) -> bool:
    """Whether that process is a postmaster over that folder. Pids are used again, above all in containers."""
    try:
        if Path("/proc").is_dir():
            return str(data_directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True

"""Run as a script in front of a child process: ties its life to its parent's, drops root if told to, then execs it.

A script and not a `preexec_fn`: Python code between fork and exec may deadlock in a process with threads, and one
with gRPC has some. Standard library only, and no import of this package (`python -I -S`).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def tethered(
    command: Sequence[str],
    *,
    death_signal: int,
    uid: int | None = None,
    gid: int | None = None,
    python: str = sys.executable,
) -> list[str]:
    """The command line that runs `command` tied to the calling process (and, as root, under `uid` and `gid`).

    `death_signal` reaches the child when the *thread* that starts it ends (prctl(2)): start it from one that lives on.
    Where the kernel has no such thing (not Linux) the child is not tied.
    """
    who = f"{uid}:{gid}" if uid is not None else "-"
    return [python, "-I", "-S", __file__, str(os.getpid()), str(death_signal), who, *command]


def _drop_root(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _tie_to_parent(parent_pid: int, death_signal: int) -> None:
    # After the drop: changing the uid clears the setting (prctl(2)).
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent process is gone")


def main(arguments: Sequence[str]) -> None:
    """`PARENT_PID SIGNAL UID:GID|- COMMAND...`: never returns when the command can be executed."""
    parent_pid, death_signal, who, *command = arguments
    try:
        if who != "-":
            uid, gid = who.split(":")
            _drop_root(int(uid), int(gid))
        _tie_to_parent(int(parent_pid), int(death_signal))
        os.execvp(command[0], command)  # noqa: S606 - the command comes from this package
    except OSError as exc:
        raise SystemExit(f"cannot run {command[0]}: {exc}") from exc


if __name__ == "__main__":
    main(sys.argv[1:])

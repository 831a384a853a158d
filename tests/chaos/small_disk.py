"""A file system of a few MB that can be filled: a tmpfs in a mount namespace of its own, kept by a process.

Needs no root where the kernel lets users have namespaces. Others reach it through `/proc/PID/root`, also a server that
runs already. Run as a script this is the keeper: standard library only.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PR_SET_DUMPABLE = 4
# Every Linux has it, and what lies there is hidden from nobody but the keeper.
MOUNT_POINT = "/mnt"
_BALLAST = "ballast"
_READY = "ready"


class NoSmallDisk(Exception):
    """The machine does not let us have one; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallDisk:
    """`path` is its root, as every process may write it that runs as its owner."""

    path: Path

    def fill(self, leave_bytes: int = 0) -> None:
        """Leaves so much room and no more."""
        free = os.statvfs(self.path)
        with (self.path / _BALLAST).open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, free.f_bavail * free.f_frsize - leave_bytes)

    def make_room(self) -> None:
        """Takes away what `fill` put there."""
        (self.path / _BALLAST).unlink()


@contextmanager
def small_disk(size_bytes: int, uid: int, gid: int) -> Iterator[SmallDisk]:
    """One for the processes of that user, this one or, as root, any. Raises NoSmallDisk."""
    command = [sys.executable, "-I", "-S", __file__, str(size_bytes), str(uid), str(gid)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            said = keeper.stdout.readline().strip()
            if said != _READY:
                raise NoSmallDisk(f"no file system of its own for the test: {said}")
            yield SmallDisk(path=Path(f"/proc/{keeper.pid}/root{MOUNT_POINT}"))
        finally:
            keeper.stdin.close()


def keep(size_bytes: str, uid: str, gid: str) -> None:
    """Mounts it, says so, and lives until standard input ends."""
    try:
        _mount(size_bytes, int(uid), int(gid))
    except OSError as exc:
        print(exc, flush=True)
        return
    print(_READY, flush=True)
    sys.stdin.read()


def _mount(size_bytes: str, uid: int, gid: int) -> None:
    as_root = os.geteuid() == 0
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.unshare(CLONE_NEWNS if as_root else CLONE_NEWNS | CLONE_NEWUSER), "unshare")
    if not as_root:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    _call(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "making / private")
    options = f"size={size_bytes},mode=0700,uid={uid},gid={gid}"
    _call(libc.mount(b"tmpfs", MOUNT_POINT.encode(), b"tmpfs", 0, options.encode()), "mounting a tmpfs")
    if as_root:  # of the others only this user may look into our /proc/PID/root, and if we are dumpable
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        _call(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "PR_SET_DUMPABLE")


def _call(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


if __name__ == "__main__":
    keep(*sys.argv[1:])

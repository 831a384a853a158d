"""Running as another user than root, for programs that refuse root: who that is, and what that user can reach.

Never opens permissions of anything that it did not create.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError

_OWNER_FILE = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An unprivileged user."""

    uid: int
    gid: int


def drop_account(name: str = "nobody") -> Account | None:
    """Whom to run as when this process is root; None when it is not."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError as exc:
        raise ConfigError(f"running as root needs an unprivileged user {name!r}: create it", reason="NO_USER") from exc
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def can_traverse(folder: Path, account: Account) -> bool:
    """Whether that user can reach what lies in `folder`; supplementary groups are dropped and do not count."""
    resolved = folder.resolve()
    return all(_may(each.stat(), account, stat.S_IXOTH) for each in (resolved, *resolved.parents))


def can_execute(program: Path, account: Account) -> bool:
    """Whether that user can run `program`."""
    resolved = program.resolve()
    return can_traverse(resolved.parent, account) and _may(resolved.stat(), account, stat.S_IXOTH)


def _may(status: os.stat_result, account: Account, other_bit: int) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & (other_bit << 6))
    if status.st_gid == account.gid:
        return bool(status.st_mode & (other_bit << 3))
    return bool(status.st_mode & other_bit)


def temporary_roots() -> Iterator[Path]:
    """Folders where any user may keep things; the one that outlives a reboot first."""
    for candidate in (Path("/var/tmp"), Path(tempfile.gettempdir())):  # noqa: S108 - used through mkdtemp only
        if candidate.is_dir() and os.access(candidate, os.W_OK | os.X_OK):
            yield candidate


def reachable_root(account: Account) -> Path:
    """The first temporary folder that `account` can reach."""
    for root in temporary_roots():
        if can_traverse(root, account):
            return root
    raise ConfigError("no temporary folder that an unprivileged user can reach (tried /var/tmp)", reason="NO_TEMP_DIR")


def claim_folder(root: Path, prefix: str, owner: Path) -> Path:
    """A new folder in `root` for what belongs to `owner`; those whose owner is gone are removed on the way."""
    for other in root.glob(f"{prefix}*/{_OWNER_FILE}"):
        with contextlib.suppress(FileNotFoundError):  # another start is removing it at the same time
            if other.lstat().st_uid == os.geteuid() and not Path(other.read_text().strip()).is_dir():
                shutil.rmtree(other.parent)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    (folder / _OWNER_FILE).write_text(f"{owner}\n")
    return folder


def reachable_copy(folder: Path, parts: Sequence[str], name: str, account: Account) -> Path:
    """A folder that `account` can read and that holds copies of `folder`'s `parts`, made once under a temporary folder.

    The copy belongs to root and nobody else can write it; a folder of that name that somebody else made is not used.
    """
    root = reachable_root(account)
    target = root / f"penstock-{name}"
    if not _is_ours(target):
        _publish(folder, parts, root, target)
    return target


def _is_ours(target: Path) -> bool:
    try:
        status = target.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ConfigError(f"{target} exists and does not belong to this user: remove it", reason="UNTRUSTED_CACHE")
    return True


def _publish(folder: Path, parts: Sequence[str], root: Path, target: Path) -> None:
    """Copies beside the target and renames: a second process sees all of it or nothing."""
    staging = Path(tempfile.mkdtemp(prefix="penstock-copy-", dir=root))
    try:
        for part in parts:
            shutil.copytree(folder / part, staging / "tree" / part, symlinks=True)
        for path in (staging / "tree", *(staging / "tree").rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        (staging / "tree").rename(target)
    except OSError as exc:
        if not _is_ours(target):  # no other process was faster either
            raise ConfigError(f"cannot copy {folder} to {target}: {exc}", reason="NO_DISK") from exc
    finally:
        shutil.rmtree(staging)

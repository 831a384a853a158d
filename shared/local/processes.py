"""Child processes of the local stack: started with a log file, waited for, stopped in order, gone with their parent.

Never leaves one behind: a process that ignores its stop signal is killed after its deadline.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.errors import ConfigError
from shared.local.tether import tethered

TAIL_LINES = 15
_TAIL_BYTES = 16 * 1024
_POLL_S = 0.01
_KILL_TIMEOUT_S = 10.0


class ChildProcess:
    """One program with its output in `log_path`. Start it from a thread that lives as long as it shall (tether.py)."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_path: Path,
        directory: Path,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._command = tuple(command)
        self._environment = dict(environment)
        self._directory = directory
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._is_asked = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._started().pid

    def start(self) -> None:
        """Starts it in a session of its own: Ctrl-C goes to the parent, which stops its children in order."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own services
                tethered(self._command, death_signal=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._started().poll()

    def wait_until(self, is_healthy: Callable[[], bool], *, timeout_s: float) -> None:
        """Returns when `is_healthy()`; ConfigError with the end of the log when the process ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not is_healthy():
            if self.poll() is not None:
                raise ConfigError(f"{self.describe_end()}\n{self.log_tail()}", reason="PROCESS_ENDED")
            if time.monotonic() > deadline:
                message = f"{self.name} is not healthy after {timeout_s:.0f} s; see {self.log_path}\n{self.log_tail()}"
                raise ConfigError(message, reason="TIMEOUT")
            time.sleep(_POLL_S)

    def describe_end(self) -> str:
        """One line on how the process ended and where its log is."""
        code = self.poll()
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return f"{self.name} ended with {how}; see {self.log_path}"

    def log_tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines it wrote."""
        return tail(self.log_path, lines)

    def terminate(self) -> None:
        """Asks it to end, once, and does not wait: to a draining server a second signal means at once."""
        if self._process is not None and not self._is_asked:
            self._is_asked = True
            self._process.terminate()

    def stop(self) -> None:
        """Asks it to end, kills it after `stop_timeout_s`. Idempotent."""
        self.terminate()
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._stop_timeout_s)
            return
        process.kill()
        process.wait(_KILL_TIMEOUT_S)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not started")
        return self._process


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Keeps stop signals waiting: a second Ctrl-C must not cut short what the first one began."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file; empty where there is none."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""

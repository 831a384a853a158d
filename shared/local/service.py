"""One of Penstock's services as a child process on free ports of 127.0.0.1, over mTLS."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from shared.errors import ConfigError
from shared.local.health import is_serving
from shared.local.ports import LOOPBACK, free_ports
from shared.local.processes import ChildProcess

START_TIMEOUT_S = 60.0
PORT_ATTEMPTS = 3
_PORT_TAKEN = ("already in use", "failed to bind", "no address added", "the port is taken")


class LocalService:
    """`python -m <module>` with its settings in the environment."""

    def __init__(
        self, module: str, *, environment: Mapping[str, str], directory: Path, working_directory: Path, drain_s: float
    ) -> None:
        self.module = module
        self.port = 0
        self._probe_port = 0
        self._environment = dict(environment)
        self._directory = directory
        self._working_directory = working_directory
        self._drain_s = drain_s
        self._process: ChildProcess | None = None

    @property
    def address(self) -> str:
        """`host:port` of its gRPC server."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def is_serving(self) -> bool:
        """Whether it says that it serves."""
        return is_serving(LOOPBACK, self._probe_port)

    @property
    def process(self) -> ChildProcess:
        """The running process."""
        if self._process is None:
            raise RuntimeError(f"{self.module} is not started")
        return self._process

    def launch(self) -> None:
        """Starts the process and does not wait for it."""
        self.port, self._probe_port = free_ports(2)
        listen = {
            "PENSTOCK_LISTEN": self.address,
            "PENSTOCK_PROBE_LISTEN": f"{LOOPBACK}:{self._probe_port}",
            "PENSTOCK_DRAIN_S": f"{self._drain_s:g}",
        }
        self._process = ChildProcess(
            self.module,
            [sys.executable, "-m", self.module],
            environment={**self._environment, **listen},
            log_path=self._directory / "logs" / f"{self.module}.log",
            directory=self._working_directory,
            stop_timeout_s=self._drain_s + 5.0,
        )
        self._process.start()

    def wait(self) -> None:
        """Returns when it serves; starts it again where another process was faster to take a port."""
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                self.process.wait_until(lambda: self.is_serving, timeout_s=START_TIMEOUT_S)
            except ConfigError:
                log = self.process.log_tail().lower()
                if attempt == PORT_ATTEMPTS or not any(words in log for words in _PORT_TAKEN):
                    raise
                self.stop()
                self.launch()
            else:
                return

    def terminate(self) -> None:
        """Asks it to drain and does not wait."""
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """Drains it; kills it when that takes longer than it may. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

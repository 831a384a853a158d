"""The ingest process from outside while it loads: its peak memory, and how long its event loop lets callers wait."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
# clear_refs: 5 makes the kernel forget the peak (proc(5)).
_FORGET_PEAK = "5"
_TIMEOUT_S = 60.0


def forget_peak(pid: int) -> None:
    """Peak memory counts from here on."""
    Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK)


def peak_mib(pid: int) -> float:
    """The most resident memory since `forget_peak`, in MiB."""
    found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    if found is None:
        raise RuntimeError(f"the kernel tells no VmHWM of process {pid}")
    return int(found[1]) / 1024


@dataclass(slots=True)
class Waits:
    """How long health checks waited for their answers, in seconds."""

    seconds: list[float] = field(default_factory=list)


@contextmanager
def health_checked(channel: grpc.Channel, pause_s: float = 0.005) -> Iterator[Waits]:
    """Asks for the health of a service again and again within the block.

    The answer needs nothing but the event loop, so the longest wait is its longest stall, and an upper bound of it:
    what the machine, TLS and this process take comes on top.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    waits, ended = Waits(), threading.Event()

    def ask() -> None:
        while not ended.is_set():
            begin = time.perf_counter()
            stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
            waits.seconds.append(time.perf_counter() - begin)
            ended.wait(pause_s)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield waits
    finally:
        ended.set()
        thread.join()

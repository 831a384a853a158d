"""The threads beside the event loop: gRPC's own, which read from clients and write to them."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

_LOG = logging.getLogger(__name__)
# Among threads of one container the event loop then counts ten times as much as each of them.
_NICENESS = 10


def yield_to_event_loop(exporters: Iterable[threading.Thread]) -> None:
    """Lowers the priority of all other threads that run now, and so of those that they will start.

    Not of `exporters`, which run Python: one that is not given a core may hold the interpreter's lock, and the event
    loop then waits for it.

    gRPC wakes a thread for every step of a call, and on a machine or in a container without a core to spare each of
    them takes the core of the event loop, which has the most to do. Where they wait for it they have several calls to
    hand over at once: a fifth more List calls a second from the cache, 3 % more from the database, a tenth less CPU.
    With a core to spare nothing changes. On Linux only: elsewhere a priority belongs to a whole process.
    """
    if sys.platform != "linux":
        return
    spared = {threading.get_native_id(), *(thread.native_id for thread in exporters)}
    try:
        for thread in [int(entry.name) for entry in Path("/proc/self/task").iterdir()]:
            if thread not in spared:
                _lower(thread)
    except OSError as exc:
        _LOG.warning("the threads of gRPC keep their priority, which costs speed only: %s", exc)


def _lower(thread: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
    except ProcessLookupError:
        return  # it has ended meanwhile

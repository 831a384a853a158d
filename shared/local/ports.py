"""Free TCP ports on the loopback interface. A port is free when asked for, not for ever: callers retry a lost race."""

from __future__ import annotations

import contextlib
import random
import socket

LOOPBACK = "127.0.0.1"
# Linux takes the ports of outgoing connections, and those that it chooses itself, from 32768 on (ip_local_port_range).
_LASTING = range(16384, 32768)


def free_ports(count: int) -> tuple[int, ...]:
    """`count` different ports that nobody listens on, chosen by the kernel."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return tuple(int(one.getsockname()[1]) for one in sockets)


def free_port() -> int:
    """One port that nobody listens on."""
    return free_ports(1)[0]


def lasting_port() -> int:
    """One port that nobody listens on, and that nobody gets by chance while its server restarts."""
    while True:
        port = random.choice(_LASTING)  # noqa: S311 - no secret
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.bind((LOOPBACK, port))
            return port

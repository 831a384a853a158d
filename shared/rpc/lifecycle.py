"""Run a service until SIGTERM or SIGINT. A setting that is wrong ends in one clear line each, never in a traceback."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from shared.errors import ConfigError, ContractError, PenstockError

_LOG = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_CONFIG, EXIT_FORCED = 0, 1, 2, 130
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

App = Callable[[asyncio.Event], Awaitable[None]]


def run(app: App, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> int:
    """Run `app(stop)`, on asyncio's own event loop or another, and return the exit code of the process.

    `stop` is set by the first signal; the app then drains and returns. A second signal ends the process at once.
    2 = a setting or contract is wrong, 1 = another failure, both told on stderr.
    """
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_until_signal(app))
    except (PenstockError, BaseExceptionGroup) as exc:
        return _explain(exc)
    except Exception as exc:  # noqa: BLE001 - the last line of defence logs it whole
        _LOG.critical("the service failed", exc_info=exc)
        return EXIT_FAILED
    return EXIT_OK


async def _until_signal(app: App) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(EXIT_FORCED)
        _LOG.info("%s: stopping; a second signal ends it at once", signal.Signals(number).name)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await app(stop)
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _explain(exc: BaseException) -> int:
    leaves = list(_leaves(exc))
    if not all(isinstance(leaf, PenstockError) for leaf in leaves):
        _LOG.critical("the service failed", exc_info=exc)
        return EXIT_FAILED
    for leaf in leaves:
        lines = leaf.problems if isinstance(leaf, ContractError) else str(leaf).splitlines()
        for line in lines:
            print(f"error: {line}", file=sys.stderr)  # plain text: a person reads this, also when logs are JSON
    return EXIT_CONFIG if any(isinstance(leaf, (ConfigError, ContractError)) for leaf in leaves) else EXIT_FAILED


def _leaves(exc: BaseException) -> list[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for member in exc.exceptions for leaf in _leaves(member)]
    return [exc]

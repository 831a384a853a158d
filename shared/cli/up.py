"""`penstock up`: the embedded stack and both services until Ctrl-C, SIGTERM or SIGHUP."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from shared.local.environment import without_proxy
from shared.local.lock import AlreadyUp
from shared.local.stack import DEFAULT_DIRECTORY, LocalStack

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WATCH_S = 0.2


class Stopped(BaseException):
    """Somebody asked this process to end; not an Exception, so that nothing mistakes it for an error."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `penstock up`."""
    parser = subparsers.add_parser("up", help="start the embedded stack and both services")
    add_stack_arguments(parser)
    parser.set_defaults(func=run)


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that starts a stack."""
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIRECTORY, help="where the stack keeps its files")
    parser.add_argument(
        "--contracts",
        type=Path,
        default=os.environ.get("PENSTOCK_CONTRACTS") or None,
        help="a folder of .proto files or a descriptor set (default: PENSTOCK_CONTRACTS, else protos/)",
    )


def run(arguments: argparse.Namespace) -> int:
    """0 when it was asked to end, 1 when a part of it ended by itself or the folder has a stack already."""
    try:
        with stop_signals(), open_stack(arguments) as stack:
            print(ready_line(stack), flush=True)
            return watch(stack)
    except Stopped:
        return 0
    except AlreadyUp as exc:
        report(exc.message)
        return 1


def open_stack(arguments: argparse.Namespace) -> LocalStack:
    """The stack that the arguments describe, not started."""
    os.environ.update(without_proxy(os.environ))
    contracts = Path(arguments.contracts) if arguments.contracts else None
    return LocalStack(arguments.dir, contracts=contracts, say=report)


def ready_line(stack: LocalStack) -> str:
    """What a script waits for on standard output."""
    settings = stack.environment
    return (
        f"ready: query {settings['PENSTOCK_QUERY_ADDRESS']}, ingest {settings['PENSTOCK_INGEST_ADDRESS']}, "
        f"bucket {settings['PENSTOCK_BUCKET']}; settings in {stack.env_path}; Ctrl-C ends it"
    )


def watch(stack: LocalStack) -> int:
    """Returns 1 when a part of the stack ended by itself; runs until a signal raises Stopped otherwise."""
    while (end := stack.ended()) is None:
        time.sleep(_WATCH_S)
    report(end)
    return 1


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raises Stopped at the first stop signal and ignores further ones: the way down is bounded."""
    ignored = [sign for sign in _STOP_SIGNALS if sign == signal.SIGHUP and signal.getsignal(sign) is signal.SIG_IGN]
    handled = [sign for sign in _STOP_SIGNALS if sign not in ignored]  # nohup is respected
    before = {sign: signal.getsignal(sign) for sign in handled}

    def stop(number: int, frame: FrameType | None) -> None:
        for sign in handled:
            signal.signal(sign, signal.SIG_IGN)
        raise Stopped

    for sign in handled:
        signal.signal(sign, stop)
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def report(line: str) -> None:
    """A line on standard error; where that is closed (the terminal is gone) there is nobody to tell."""
    try:
        print(f"penstock: {line}", file=sys.stderr, flush=True)
    except OSError:
        return

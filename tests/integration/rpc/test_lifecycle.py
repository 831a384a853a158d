"""A service as a process: signals, exit codes, and errors in one line."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from textwrap import dedent, indent

import pytest

PROGRAM = """
import asyncio, os, sys
from shared.errors import ConfigError, ContractError, Unavailable
from shared.rpc.lifecycle import run
from shared.telemetry import setup

async def app(stop):
    with setup("test", os.environ, "1"):
{body}

sys.exit(run(app))
"""

Start = Callable[[str], AbstractAsyncContextManager[Process]]


@pytest.fixture
def start() -> Start:
    """`start(body)`: a process whose app has that body; killed when the test leaves it running."""

    @asynccontextmanager
    async def running(body: str) -> AsyncIterator[Process]:
        program = PROGRAM.format(body=indent(dedent(body).strip(), " " * 8))
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=PIPE, stderr=PIPE)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return running


async def ready(process: Process) -> None:
    """Wait until the app has printed its line."""
    assert process.stdout is not None
    assert (await asyncio.wait_for(process.stdout.readline(), 20)) == b"ready\n"


async def ended(process: Process) -> tuple[int | None, str]:
    """The exit code and what is on stderr."""
    _, printed = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, printed.decode()


async def within(awaitable: Awaitable[None]) -> None:
    """A bounded wait."""
    await asyncio.wait_for(awaitable, 20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_lets_the_app_finish_and_exits_with_zero(start: Start, number: signal.Signals) -> None:
    body = """
        print("ready", flush=True)
        await stop.wait()
        print("drained", flush=True)
    """
    async with start(body) as process:
        await ready(process)
        process.send_signal(number)
        output, _ = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, output) == (0, b"drained\n")


async def test_second_signal_ends_a_stop_that_hangs(start: Start) -> None:
    body = """
        print("ready", flush=True)
        await stop.wait()
        print("ready", flush=True)
        await asyncio.Event().wait()
    """
    async with start(body) as process:
        await within(ready(process))
        process.send_signal(signal.SIGTERM)
        await within(ready(process))
        process.send_signal(signal.SIGTERM)
        assert (await ended(process))[0] == 130


@pytest.mark.parametrize(
    ("body", "code", "lines"),
    [
        ('raise ConfigError("A is not set\\nB is not set", reason="X")', 2, ["A is not set", "B is not set"]),
        ('raise ContractError(["a.proto: A.b: no", "a.proto: A.c: no"])', 2, ["a.proto: A.b: no", "a.proto: A.c: no"]),
        ('raise Unavailable("cannot reach Postgres", reason="X")', 1, ["cannot reach Postgres"]),
        ('raise ExceptionGroup("g", [ConfigError("A is not set", reason="X")])', 2, ["A is not set"]),
    ],
)
async def test_expected_errors_are_plain_lines_and_no_traceback(
    start: Start, body: str, code: int, lines: list[str]
) -> None:
    async with start(body) as process:
        returned, printed = await ended(process)
    assert returned == code
    assert printed.splitlines() == [f"error: {line}" for line in lines]


@pytest.mark.parametrize("body", ['raise KeyError("x")', 'raise ExceptionGroup("g", [KeyError("x")])'])
async def test_bug_is_logged_whole_and_exits_with_one(start: Start, body: str) -> None:
    async with start(body) as process:
        returned, printed = await ended(process)
    assert returned == 1
    (line,) = printed.splitlines()
    assert "KeyError" in line
    assert '"level":"CRITICAL"' in line

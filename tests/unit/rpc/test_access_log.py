"""The access log: whole lines of JSON, in order, soon; never the failure of an RPC."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import sys
import time
from datetime import datetime

import grpc
import orjson
import pytest

from shared.rpc.access_log import AccessLog
from shared.rpc.call import Call
from shared.telemetry.unrecorded import UnrecordedTracerProvider

SPAN = UnrecordedTracerProvider().get_tracer("test").start_span("call")


def call(identity: str = "CN", code: grpc.StatusCode = grpc.StatusCode.OK) -> Call:
    ended = Call("test.v1.Service/Get", identity, SPAN, background=False)
    ended.code = code
    return ended


async def test_line_that_cannot_be_written_is_no_failure_of_the_rpc(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    log = AccessLog()
    log.write(logging.INFO, call(), "ipv4:127.0.0.1:1", 0.1)
    log.flush()


async def test_lines_are_written_within_a_moment_whole_and_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    log, printed = AccessLog(), ""
    for number in range(300):
        log.write(logging.INFO, call(), f"ipv4:127.0.0.1:{number}", number / 1000)
    async with asyncio.timeout(10):
        while printed.count("\n") < 300:
            await asyncio.sleep(0.01)
            printed += capsys.readouterr().err
    lines = [orjson.loads(text) for text in printed.splitlines()]
    assert [line["peer"] for line in lines] == [f"ipv4:127.0.0.1:{number}" for number in range(300)]
    assert [line["duration_ms"] for line in lines] == list(range(300))
    assert {line["trace_id"] for line in lines} == {f"{SPAN.get_span_context().trace_id:032x}"}
    assert abs(datetime.fromisoformat(lines[0]["time"]).timestamp() - time.time()) < 60


async def test_after_close_each_line_is_written_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = AccessLog()
    log.write(logging.INFO, call(), "ipv4:127.0.0.1:1", 0.0)
    assert not capsys.readouterr().err
    log.close()
    log.write(logging.INFO, call(), "ipv4:127.0.0.1:1", 0.0)
    assert capsys.readouterr().err.count("\n") == 2


async def test_a_callers_name_cannot_break_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log, name = AccessLog(), 'CN="\n\x00\u00e9","code":"OK"'
    for code in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND):
        log.write(logging.INFO, call(name, code), "ipv4:127.0.0.1:1", 0.0)
    log.flush()
    good, bad = map(orjson.loads, capsys.readouterr().err.splitlines())
    assert (good["identity"], good["code"], good["level"]) == (name, "OK", "INFO")
    assert (bad["identity"], bad["code"], bad["message"]) == (name, "NOT_FOUND", "test.v1.Service/Get NOT_FOUND")

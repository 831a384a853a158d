"""Log lines are one JSON object each, whatever is logged."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import sys
import time
from datetime import datetime
from typing import Any

import orjson
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from shared.telemetry.logs import AccessLog, JsonFormatter, OncePerMinute


def line(level: int = logging.INFO, message: str = "hello %s", args: tuple[Any, ...] = ("you",), **extra: Any) -> Any:
    """A formatted record, parsed again."""
    record = logging.LogRecord("penstock.test", level, __file__, 1, message, args, extra.pop("exc_info", None))
    record.__dict__.update(extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return orjson.loads(text)


def test_line_has_time_level_logger_message_and_extra_fields() -> None:
    parsed = line(dataset="airports", path={1: object})
    assert parsed["level"] == "INFO"
    assert parsed["logger"] == "penstock.test"
    assert parsed["message"] == "hello you"
    assert parsed["dataset"] == "airports"
    assert parsed["time"].endswith("+00:00")
    assert set(parsed) == {"time", "level", "logger", "message", "dataset", "path"}


def test_line_inside_a_span_has_its_ids() -> None:
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s") as span:
        parsed = line()
    assert parsed["trace_id"] == trace.format_trace_id(span.get_span_context().trace_id)
    assert parsed["span_id"] == trace.format_span_id(span.get_span_context().span_id)


def test_exception_stays_in_its_line() -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        parsed = line(logging.ERROR, exc_info=sys.exc_info())
    assert "ValueError: broken\nin two" in parsed["exception"]


def test_what_orjson_refuses_is_still_logged() -> None:
    assert "hello" in line(args=("\ud800",))["message"]
    assert line(big=2**70)["big"] == 2**70


def test_repeated_exporter_messages_pass_once_a_minute_and_others_always() -> None:
    once = OncePerMinute()

    def passes(name: str, second: float) -> bool:
        record = logging.LogRecord(name, logging.ERROR, __file__, 1, "away %s", (second,), None)
        record.created = second
        return once.filter(record)

    assert [passes("opentelemetry.exporter", at) for at in (100.0, 101.0, 159.0, 161.0)] == [True, False, False, True]
    assert all(passes("penstock.rpc", at) for at in (100.0, 101.0))


async def test_access_line_that_cannot_be_written_is_no_failure_of_the_rpc(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    log = AccessLog("penstock.test")
    log.write('"code":"OK"')
    log.flush()


async def test_access_lines_are_written_within_a_moment_whole_and_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    log, printed = AccessLog("penstock.test"), ""
    for number in range(300):
        log.write(log.fields(logging.INFO, "Get OK", identity='CN="\n\x00é"', peer=f"ipv4:127.0.0.1:{number}"))
    async with asyncio.timeout(10):
        while printed.count("\n") < 300:
            await asyncio.sleep(0.01)
            printed += capsys.readouterr().err
    lines = [orjson.loads(text) for text in printed.splitlines()]
    assert [one["peer"] for one in lines] == [f"ipv4:127.0.0.1:{number}" for number in range(300)]
    assert {(one["identity"], one["level"], one["message"]) for one in lines} == {('CN="\n\x00é"', "INFO", "Get OK")}
    assert abs(datetime.fromisoformat(lines[0]["time"]).timestamp() - time.time()) < 60

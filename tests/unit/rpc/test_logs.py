"""Log lines are one JSON object each, whatever is logged."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from shared.telemetry.logs import JsonFormatter, OncePerMinute, shown


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


def test_time_is_utc_with_milliseconds() -> None:
    assert [shown(moment_s) for moment_s in (0.0009, 1732579199.9999, 1732579200.0625)] == [
        "1970-01-01T00:00:00.000+00:00",
        "2024-11-25T23:59:59.999+00:00",
        "2024-11-26T00:00:00.062+00:00",
    ]


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

"""JSON log lines on stderr, each with the trace and span it belongs to. Never reformats what an `extra` holds."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from opentelemetry import trace

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_EXPORTER = "opentelemetry"
_REPEAT_S = 60.0


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, trace_id and span_id where there is a span, extra fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; values that JSON has no form for are shown by str()."""
        line: dict[str, Any] = {
            "time": shown(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        line |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return encoded(line)


def encoded(line: dict[str, Any]) -> str:
    """A line as JSON; values that JSON has no form for are shown by str()."""
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # lone surrogates and integers over 64 bits, which the slower encoder writes
        text = json.dumps(line, default=str, skipkeys=True, ensure_ascii=False)
        return text.encode("utf-8", "replace").decode()


def shown(moment_s: float) -> str:
    """The time in UTC, with milliseconds."""
    return _shown(int(moment_s * 1000))


@lru_cache(maxsize=8)
def _shown(milliseconds: int) -> str:
    second, part = divmod(milliseconds, 1000)
    return f"{_second(second)}.{part:03d}+00:00"


@lru_cache(maxsize=2)
def _second(moment_s: int) -> str:
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class OncePerMinute(logging.Filter):
    """Lets a message of OpenTelemetry's own loggers through once a minute: a collector that is away is no flood.

    Messages are told apart by their template, because the texts differ in a number each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """True for the first of its kind within a minute, and for every other logger."""
        if not record.name.startswith(_EXPORTER):
            return True
        key = (record.name, str(record.msg))
        if record.created - self._last.get(key, 0.0) < _REPEAT_S:
            return False
        self._last[key] = record.created
        return True


def log_to_stderr(level: str) -> None:
    """Make the root logger write JSON to stderr, and nothing else; Python warnings become log lines too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(OncePerMinute())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # What no line shows need not be found out for each (the logging HOWTO's own advice); 2 % of a List.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False

"""The rows of an NDJSON block: their lines, their texts, and their parsed objects once someone asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor

from ingest_service.decode.model import Block
from ingest_service.decode.raw import RawRows, is_utf8
from ingest_service.decode.splitter import LINE_FEED, NDJSON_LINE
from ingest_service.rejects import Reject

SAMPLE_ROWS = 48
WHITE_SPACE = b" \t\r"


class JsonRows:
    """`data` holds the rows, each ended by LF, without blank lines and rejected rows; `lines` where they stand.

    `rejects` holds the rejected rows, those included that the block came with. `maybe_objects`: all begin as one.
    """

    def __init__(self, block: Block, known: Mapping[str, FieldDescriptor]) -> None:
        self.rejects: list[Reject] = list(block.rejects)
        self.raw_at = RawRows(block, NDJSON_LINE, LINE_FEED)
        self._known = known
        self._objects: list[dict[str, Any]] | None = None
        self.maybe_objects = True
        self.data, self.lines = block.data, pa.array([], pa.int64())
        ends = block.data.count(b"\n")
        # Within an object } is never followed by {, so every such LF ends one. (Two on one line are counted later.)
        between = block.data.count(b"}\n{")
        if between == ends - 1 and block.data[:1] == b"{" and block.data[-2:] == b"}\n" and is_utf8(block.data):
            self.lines = pa.arange(block.first_line, block.first_line + ends)
        else:
            self._normalise(block)

    def texts(self) -> list[bytes]:
        """The rows' texts."""
        return self.data.split(b"\n")[:-1]

    def sample(self) -> list[dict[str, Any]]:
        """Objects from all over the block, as many as can be parsed of some dozens."""
        texts = self.texts()
        picked = texts[:: max(1, len(texts) // SAMPLE_ROWS)]
        return [value for text in picked if isinstance(value := _parsed(text), dict)]

    def objects(self) -> list[dict[str, Any]]:
        """All rows parsed; those that are no JSON objects are rejected and leave `data` and `lines`."""
        if self._objects is None:
            texts = self.texts()
            try:
                values = list(map(orjson.loads, texts))
            except orjson.JSONDecodeError:
                values = [_parsed(text) for text in texts]
            self._objects = [value for value in values if isinstance(value, dict)]
            if len(self._objects) < len(values):
                self._drop(texts, values)
        return self._objects

    def _drop(self, texts: list[bytes], values: list[Any]) -> None:
        kept = [isinstance(value, dict) for value in values]
        for value, line, keep in zip(values, self.lines.to_pylist(), kept, strict=True):
            if not keep:
                rule, message = _what_is_wrong(value)
                self.rejects.append(Reject(line=line, field="", rule=rule, message=message, raw=self.raw_at(line)))
        self.lines = self.lines.filter(pa.array(kept))
        self.data = b"".join(text + b"\n" for text, keep in zip(texts, kept, strict=True) if keep)

    def _normalise(self, block: Block) -> None:
        kept: list[bytes] = []
        lines: list[int] = []
        all_text = is_utf8(block.data)
        for line, raw in enumerate(block.data.split(b"\n"), block.first_line):
            text = raw.strip(WHITE_SPACE)
            if text and not all_text and not is_utf8(text):
                self.rejects.append(self._utf8_reject(line, text))
            elif text:
                kept += (text, b"\n")
                lines.append(line)
        self.data, self.lines = b"".join(kept), pa.array(lines, pa.int64())
        self.maybe_objects = all(text.startswith((b"{", b"\n")) for text in kept)

    def _utf8_reject(self, line: int, text: bytes) -> Reject:
        """Names the top-level field whose value is not UTF-8, where the row is an object otherwise."""
        value = _parsed(text.decode(errors="replace").encode())
        names = list(value) if isinstance(value, dict) else []
        broken = next((name for name in names if "\ufffd" in orjson.dumps(value[name]).decode()), "")
        field = self._known[broken].name if broken in self._known else broken
        return Reject(line=line, field=field, rule="utf8", message="the text is not UTF-8", raw=self.raw_at(line))


def _parsed(text: bytes) -> Any:
    """The JSON value, or the error that says why there is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        return exc


def _what_is_wrong(value: Any) -> tuple[str, str]:
    if isinstance(value, orjson.JSONDecodeError):
        return "json.syntax", f"the row is not JSON: {value.msg} at column {value.colno}"
    return "json.object", "the row is JSON, but not an object"

"""Cuts a stream of decompressed bytes into blocks of whole rows, in bounded memory. Never parses a value.

A row that cannot be cut out (overlong, broken quotes) is rejected by its first physical line, which becomes a blank
line in the block; reading goes on with the next physical line, so that one stray quote never swallows a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ingest_service.decode.model import Block, DecodeLimits
from ingest_service.decode.rows import (
    CSV_GRAMMAR,
    LINE,
    TSV_GRAMMAR,
    WHOLE_LINE,
    Grammar,
    Quoting,
    last_line_end,
    line_ends,
    regular_end,
)
from ingest_service.rejects import RAW_LIMIT_BYTES, Reject

ANY_LINE_END = re.compile(rb"\r\n|\n|\r")
LINE_FEED = re.compile(rb"\n")
NDJSON_LINE = re.compile(rb"[^\n]*+(\n)")
# Stands for a rejected line. CRLF, because a bare LF would join a lone CR before it to one line end.
BLANK_LINE = b"\r\n"
# The first block tells how long rows are; later ones are sized by the one before.
FIRST_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """`rows` holds whole rows, `rest` is the beginning of the next one. With `skip` the rest is dropped up to its line
    end, because the line is too long."""

    rows: bytes
    rest: bytes
    rejects: tuple[Reject, ...] = ()
    skip: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFormat:
    """How rows of a format are cut and counted."""

    cut: Callable[[bytes, int, int], Cut]
    line_ends: Callable[[bytes], int]
    line_end: re.Pattern[bytes]


class Splitter:
    """Push bytes, pull blocks. Holds at most `max_row_bytes` plus one piece."""

    def __init__(self, row_format: RowFormat, limits: DecodeLimits) -> None:
        self._format = row_format
        self._limits = limits
        self._parts: list[bytes] = []
        self._size = 0
        self._block_bytes = min(limits.block_bytes, FIRST_BLOCK_BYTES)
        self._want = self._block_bytes
        self._line = 1
        self._ordinal = 0
        self._skipping = False

    def feed(self, piece: bytes) -> Iterator[Block]:
        """The blocks that are complete after this piece."""
        if self._skipping:
            piece = self._after_long_line(piece)
        if not piece:
            return
        self._parts.append(piece)
        self._size += len(piece)
        if self._size >= self._want:
            yield from self._cut(b"".join(self._parts))

    def finish(self) -> Iterator[Block]:
        """The last block; a missing final line end is added."""
        data = b"".join(self._parts)
        if data and not data.endswith(b"\n"):
            data += b"\n"
        while data:
            yield from self._cut(data, final=True)
            data = b"".join(self._parts)

    def _cut(self, data: bytes, *, final: bool = False) -> Iterator[Block]:
        limit = self._limits.max_row_bytes
        cut = self._format.cut(data, self._line, limit)
        self._skipping = cut.skip and not final
        rest = cut.rest
        if final and not cut.rows and not cut.rejects:
            # No row end will follow: this is a broken row. Its first line is rejected, the rest is read again.
            cut, rest = _give_up(rest, self._line, self._format)
        self._parts, self._size = [rest], len(rest)
        if cut.rows or cut.rejects:
            # A lone CR at the very end is made a CRLF: the same line, and an end that needs no look ahead.
            rows = cut.rows + b"\n" if cut.rows.endswith(b"\r") else cut.rows
            yield Block(ordinal=self._ordinal, first_line=self._line, data=rows, rejects=cut.rejects)
            self._ordinal += 1
            lines = self._format.line_ends(rows)
            self._line += lines
            if lines:
                self._block_bytes = min(self._limits.block_bytes, len(rows) * self._limits.block_rows // lines)
        # A row longer than a block is looked at again only when it has doubled: linear work up to the limit.
        self._want = max(self._block_bytes, min(2 * len(rest), limit + 1))

    def _after_long_line(self, piece: bytes) -> bytes:
        """The piece from the line end on that ends the skipped line; nothing where it holds none."""
        match = self._format.line_end.search(piece)
        if match is None:
            return b""
        self._skipping = False
        return piece[match.start() :]


def _give_up(rest: bytes, line: int, row_format: RowFormat) -> tuple[Cut, bytes]:
    """The unfinished row at the end of the object as a reject of its first line, and what follows that line."""
    match = row_format.line_end.search(rest)
    end = match.start() if match else len(rest)
    return Cut(rows=b"", rest=b"", rejects=(_unclosed(line, rest[:end], "the object"),)), rest[end:]


def _unclosed(line: int, raw: bytes, within: str) -> Reject:
    message = f"a quoted field does not end within {within}"
    return Reject(line=line, field="", rule="csv.quote", message=message, raw=raw[:RAW_LIMIT_BYTES])


def _too_long(line: int, raw: bytes, limit: int) -> Reject:
    message = f"the row is longer than {limit} bytes"
    return Reject(line=line, field="", rule="row.size", message=message, raw=raw[: min(limit, RAW_LIMIT_BYTES)])


def _bad_quote(line: int, raw: bytes) -> Reject:
    message = "text after the closing quote of a field; a quote within a quoted field is doubled"
    return Reject(line=line, field="", rule="csv.quote", message=message, raw=raw[:RAW_LIMIT_BYTES])


def cut_ndjson(data: bytes, first_line: int, max_row_bytes: int) -> Cut:
    """Rows that end with LF."""
    return _cut_lines(data, data.rfind(b"\n") + 1, first_line, max_row_bytes, NDJSON_LINE)


def cut_tsv(data: bytes, first_line: int, max_row_bytes: int) -> Cut:
    """Rows that end with LF, CRLF or CR; quotes mean nothing."""
    return _cut_lines(data, last_line_end(data, len(data)), first_line, max_row_bytes, WHOLE_LINE)


def _cut_lines(data: bytes, end: int, first_line: int, limit: int, line: re.Pattern[bytes]) -> Cut:
    rows, rest = data[:end], data[end:]
    rejects: list[Reject] = []
    if len(rows) > limit:
        rows = _without_long_lines(rows, first_line, limit, line, rejects)
    if len(rest) - rest.endswith(b"\r") <= limit:
        return Cut(rows=rows, rest=rest, rejects=tuple(rejects))
    number = first_line + sum(1 for _ in line.finditer(rows))
    # A CR as the last byte ends the long line (or is half of its CRLF), except in NDJSON.
    ended = line is WHOLE_LINE and rest.endswith(b"\r")
    reject = _too_long(number, rest, limit)
    return Cut(rows=rows, rest=b"\r" if ended else b"", rejects=(*rejects, reject), skip=not ended)


def _without_long_lines(
    rows: bytes, first_line: int, limit: int, line: re.Pattern[bytes], rejects: list[Reject]
) -> bytes:
    kept: list[bytes] = []
    for number, match in enumerate(line.finditer(rows), first_line):
        text = rows[match.start() : match.start(1)]
        if len(text) > limit:
            rejects.append(_too_long(number, text, limit))
            kept.append(BLANK_LINE)
        else:
            kept.append(match.group())
    return b"".join(kept)


def cut_quoted(quote: bytes, quoting: Quoting, data: bytes, first_line: int, max_row_bytes: int) -> Cut:
    """Rows that end with LF, CRLF or CR outside of quoted fields."""
    if quote not in data:
        return cut_tsv(data, first_line, max_row_bytes)
    end = regular_end(data, quote, quoting)
    if len(data) // 2 <= end <= max_row_bytes and len(data) - end <= max_row_bytes:
        return Cut(rows=data[:end], rest=data[end:])
    return _QuotedRows(quoting, data, first_line, max_row_bytes).cut()


class _QuotedRows:
    """One pass over data whose quotes need the full grammar."""

    def __init__(self, quoting: Quoting, data: bytes, first_line: int, limit: int) -> None:
        self._quoting = quoting
        self._data = data
        self._line = first_line
        self._limit = limit
        self._position = 0
        self._kept: list[bytes] = []
        self._rejects: list[Reject] = []

    def cut(self) -> Cut:
        skip = False
        while True:
            self._keep(self._rows_end())
            if self._position == len(self._data):
                break
            if self._is_waiting():
                break
            reject = self._reject_line()
            if reject is None:
                skip = True
                break
            self._rejects.append(reject)
        if skip and self._data.endswith(b"\r"):
            self._position, skip = len(self._data) - 1, False
        rest = b"" if skip else self._data[self._position :]
        return Cut(rows=b"".join(self._kept), rest=rest, rejects=tuple(self._rejects), skip=skip)

    def _rows_end(self) -> int:
        """The end of the well-formed rows from here on that are short enough."""
        match = self._quoting.rows.match(self._data, self._position)
        end = match.end() if match else self._position
        if end - self._position <= self._limit:
            return end
        for row in self._quoting.row.finditer(self._data, self._position):
            if row.start() >= end or len(row.group().rstrip(b"\r\n")) > self._limit:
                return min(row.start(), end)
        return end

    def _keep(self, end: int) -> None:
        rows = self._data[self._position : end]
        self._kept.append(rows)
        self._line += line_ends(rows)
        self._position = end

    def _is_waiting(self) -> bool:
        """Whether the row here may still become well-formed, or its broken line has not ended yet."""
        if len(self._data) - self._position > self._limit + 2:
            return False
        unfinished = self._quoting.partial_row.match(self._data, self._position) is not None
        return unfinished or LINE.match(self._data, self._position) is None

    def _reject_line(self) -> Reject | None:
        """Rejects the physical line here, which becomes a blank one; None where it has no end yet (and is noted)."""
        match = LINE.match(self._data, self._position)
        end = match.start(1) if match else len(self._data)
        raw = self._data[self._position : end]
        if len(raw) > self._limit:
            reject = _too_long(self._line, raw, self._limit)
        elif self._quoting.partial_row.match(self._data, self._position) or self._quoting.row.match(
            self._data, self._position
        ):
            reject = _unclosed(self._line, raw, f"{self._limit} bytes")
        else:
            reject = _bad_quote(self._line, raw)
        if match is None:
            self._rejects.append(reject)
            return None
        self._kept.append(BLANK_LINE)
        self._line += 1
        self._position = match.end()
        return reject


def delimited(rows: Grammar) -> RowFormat:
    """Rows of CSV or TSV."""
    cut = partial(cut_quoted, rows.quote, rows.quoting) if rows.quoting else cut_tsv
    return RowFormat(cut=cut, line_ends=line_ends, line_end=ANY_LINE_END)


NDJSON = RowFormat(cut=cut_ndjson, line_ends=lambda data: data.count(b"\n"), line_end=LINE_FEED)
TSV = delimited(TSV_GRAMMAR)
CSV = delimited(CSV_GRAMMAR)

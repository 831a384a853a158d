"""Where rows end: the grammar of CSV rows (RFC 4180) and of plain lines. Pure functions of bytes.

A quote is special only at the beginning of a field, as in Arrow's parser; elsewhere it is text. LF, CRLF and a lone CR
end a CSV or TSV row; only LF ends an NDJSON row (a CR is white space there).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator


def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    """The pattern, its possessive groups made plain where the interpreter matches those wrongly.

    CPython before 3.11.5 does (gh-106052); Debian 12 has 3.11.2. No pattern here matches otherwise for it: what a plain
    group could give back never begins what has to follow it.
    """
    if sys.version_info < (3, 11, 5):
        pattern = pattern.replace(b")*+", b")*").replace(b")?+", b")?")
    return re.compile(pattern)


# Possessive throughout: linear time, and no backtracking stack that a hostile row could blow up. Checked against plain
# groups: 4 Mi doubled quotes in one field cost 254 MiB with those, nothing with these.
_QUOTED = rb'"[^"]*+(?:""[^"]*+)*+"(?![^,\r\n])'
_PLAIN = rb'(?!")[^,\r\n]*+'
_FIELD = rb"(?:" + _QUOTED + rb"|" + _PLAIN + rb")"
_LINE_END = rb"(?:\r\n|\n|\r(?!\Z))"
_ROW = _FIELD + rb"(?:," + _FIELD + rb")*+" + _LINE_END
_OPEN = rb'(?:"[^"]*+(?:""[^"]*+)*+(?:"\r?)?|(?!")[^,\r\n]*+\r?)\Z'

FIELD = _compiled(rb"(" + _FIELD + rb")(,|" + _LINE_END + rb"|\r\Z)")
ROW = _compiled(_ROW)
ROWS = _compiled(rb"(?:" + _ROW + rb")*+")
# The beginning of a row that may still become well-formed.
PARTIAL_ROW = _compiled(rb"(?:" + _FIELD + rb",)*+" + _OPEN)
# A row, or a run of blank lines: bombs are made of those.
_ROW_OR_BLANKS = _compiled(rb"[\r\n]++|" + _ROW)
LINE = re.compile(rb"[^\r\n]*+(\r\n|\n|\r(?!\Z))")
# The same where no more data can follow.
WHOLE_LINE = re.compile(rb"[^\r\n]*+(\r\n|\n|\r)")
_FULL_LINE = re.compile(rb"[^\r\n]++(?:\r\n|\n|\r)")
# Only the surroundings of quotes are looked at, which is three times as fast as ROWS where quotes are few. Fails (stops
# early) on any quote that is text, also a legal one: ROWS then decides.
_PAIRS = rb'"[^"]*+"(?:"[^"]*+")*+'
REGULAR = _compiled(
    rb"(?:" + _PAIRS + rb"(?:[,\r\n]" + _PAIRS + rb")*+(?:[,\r\n](?:[^\"]*+(?<=[,\r\n]))?+|\Z)"
    rb'|[^"]++(?<=[,\r\n])|[^"]++\Z)*+'
)


def line_ends(data: bytes) -> int:
    """How many physical lines end in CSV or TSV data. To find no CR is 20 times as fast as to count none."""
    line_feeds = data.count(b"\n")
    return line_feeds + data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else line_feeds


def last_line_end(data: bytes, end: int) -> int:
    """The offset after the last line end before `end`, 0 where there is none.

    A CR that is or may be half a CRLF does not count.
    """
    if data[end - 1 : end] == b"\r" and data[end : end + 1] in (b"", b"\n"):
        end -= 1
    return max(data.rfind(b"\n", 0, end), data.rfind(b"\r", 0, end)) + 1


def regular_end(data: bytes) -> int:
    """A cheap lower bound of the offset after the last whole row; 0 where the quotes need the full grammar."""
    match = REGULAR.match(data)
    end = reach = match.end() if match else 0
    while (end := last_line_end(data, end)) > 0:
        # Up to `reach` quotes come in pairs, doubled ones too: an even number behind means that this is no quoted text.
        if data.count(b'"', end, reach) % 2 == 0:
            return end
        end -= 1
        if reach - end > len(data) // 2:
            return 0
    return 0


def row_spans(data: bytes, *, tabs: bool) -> Iterator[tuple[int, int]]:
    """Start and end (after the line end) of every row that is no blank line; the data holds whole rows only."""
    if tabs:
        yield from (match.span() for match in _FULL_LINE.finditer(data))
        return
    for match in _ROW_OR_BLANKS.finditer(data):
        start, end = match.span()
        if data[start] not in b"\r\n":
            yield start, end


def fields_of(row: bytes) -> list[bytes]:
    """The fields of one row, unquoted; `row` includes its line end or not."""
    if not row.endswith((b"\r", b"\n")):
        row += b"\n"
    return [unquote(match.group(1)) for match in FIELD.finditer(row)]


def unquote(field: bytes) -> bytes:
    """A field's text."""
    if field.startswith(b'"'):
        return field[1:-1].replace(b'""', b'"')
    return field

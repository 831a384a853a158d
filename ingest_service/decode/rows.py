"""Where rows end: the grammar of delimited rows (RFC 4180) and of plain lines. Pure functions of bytes.

A quote is special only at the beginning of a field, as in Arrow's parser; elsewhere it is text. LF, CRLF and a lone CR
end a CSV or TSV row; only LF ends an NDJSON row (a CR is white space there).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache


def _compiled(pattern: bytes) -> re.Pattern[bytes]:
    """The pattern, its possessive groups made plain where the interpreter matches those wrongly.

    CPython before 3.11.5 does (gh-106052); Debian 12 has 3.11.2. No pattern here matches otherwise for it: what a plain
    group could give back never begins what has to follow it.
    """
    if sys.version_info < (3, 11, 5):
        pattern = pattern.replace(b")*+", b")*").replace(b")?+", b")?")
    return re.compile(pattern)


LINE = re.compile(rb"[^\r\n]*+(\r\n|\n|\r(?!\Z))")
# The same where no more data can follow.
WHOLE_LINE = re.compile(rb"[^\r\n]*+(\r\n|\n|\r)")
_FULL_LINE = re.compile(rb"[^\r\n]++(?:\r\n|\n|\r)")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quoting:
    """The patterns of rows with quoted fields.

    `row_or_blanks`: a row, or a run of blank lines, which bombs are made of. `partial_row`: the beginning of a row that
    may still become well-formed. `regular` looks only at the surroundings of quotes, which is three times as fast as
    `rows` where quotes are few; it stops early on any quote that is text, also a legal one: `rows` then decides.
    """

    field: re.Pattern[bytes]
    row: re.Pattern[bytes]
    rows: re.Pattern[bytes]
    row_or_blanks: re.Pattern[bytes]
    partial_row: re.Pattern[bytes]
    regular: re.Pattern[bytes]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grammar:
    """How delimited rows are written; without `quoting` every line is a row. Made by `grammar`."""

    delimiter: bytes
    quote: bytes
    quoting: Quoting | None

    @property
    def row(self) -> re.Pattern[bytes]:
        """One row with its line end."""
        return self.quoting.row if self.quoting else WHOLE_LINE


@lru_cache(maxsize=64)
def grammar(delimiter: bytes, quote: bytes | None) -> Grammar:
    """The grammar with this delimiter and quote, one ASCII character each."""
    return Grammar(delimiter=delimiter, quote=quote or b"", quoting=_quoting(delimiter, quote) if quote else None)


def _quoting(delimiter: bytes, quote: bytes) -> Quoting:
    names = {b"D": re.escape(delimiter), b"Q": re.escape(quote)}

    def pattern(text: bytes) -> bytes:
        return re.sub(rb"<([DQ])>", lambda match: names[match.group(1)], text)

    # Possessive throughout: linear time, and no backtracking stack that a hostile row could blow up. Checked against
    # plain groups: 4 Mi doubled quotes in one field cost 254 MiB with those, nothing with these.
    quoted = pattern(rb"<Q>[^<Q>]*+(?:<Q><Q>[^<Q>]*+)*+<Q>(?![^<D>\r\n])")
    plain = pattern(rb"(?!<Q>)[^<D>\r\n]*+")
    field = rb"(?:" + quoted + rb"|" + plain + rb")"
    line_end = rb"(?:\r\n|\n|\r(?!\Z))"
    row = field + rb"(?:" + names[b"D"] + field + rb")*+" + line_end
    unfinished = pattern(rb"(?:<Q>[^<Q>]*+(?:<Q><Q>[^<Q>]*+)*+(?:<Q>\r?)?|(?!<Q>)[^<D>\r\n]*+\r?)\Z")
    pairs = pattern(rb"<Q>[^<Q>]*+<Q>(?:<Q>[^<Q>]*+<Q>)*+")
    between = pattern(rb"[<D>\r\n]")
    regular = (
        rb"(?:" + pairs + rb"(?:" + between + pairs + rb")*+(?:" + between + pattern(rb"(?:[^<Q>]*+(?<=")
        + between + rb"))?+|\Z)" + pattern(rb"|[^<Q>]++(?<=") + between + rb")" + pattern(rb"|[^<Q>]++\Z)*+")
    )  # fmt: skip
    return Quoting(
        field=_compiled(rb"(" + field + rb")(" + names[b"D"] + rb"|" + line_end + rb"|\r\Z)"),
        row=_compiled(row),
        rows=_compiled(rb"(?:" + row + rb")*+"),
        row_or_blanks=_compiled(rb"[\r\n]++|" + row),
        partial_row=_compiled(rb"(?:" + field + names[b"D"] + rb")*+" + unfinished),
        regular=_compiled(regular),
    )


CSV_GRAMMAR = grammar(b",", b'"')
TSV_GRAMMAR = grammar(b"\t", None)


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


def regular_end(data: bytes, quote: bytes, quoting: Quoting) -> int:
    """A cheap lower bound of the offset after the last whole row; 0 where the quotes need the full grammar."""
    match = quoting.regular.match(data)
    end = reach = match.end() if match else 0
    while (end := last_line_end(data, end)) > 0:
        # Up to `reach` quotes come in pairs, doubled ones too: an even number behind means that this is no quoted text.
        if data.count(quote, end, reach) % 2 == 0:
            return end
        end -= 1
        if reach - end > len(data) // 2:
            return 0
    return 0


def row_spans(data: bytes, rows: Grammar) -> Iterator[tuple[int, int]]:
    """Start and end (after the line end) of every row that is no blank line; the data holds whole rows only."""
    if rows.quoting is None:
        yield from (match.span() for match in _FULL_LINE.finditer(data))
        return
    for match in rows.quoting.row_or_blanks.finditer(data):
        start, end = match.span()
        if data[start] not in b"\r\n":
            yield start, end


def fields_of(row: bytes, rows: Grammar) -> list[bytes]:
    """The fields of one row, unquoted; `row` includes its line end or not."""
    if rows.quoting is None:
        return row.rstrip(b"\r\n").split(rows.delimiter)
    if not row.endswith((b"\r", b"\n")):
        row += b"\n"
    return [unquote(match.group(1), rows.quote) for match in rows.quoting.field.finditer(row)]


def unquote(field: bytes, quote: bytes) -> bytes:
    """A field's text."""
    if field.startswith(quote):
        return field[1:-1].replace(quote * 2, quote)
    return field

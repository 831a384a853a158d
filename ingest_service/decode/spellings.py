"""A dialect's own spelling of values, rewritten to the usual one, for one text and for a column of them. Pure.

Both ways run the same patterns, so that a value means the same whichever path its block takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ingest_service.decode.dialect import MONTHS, Dialect, directives
from ingest_service.decode.model import BadValue
from ingest_service.decode.scalars import shown
from shared.contract.model import Kind

_PATTERNS = {
    "Y": "([0-9]{4})",
    "y": "([0-9]{2})",
    "m": "([0-9]{1,2})",
    "d": "([0-9]{1,2})",
    "b": f"({'|'.join(MONTHS)})",
    "H": "([0-9]{1,2})",
    "M": "([0-9]{1,2})",
    "S": "([0-9]{1,2})",
    "f": "([0-9]{1,9})",
    "z": "([Zz]|[+-][0-9]{2}:?[0-9]{2})",
}
# One-digit parts get their zero. Twice, because the end of one part is the beginning of the next.
_PAD = (r"([-T:])([0-9])([-T:.Zz+]|$)", r"\g<1>0\2\3")
# As POSIX and Python have it: 69 to 99 are of the 20th century.
_CENTURIES = ((r"^~(69|[7-9][0-9])", r"19\1"), (r"^~([0-9]{2})", r"20\1"))


class Spelling(Protocol):
    """One kind's own spelling."""

    def text(self, text: str) -> str:
        """The usual spelling of one text; one that is in no known spelling stays as it is. Raises BadValue."""

    def column(self, texts: pa.StringArray) -> pa.StringArray | None:
        """The same of a column; None where a text needs a closer look."""


def spellings(dialect: Dialect) -> dict[Kind, Spelling]:
    """The spellings that the dialect changes."""
    found: dict[Kind, Spelling] = {}
    if dialect.decimal_comma:
        found |= {kind: DecimalComma(kind=kind) for kind in (Kind.FLOAT, Kind.DOUBLE)}
    formats = [time_format(text) for text in dialect.timestamp_formats]
    if formats:
        found[Kind.TIMESTAMP] = Times(formats=formats)
    if dates := [one for one in formats if one.is_date]:
        found[Kind.DATE] = Times(formats=dates)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class DecimalComma:
    """1,5 for 1.5. A point is refused: it may part thousands, and to guess would change the value silently."""

    kind: Kind

    def text(self, text: str) -> str:
        """The number with a point."""
        if "." in text or text.count(",") > 1:
            raise BadValue(f"type.{self.kind.value}", f"{shown(text)} is no number with a decimal comma such as 1234,5")
        return text.replace(",", ".")

    def column(self, texts: pa.StringArray) -> pa.StringArray | None:
        """None where a text holds a point."""
        if pc.any(pc.match_substring(texts, ".")).as_py():
            return None
        return pc.replace_substring(texts, ",", ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeFormat:
    """`pattern` matches a text in the format as a whole; `steps` then make an RFC 3339 text of it, one by one."""

    pattern: str
    steps: Sequence[tuple[str, str]]
    is_date: bool


def time_format(text: str) -> TimeFormat:
    """The format, which Dialect has checked, as patterns."""
    pattern = ""
    places: dict[str, str] = {}
    for literal, directive in directives(text):
        pattern += re.escape(literal)
        if directive:
            pattern += _PATTERNS[directive]
            places[directive] = f"\\{len(places) + 1}"
    year = places.get("Y") or "~" + places["y"]
    canonical = f"{year}-{places.get('m') or places['b']}-{places['d']}"
    if "H" in places:
        canonical += f"T{places['H']}:{places.get('M', '00')}:{places.get('S', '00')}"
        canonical += f".{places['f']}" if "f" in places else ""
        canonical += places.get("z", "")
    steps = [(f"^{pattern}$", canonical)]
    if "b" in places:
        steps += [(f"-{name}-", f"-{number:02}-") for number, name in enumerate(MONTHS, 1)]
    if "y" in places:
        steps += _CENTURIES
    return TimeFormat(pattern=f"^{pattern}$", steps=[*steps, _PAD, _PAD], is_date="H" not in places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The first format that a text has decides."""

    formats: Sequence[TimeFormat]

    def text(self, text: str) -> str:
        """RFC 3339, without a zone where the format has none."""
        for one in self.formats:
            # "$" of Python also matches before a line end, that of RE2 does not.
            if "\n" not in text and re.search(one.pattern, text):
                for pattern, replacement in one.steps:
                    text = re.sub(pattern, replacement, text)
                return text
        return text

    def column(self, texts: pa.StringArray) -> pa.StringArray:
        """The same; texts in no format stay as they are."""
        done, open_rows = texts, texts.is_valid()
        for one in self.formats:
            fits = pc.and_(pc.match_substring_regex(texts, one.pattern), open_rows)
            if not pc.any(fits).as_py():
                continue
            rewritten = texts
            for pattern, replacement in one.steps:
                rewritten = pc.replace_substring_regex(rewritten, pattern, replacement.replace(r"\g<1>", r"\1"))
            done = pc.if_else(fits, rewritten, done)
            open_rows = pc.and_not(open_rows, fits)
        return done

"""How a source writes its files, where that departs from what the file's name says. Pure values; never sees a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FORMATS = ("csv", "tsv", "ndjson", "json", "parquet")
QUOTE = '"'
COMMA = ","
DIRECTIVES = "YymbdHMSfz"
# %b, always in English: a file must not depend on the locale of the machine that reads it.
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DIRECTIVE = re.compile("%(.?)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """`format`: one of FORMATS; None = told by the object's extension. The others but the last are about CSV and TSV:

    `delimiter` and `quote` (None = no quoting) are those of CSV, one ASCII character each. TSV has tabs and no quotes:
    tabs with quotes are CSV with the delimiter tab. `header`: the columns of files without a header line, "" for one to
    leave out. `null_tokens`: what stands for an absent value in a cell without quotes, beside the empty cell.
    `timestamp_formats`: how times are written beside RFC 3339, as of strptime with the directives %Y %y %m %b %d %H %M
    %S %f %z; the first that fits decides, without %z it is UTC, and one without a time of day holds for dates too.
    `decimal_comma`: 1,5 for 1.5 in float and double; a point is then a bad value.

    `json_path` is about .json: the names that lead to the array of rows, one for each object on the way.

    Raises ValueError, which says what is wrong.
    """

    format: str | None = None
    delimiter: str = COMMA
    quote: str | None = QUOTE
    header: tuple[str, ...] | None = None
    null_tokens: tuple[str, ...] = ()
    timestamp_formats: tuple[str, ...] = ()
    decimal_comma: bool = False
    json_path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} is not known; {', '.join(FORMATS)} are")
        self._check_delimited()
        if self.json_path and self.format not in (None, "json"):
            raise ValueError(f"json_path is for json, not for {self.format}")
        _check_character("delimiter", self.delimiter)
        if self.quote is not None:
            _check_character("quote", self.quote)
        if self.quote == self.delimiter:
            raise ValueError("delimiter and quote are the same character")
        self._check_header()
        self._check_null_tokens()
        for text in self.timestamp_formats:
            _check_time_format(text)

    def _check_delimited(self) -> None:
        told = {
            "delimiter": self.delimiter != COMMA,
            "quote": self.quote != QUOTE,
            "header": self.header is not None,
            "null_tokens": bool(self.null_tokens),
            "timestamp_formats": bool(self.timestamp_formats),
            "decimal_comma": self.decimal_comma,
        }
        for name in (name for name, set_here in told.items() if set_here):
            if self.format in ("ndjson", "json", "parquet"):
                raise ValueError(f"{name} is for csv and tsv, not for {self.format}")
            if self.format == "tsv" and name in ("delimiter", "quote"):
                raise ValueError(f"{name} is for csv: say format csv, and the tab as its delimiter")

    def _check_header(self) -> None:
        names = [name for name in self.header or () if name]
        if self.header is not None and not names:
            raise ValueError("header names no column")
        for name in names:
            if name != name.strip():
                raise ValueError(f"header: {name!r} begins or ends with a space")
            if names.count(name) > 1:
                raise ValueError(f"header names {name!r} {names.count(name)} times")

    def _check_null_tokens(self) -> None:
        for token in self.null_tokens:
            if not token:
                raise ValueError(
                    "null_tokens: an empty cell without quotes is always absent; leave the empty token out"
                )


def _check_character(name: str, value: str) -> None:
    if len(value) != 1 or not value.isascii() or value in "\r\n\0":
        raise ValueError(f"{name} {value!r} must be one ASCII character, and neither line end nor NUL")


def _check_time_format(text: str) -> None:
    found = [directive for _, directive in directives(text) if directive]
    for directive in found:
        if directive not in DIRECTIVES:
            raise ValueError(f"timestamp_formats: %{directive} of {text!r} is not known; %{' %'.join(DIRECTIVES)} are")
        if found.count(directive) > 1:
            raise ValueError(f"timestamp_formats: {text!r} has %{directive} {found.count(directive)} times")
    for needed in ("Yy", "mb", "d"):
        if sum(directive in found for directive in needed) != 1:
            raise ValueError(f"timestamp_formats: {text!r} needs one of %{' %'.join(needed)}")
    for finer, coarser in ("MH", "SM", "fS", "zH"):
        if finer in found and coarser not in found:
            raise ValueError(f"timestamp_formats: {text!r} has %{finer} without %{coarser}")


def directives(text: str) -> Iterator[tuple[str, str]]:
    """A strptime format as (literal text, the directive's letter after it); the last letter is "" at the end."""
    literal, position = "", 0
    for match in _DIRECTIVE.finditer(text):
        literal += text[position : match.start()]
        position = match.end()
        if match.group(1) == "%":
            literal += "%"
        else:
            yield literal, match.group(1) or "%"
            literal = ""
    yield literal + text[position:], ""


DEFAULTS = Dialect()

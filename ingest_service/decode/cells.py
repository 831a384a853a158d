"""A column of CSV cells to a field's canonical column, as a whole where that works, cell by cell where not. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ingest_service.decode.model import BadValue, ColumnResult
from ingest_service.decode.protojson import Converter
from ingest_service.decode.record import RecordField, convert_values
from ingest_service.decode.scalars import shown, text_parser
from ingest_service.decode.spellings import Spelling
from ingest_service.decode.text_columns import cast_texts, struct_of
from shared.contract.model import Kind

SPACES = " \t"


def cell_column(
    field: RecordField, texts: pa.StringArray, spelling: Spelling | None, *, has_nul: bool, row_by_row: bool
) -> ColumnResult:
    """The field's values of all rows; a null text is an empty cell without quotes. `spelling`: of the field's kind.

    Text keeps its spaces, and quoted empty text is the empty string; all other kinds ignore spaces around the value,
    and empty means absent. Nested, repeated and map fields take ProtoJSON in the cell.
    """
    if field.kind is None:
        return convert_values(texts.to_pylist(), json_cell(field.convert), field.arrow_type)
    if field.kind is not Kind.STRING:
        texts = _empty_as_null(texts)
    enum = field.descriptor.enum_type
    if not row_by_row:
        # NUL is looked for in the whole block at once: a clean block pays nothing for it.
        skip = field.kind is Kind.STRING and not has_nul
        usual = spelling.column(texts) if spelling else texts
        values = usual if skip or usual is None else cast_texts(usual, field.kind, enum)
        if values is not None:
            return ColumnResult(values=_wrapped(values, field), errors={})
    return convert_values(texts.to_pylist(), _text_cell(field, spelling), field.arrow_type)


def _empty_as_null(texts: pa.StringArray) -> pa.StringArray:
    empty = pc.equal(pc.binary_length(texts), 0)
    return pc.if_else(empty, pa.scalar(None, pa.string()), texts) if pc.any(empty).as_py() else texts


def _wrapped(values: pa.Array, field: RecordField) -> pa.Array:
    return struct_of({"value": values}, values) if field.wrapper else values


def _text_cell(field: RecordField, spelling: Spelling | None) -> Callable[[str], Any]:
    assert field.kind is not None
    parse = text_parser(field.kind, field.descriptor.enum_type)
    if spelling is not None:
        parse = _respelled(spelling, parse)
    if field.kind is not Kind.STRING:
        parse = _trimmed(parse)
    if not field.wrapper:
        return parse

    def wrapped(text: str) -> Any:
        value = parse(text)
        return None if value is None else {"value": value}

    return wrapped


def _respelled(spelling: Spelling, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: parse(spelling.text(text))


def _trimmed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse_trimmed(text: str) -> Any:
        trimmed = text.strip(SPACES)
        return parse(trimmed) if trimmed else None

    return parse_trimmed


def json_cell(convert: Converter) -> Callable[[str], Any]:
    """The function from a text of ProtoJSON to the Arrow value that `convert` makes of it."""

    def parse(text: str) -> Any:
        if not text.strip(SPACES):
            return None
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            raise BadValue("json.syntax", f"{shown(text)} is not JSON: {exc.msg}") from None
        return None if value is None else convert(value)

    return parse

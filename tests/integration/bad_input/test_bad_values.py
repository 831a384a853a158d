"""Values that a column cannot hold: each is named by line, field and rule, in a file that fails and in one that is
loaded without them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import NamedTuple

from ingest_service.ledger.records import LoadState
from shared.contract.model import MAX_INDEXED_BYTES
from tests.integration.bad_input.intake import Fault, Intake

FORMATS = ("csv", "tsv", "ndjson")


class Bad(NamedTuple):
    """A value that is refused. `value` is the cell of a CSV file; `path` is the field unless it lies deeper."""

    field: str
    value: str
    rule: str
    message: str
    path: str = ""

    def fault(self, line: int) -> Fault:
        return Fault(line, self.path or self.field, self.rule, self.message)


def out_of(kind: str, value: str) -> tuple[str, str, str]:
    return value, f"range.{kind}", f"{value!r} is out of the range of {kind}"


def no_integer(kind: str, value: str) -> tuple[str, str, str]:
    return value, f"type.{kind}", f"{value!r} is no integer"


def no_number(kind: str, value: str) -> tuple[str, str, str]:
    return value, f"type.{kind}", f"{value!r} is no number"


def no_time(value: str) -> tuple[str, str, str]:
    return value, "type.timestamp", f"{value!r} is no RFC 3339 time such as 2024-01-31T10:20:30Z"


def no_date(value: str) -> tuple[str, str, str]:
    return value, "type.date", f"{value!r} is no date such as 2024-01-31"


def no_duration(value: str) -> tuple[str, str, str]:
    return value, "type.duration", f"{value!r} is no duration such as 1.5s"


TOO_LONG = "9" * 5000
VALUES = [
    Bad("i32", *no_integer("int32", "12 pieces")),
    Bad("i32", *no_integer("int32", "1.5")),
    Bad("i32", *no_integer("int32", "0x1F")),
    Bad("i32", *no_integer("int32", "NaN")),
    Bad("i32", *no_integer("int32", "-Infinity")),
    Bad("i32", *out_of("int32", "2147483648")),
    Bad("i32", *out_of("int32", "-2147483649")),
    Bad("i64", *no_integer("int64", "1_000")),
    Bad("i64", *no_integer("int64", "NaN")),
    Bad("i64", *out_of("int64", "9223372036854775808")),
    Bad("i64", *out_of("int64", "-9223372036854775809")),
    Bad("i64", TOO_LONG, "range.int64", f"'{TOO_LONG[:57]}...' is out of the range of int64"),
    Bad("u32", *out_of("uint32", "-1")),
    Bad("u32", *out_of("uint32", "4294967296")),
    Bad("u64", *out_of("uint64", "-1")),
    Bad("u64", *out_of("uint64", "18446744073709551616")),
    Bad("u64", *no_integer("uint64", "inf")),
    Bad("f32", *out_of("float", "3.5e+38")),
    Bad("f32", *no_number("float", "1,5")),
    Bad("f64", *out_of("double", "-1e309")),
    Bad("f64", *no_number("double", "nan(1)")),
    Bad("f64", *no_number("double", "0x1p3")),
    Bad("grade", "GRADE_WORST", "type.enum", "'GRADE_WORST' is no name of the enum and no number"),
    Bad("grade", *out_of("enum", "2147483648")),
    Bad("at", *no_time("yesterday")),
    Bad("at", *no_time("1706692830")),
    Bad("at", *no_time("10000-01-01T00:00:00Z")),
    Bad("at", "2023-02-29T00:00:00Z", "type.timestamp", "'2023-02-29T00:00:00Z': day is out of range for month"),
    Bad("at", "2023-01-01T25:00:00Z", "type.timestamp", "'2023-01-01T25:00:00Z': hour must be in 0..23"),
    Bad("at", *out_of("timestamp", "0000-12-31T23:59:59Z")),
    Bad("at", *out_of("timestamp", "0001-01-01T00:00:00+00:01")),
    Bad("at", *out_of("timestamp", "9999-12-31T23:59:59-00:01")),
    Bad("took", *no_duration("1h")),
    Bad("took", *no_duration("1.0000000001s")),
    Bad("took", *out_of("duration", "315576000001s")),
    Bad("took", *out_of("duration", "-315576000000.1s")),
    Bad("day", *no_date("31.01.2024")),
    Bad("day", *no_date("10000-01-01")),
    Bad("day", "2023-02-29", "type.date", "2023-02-29 is no calendar day: day is out of range for month"),
    Bad("day", "2023-00-10", "type.date", "2023-00-10 is no calendar day: month must be in 1..12"),
    Bad("day", "0000-01-01", "type.date", "0000-01-01 is no calendar day: year 0 is out of range"),
    Bad("digest", "%%%", "type.bytes", "'%%%' is no base64"),
    Bad("wrapped", *out_of("int64", "9223372036854775808")),
    Bad("part", '{"count": 2147483648}', "range.int32", "'2147483648' is out of the range of int32", "part.count"),
    Bad("part", "[1]", "type.message", "an array where message is expected"),
    Bad("counts", '[1, "x"]', "type.int64", "'x' is no integer", "counts[1]"),
    Bad("counts", "7", "type.repeated", "a number where repeated is expected"),
    Bad("parts", '{"a": {"count": "x"}}', "type.int32", "'x' is no integer", 'parts["a"].count'),
    Bad("code", "nine char", "string.max_len", "must be at most 8 characters"),
    Bad(
        "label",
        "x" * (MAX_INDEXED_BYTES + 1),
        "index.size",
        f"the values of one index entry take more than {MAX_INDEXED_BYTES} bytes",
    ),
]
NESTED = {"part", "counts", "parts"}
# What only JSON can write, with the JSON text as the value.
JSON_VALUES = [
    Bad("i32", "true", "type.int32", "a boolean where int32 is expected"),
    Bad("i32", "1.5", "type.int32", "1.5 is no integer"),
    Bad("i32", "1e10", "range.int32", "'10000000000' is out of the range of int32"),
    Bad("i64", "9223372036854775808", "range.int64", "'9223372036854775808' is out of the range of int64"),
    Bad("u64", "1e20", "range.uint64", "'1e+20' is out of the range of uint64"),
    Bad("f32", "3.5e38", "range.float", "'3.5e+38' is out of the range of float"),
    Bad("f64", "[1]", "type.double", "an array where double is expected"),
    Bad("flag", '"true"', "type.bool", "a string where bool is expected"),
    Bad("flag", "1", "type.bool", "a number where bool is expected"),
    Bad("note", "5", "type.string", "a number where string is expected"),
    Bad("at", "1706692830", "type.timestamp", "a number where timestamp is expected"),
    Bad(
        "day", '{"year": 2024, "month": 2}', "type.date", "2024-02-00 is no calendar day: day is out of range for month"
    ),
    Bad("wrapped", "{}", "type.int64", "an object where int64 is expected"),
    Bad("counts", "[1, null]", "type.repeated", "null cannot be an element", "counts[1]"),
    Bad("part", '{"name": {"deep": 1}}', "type.string", "an object where string is expected", "part.name"),
]


def body_of(form: str, cases: Sequence[Bad]) -> bytes:
    """A file with one bad value a line and a good row at the end; the first case stands on line 2."""
    if form == "ndjson":
        lines = [json.dumps({"id": "first"})]
        for number, case in enumerate(cases):
            value = case.value if case.field in NESTED else json.dumps(case.value)
            lines.append(f'{{"id": "bad-{number}", "{case.field}": {value}}}')
        return "\n".join([*lines, json.dumps({"id": "good"})]).encode()
    fields = list(dict.fromkeys(["id", *(case.field for case in cases)]))
    rows: list[dict[str, str]] = [{"id": f"bad-{n}", case.field: case.value} for n, case in enumerate(cases)]
    text = io.StringIO(newline="")
    if form == "csv":
        writer = csv.DictWriter(text, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, {"id": "good"}])
    else:
        for row in [dict.fromkeys(fields, ""), *rows, {"id": "good"}]:
            text.write("\t".join(fields if not row.get("id") else [row.get(name, "") for name in fields]) + "\n")
    return text.getvalue().encode()


async def test_every_bad_value_is_named_and_only_its_row_left_out(intake: Intake) -> None:
    for form in FORMATS:
        outcome = await intake.accept(f"tolerant/values.{form}", body_of(form, VALUES))
        assert outcome.faults == [case.fault(line) for line, case in enumerate(VALUES, 2)], form
        assert outcome.load.read.rows_rejected == len(VALUES)
    assert set(await intake.records("tolerant")) - {"first"} == {"good"}


async def test_one_bad_value_fails_the_file_where_none_is_allowed(intake: Intake) -> None:
    case = Bad("day", *no_date("31.01.2024"))
    for form, rows in (("csv", 2), ("tsv", 2), ("ndjson", 3)):
        key = f"strict/values.{form}"
        outcome = await intake.refuse(key, body_of(form, [case]))
        assert outcome.load.reason == "TOO_MANY_REJECTS"
        assert outcome.faults == [case.fault(2)]
        assert outcome.load.message == (
            f"1 of {rows} rows rejected, 0 % allowed; the first one: {intake.uri(key)}, line 2, field day: "
            "'31.01.2024' is no date such as 2024-01-31 (type.date)"
        )


async def test_every_bad_json_value_is_named(intake: Intake) -> None:
    lines = [f'{{"id": "bad-{n}", "{case.field}": {case.value}}}' for n, case in enumerate(JSON_VALUES)]
    outcome = await intake.accept("tolerant/a.ndjson", "\n".join([*lines, '{"id": "good"}']).encode())
    assert outcome.faults == [case.fault(line) for line, case in enumerate(JSON_VALUES, 1)]
    assert set(await intake.records("tolerant")) == {"good"}


BOUNDS = {
    "i32": ("-2147483648", "2147483647"),
    "i64": ("-9223372036854775808", "9223372036854775807"),
    "u32": ("0", "4294967295"),
    "u64": ("0", "18446744073709551615"),
    "f32": ("-3.4028234663852886e38", "3.4028234663852886e38"),
    "f64": ("-1.7976931348623157e308", "1.7976931348623157e308"),
    "grade": ("-2147483648", "2147483647"),
    "at": ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z"),
    "took": ("-315576000000s", "315576000000s"),
    "day": ("0001-01-01", "9999-12-31"),
    "label": ("", "x" * (MAX_INDEXED_BYTES - len("ndjson-0"))),
}


def written(form: str, rows: Sequence[dict[str, str]]) -> bytes:
    """Rows that all have the same fields, with values that need no quotes."""
    if form == "ndjson":
        return "\n".join(map(json.dumps, rows)).encode()
    mark = "," if form == "csv" else "\t"
    return "\n".join(mark.join(row) for row in [list(rows[0]), *(row.values() for row in rows)]).encode()


async def test_the_bounds_themselves_are_in_range(intake: Intake) -> None:
    least, largest = ({name: bounds[n] for name, bounds in BOUNDS.items()} for n in (0, 1))
    for form in FORMATS:
        ids = f"{form}-0", f"{form}-1"
        await intake.accept(
            f"strict/bounds.{form}", written(form, [{"id": ids[0], **least}, {"id": ids[1], **largest}])
        )
        records = await intake.records()
        low, high = (records[name] for name in ids)
        assert (low.i64, high.u64, high.f64) == (-(2**63), 2**64 - 1, 1.7976931348623157e308)
        assert (low.at.ToJsonString(), high.took.seconds) == ("0001-01-01T00:00:00Z", 315_576_000_000)


async def test_floats_take_nan_and_infinity_as_protojson_spells_them(intake: Intake) -> None:
    words = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
    for form in FORMATS:
        rows = [{"id": word, "f32": word, "f64": word} for word in words]
        await intake.accept(f"strict/floats.{form}", written(form, rows))
        records = await intake.records()
        assert {name: (str(one.f32), str(one.f64)) for name, one in records.items()} == {
            word: (value, value) for word, value in words.items()
        }
        await intake.clear()


async def test_bare_nan_and_infinity_are_no_json(intake: Intake) -> None:
    rows = "".join(f'{{"id": "x", "f64": {word}}}\n' for word in ("NaN", "Infinity", "-Infinity"))
    outcome = await intake.refuse("strict/a.ndjson", b'{"id": "a", "f64": 1}\n' + rows.encode())
    assert [(fault.line, fault.rule) for fault in outcome.faults] == [(line, "json.syntax") for line in (2, 3, 4)]


async def test_record_over_the_contracts_limit_is_named_with_its_size(intake: Intake) -> None:
    body = b"id,note\ngood,x\nlarge," + b"x" * 70_000 + b"\n"
    outcome = await intake.accept("tolerant/a.csv", body)
    assert [fault[:3] for fault in outcome.faults] == [(3, "", "row.size")]
    assert outcome.faults[0].message.endswith("max_row_bytes is 65536")
    assert set(await intake.records("tolerant")) == {"good"}


async def test_all_rows_bad_is_a_failed_load_and_no_empty_success(intake: Intake) -> None:
    outcome = await intake.refuse("tolerant/a.csv", b"id,i32\na,x\nb,y\n")
    assert (outcome.load.state, outcome.load.reason) == (LoadState.FAILED, "TOO_MANY_REJECTS")
    assert outcome.load.message.startswith("2 of 2 rows rejected, 99 % allowed")

"""Rows that cannot be read: named by line, while every other row of the file is read as if they were not there."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from ingest_service.pipeline import HOPELESS_REJECTS
from tests.integration.bad_input.intake import Intake


class Row(NamedTuple):
    """A file with one bad row between the good rows `a` and `z`, and what is said of it."""

    name: str
    form: str
    row: bytes
    line: int
    field: str
    rule: str
    message: str


QUOTE = "csv.quote"
AFTER_QUOTE = "text after the closing quote of a field; a quote within a quoted field is doubled"
NO_KEY = "the key field has no value; write its default out if that is meant"
BOTH = "more than one member of a oneof is set: account, branch"
ROWS = [
    Row("too few columns", "csv", b"b,1", 3, "", "csv.columns", "the row has 2 columns where the header has 3"),
    Row("too many columns", "csv", b"b,1,x,y", 3, "", "csv.columns", "the row has 4 columns where the header has 3"),
    Row("too few columns", "tsv", b"b\t1", 3, "", "csv.columns", "the row has 2 columns where the header has 3"),
    Row("too many columns", "tsv", b"b\t1\tx\ty", 3, "", "csv.columns", "the row has 4 columns where the header has 3"),
    Row("text after a quote", "csv", b'b,1,"x"y', 3, "", QUOTE, AFTER_QUOTE),
    Row("open quote", "csv", b'b,1,"x', 3, "", QUOTE, "a quoted field does not end within the object"),
    Row("no UTF-8", "csv", b"b,1,caf\xe9", 3, "note", "utf8", "the text is not UTF-8"),
    Row("no UTF-8", "tsv", b"b\t1\tcaf\xe9", 3, "note", "utf8", "the text is not UTF-8"),
    Row("no UTF-8", "ndjson", b'{"id":"b","note":"caf\xe9"}', 2, "note", "utf8", "the text is not UTF-8"),
    Row("surrogate in UTF-8", "csv", b"b,1,\xed\xa0\x80", 3, "note", "utf8", "the text is not UTF-8"),
    Row("overlong UTF-8", "csv", b"b,1,\xc0\x80", 3, "note", "utf8", "the text is not UTF-8"),
    Row("NUL", "csv", b"b,1,x\0y", 3, "note", "text.nul", "the text holds a NUL character"),
    Row("NUL", "tsv", b"b\t1\tx\0y", 3, "note", "text.nul", "the text holds a NUL character"),
    Row("NUL", "ndjson", rb'{"id":"b","note":"x\u0000y"}', 2, "note", "text.nul", "the text holds a NUL character"),
    Row("NUL in the key", "csv", b"b\0,1,x", 3, "id", "text.nul", "the text holds a NUL character"),
    Row("no key", "csv", b",1,x", 3, "id", "key.missing", NO_KEY),
    Row("null key", "ndjson", b'{"id":null}', 2, "id", "key.missing", NO_KEY),
    Row("array", "ndjson", b'["b"]', 2, "", "json.object", "the row is JSON, but not an object"),
    Row("text", "ndjson", b'"b"', 2, "", "json.object", "the row is JSON, but not an object"),
    Row("null", "ndjson", b"null", 2, "", "json.object", "the row is JSON, but not an object"),
    Row("both", "ndjson", b'{"id":"b","account":"x","branch":1}', 2, "branch", "type.oneof", BOTH),
]  # fmt: skip
ENDS = {
    "csv": (b"id,i32,note\na,1,x\n", b"\nz,2,y\n"),
    "tsv": (b"id\ti32\tnote\na\t1\tx\n", b"\nz\t2\ty\n"),
    "ndjson": (b'{"id":"a","i32":1}\n', b'\n{"id":"z","i32":2}\n'),
}


def body_of(case: Row) -> bytes:
    begin, end = ENDS[case.form]
    return begin + case.row + end


async def test_bad_row_is_named_and_left_out_where_that_is_allowed(intake: Intake) -> None:
    for case in ROWS:
        outcome = await intake.accept(f"tolerant/{case.name}.{case.form}", body_of(case))
        assert outcome.faults == [case[3:]], case.name
        assert outcome.rejects[0].raw == case.row
        assert (outcome.load.read.rows_read, outcome.load.read.rows_rejected) == (3, 1), case.name
    assert set(await intake.records("tolerant")) == {"a", "z"}


async def test_bad_row_fails_its_file_and_touches_nothing_else(intake: Intake) -> None:
    for case in ROWS:
        key = f"strict/{case.name}.{case.form}"
        outcome = await intake.refuse(key, body_of(case))
        assert outcome.load.reason == "TOO_MANY_REJECTS"
        assert outcome.faults == [case[3:]], case.name
        where = f"{intake.uri(key)}, line {case.line}" + (f", field {case.field}" if case.field else "")
        assert f"{where}: {case.message} ({case.rule})" in outcome.load.message


BROKEN_JSON = {
    "trailing comma": b'{"id":"b",}',
    "two objects on one line": b'{"id":"b"} {"id":"c"}',
    "unclosed": b'{"id":"b"',
    "single quotes": b"{'id':'b'}",
    "comment": b'{"id":"b"} // the last',
    "lone leading surrogate": rb'{"id":"b","note":"\ud800"}',
    "lone trailing surrogate": rb'{"id":"b","note":"\udc00"}',
    "bare control character": b'{"id":"b","note":"x\x01y"}',
    "bare NUL": b'{"id":"b","note":"x\0y"}',
    "leading zero": b'{"id":"b","i32":007}',
    "deep nesting": b'{"id":"b","other":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "number beyond all": b'{"id":"b","f64":1e400}',
    "unknown number beyond all": b'{"id":"b","other":-1e400}',
    "CSV": b"b,1,x",
}


async def test_row_that_is_no_json_is_named_with_its_column(intake: Intake) -> None:
    begin, end = ENDS["ndjson"]
    for what, row in BROKEN_JSON.items():
        outcome = await intake.accept(f"tolerant/{what}.ndjson", begin + row + end)
        (reject,) = outcome.rejects
        assert (reject.line, reject.field, reject.rule) == (2, "", "json.syntax"), what
        assert reject.message.startswith("the row is not JSON: "), what
        assert " at column " in reject.message, what
        assert reject.raw == row[:4096]
    assert set(await intake.records("tolerant")) == {"a", "z"}


async def test_duplicate_keys_in_a_file_are_counted_and_the_last_wins(intake: Intake) -> None:
    rows = [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")]
    texts = {
        "ndjson": "".join(f'{{"id":"{key}","i32":{value}}}\n' for key, value in rows),
        "csv": "".join(f"{key},{value}\n" for key, value in [("id", "i32"), *rows]),
        "tsv": "".join(f"{key}\t{value}\n" for key, value in [("id", "i32"), *rows]),
    }
    for form, text in texts.items():
        load = (await intake.accept(f"strict/twice.{form}", text.encode())).load
        assert (load.read.rows_read, load.read.rows_duplicate, load.rows_inserted) == (4, 2, 2), form
        assert {key: record.i32 for key, record in (await intake.records()).items()} == {"a": 4, "b": 2}
        await intake.clear()


async def test_null_for_the_first_row_fails_its_file_only(intake: Intake) -> None:
    """It once ended the process, and again with each redelivery of its event."""
    outcome = await intake.refuse("strict/a.ndjson", b"null\n" * 3)
    assert [(fault.line, fault.rule) for fault in outcome.faults] == [(line, "json.object") for line in (1, 2, 3)]


async def test_json_name_that_stands_twice_means_its_last_value(intake: Intake) -> None:
    await intake.accept("strict/a.ndjson", b'{"id":"a","i32":1,"i32":2}\n{"id":"b","i32":3}\n')
    assert (await intake.records())["a"].i32 == 2


async def test_rejects_that_are_kept_are_the_first_ones_and_all_are_counted(intake: Intake) -> None:
    body = b"id,i32\n" + b"".join(b"k%d,x\n" % number for number in range(3000))
    outcome = await intake.refuse("strict/many.csv", body)
    assert outcome.load.read.rows_rejected == 3000
    assert [fault.line for fault in outcome.faults] == list(range(2, 1002))


@pytest.mark.slow
async def test_file_of_nothing_but_bad_rows_is_not_read_to_its_end(intake: Intake) -> None:
    for name, allowed in (("strict", 0), ("tolerant", 99)):
        outcome = await intake.refuse(f"{name}/a.csv", b"id,i32\n" + b"k,x\n" * 600_000)
        assert outcome.load.reason == "TOO_MANY_REJECTS"
        rejected = outcome.load.read.rows_rejected
        assert HOPELESS_REJECTS <= rejected < 600_000
        first = f"{rejected} of the first {rejected} rows rejected, {allowed} % allowed"
        assert outcome.load.message.startswith(first)


async def test_names_that_postgres_cannot_store_are_shown_another_way(intake: Intake) -> None:
    """Of a column nobody knows, and of a path: the ledger must not fail over what it quotes."""
    rows = rb'{"id":"a","x\u0000y":1}' + b"\n" + rb'{"id":"b","parts":{"x\u0000y":{}}}'
    outcome = await intake.accept("tolerant/a.ndjson", rows)
    assert outcome.load.read.unknown_columns == ("x\ufffdy",)
    assert [fault[:3] for fault in outcome.faults] == [(2, 'parts["x\\u0000y"]', "text.nul")]


async def test_what_a_reject_quotes_is_cut_short(intake: Intake) -> None:
    long = b"x" * 100_000
    rows = b'{"id":"a","parts":{"%s":{"count":"%s"}}}\n{"id":"b"}\n' % (long, long)
    outcome = await intake.accept("tolerant/a.ndjson", rows)
    (reject,) = outcome.rejects
    assert (reject.line, len(reject.field), reject.rule, len(reject.raw)) == (1, 1000, "type.int32", 4096)
    assert len(reject.message) < 100

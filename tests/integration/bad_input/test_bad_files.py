"""Files that cannot be read as a whole, and files that only look so."""

from __future__ import annotations

import bz2
import gzip
import lzma
from typing import NamedTuple

import zstandard

from tests.integration.bad_input.intake import Intake

CSV = b"id,i32,note\na,1,x\nb,2,y\n"
NDJSON = b'{"id":"a","i32":1,"note":"x"}\n{"id":"b","i32":2,"note":"y"}\n'
TEXT = CSV.decode()


class Refused(NamedTuple):
    """A file that fails as a whole, with the ledger's reason and a part of its message."""

    name: str
    body: bytes
    reason: str
    message: str


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def damaged(data: bytes) -> bytes:
    """One bit of the compressed content changed."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


LONG = b"id,note\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(20_000))
FILES = [
    Refused("UTF-16 little-endian.csv", TEXT.encode("utf-16"), "UNSUPPORTED_FORMAT", "holds UTF-16 text, not UTF-8"),
    Refused("UTF-16 big-endian.csv", b"\xfe\xff" + TEXT.encode("utf-16-be"), "UNSUPPORTED_FORMAT", "UTF-16 text"),
    Refused("UTF-16 without a mark.csv", TEXT.encode("utf-16-le"), "UNSUPPORTED_FORMAT", "UTF-16 or UTF-32 text"),
    Refused("UTF-16 big-endian without a mark.csv", TEXT.encode("utf-16-be"), "UNSUPPORTED_FORMAT", "UTF-16 or UTF-32"),
    Refused("UTF-16 without a mark.ndjson", NDJSON.decode().encode("utf-16-le"), "UNSUPPORTED_FORMAT", "UTF-16 or"),
    Refused("UTF-32.csv", TEXT.encode("utf-32"), "UNSUPPORTED_FORMAT", "UTF-32 text"),
    Refused("parquet.csv", b"PAR1" + bytes(range(256)), "UNSUPPORTED_FORMAT", "holds Parquet (name it .parquet)"),
    Refused("zip.csv", b"PK\x03\x04" + bytes(range(256)), "UNSUPPORTED_FORMAT", "a zip archive"),
    Refused("excel.xlsx", b"PK\x03\x04" + bytes(range(256)), "UNSUPPORTED_FORMAT", "*.xlsx cannot be read"),
    Refused("xz.csv", lzma.compress(CSV), "UNSUPPORTED_FORMAT", "xz data"),
    Refused("twice.csv.gz", gzip.compress(gzip.compress(CSV)), "UNSUPPORTED_FORMAT", "gzip data within compressed"),
    Refused("zstd in gzip.csv.gz", gzip.compress(zstd(CSV)), "UNSUPPORTED_FORMAT", "zstd data within compressed"),
    Refused("truncated.csv.gz", gzip.compress(LONG)[:-20], "TRUNCATED_GZIP", "ends in the middle of a member"),
    Refused("magic only.csv.gz", b"\x1f\x8b", "TRUNCATED_GZIP", "ends in the middle of a member"),
    Refused(
        "second member truncated.csv.gz", gzip.compress(LONG) + gzip.compress(LONG)[:-9], "TRUNCATED_GZIP", "member"
    ),
    Refused("corrupt.csv.gz", damaged(gzip.compress(LONG)), "CORRUPT_GZIP", "the gzip data is corrupt"),
    Refused("wrong checksum.csv.gz", gzip.compress(CSV)[:-8] + bytes(8), "CORRUPT_GZIP", "incorrect data check"),
    Refused("garbage behind.csv.gz", gzip.compress(CSV) + b"garbage", "CORRUPT_GZIP", "incorrect header check"),
    Refused("truncated.csv.zst", zstd(LONG)[:-20], "TRUNCATED_ZSTD", "ends in the middle of a frame"),
    Refused("corrupt.csv.zst", damaged(zstd(LONG)), "CORRUPT_ZSTD", "the zstd data is corrupt"),
    Refused("truncated.json", b'[{"id":"a"},\n{"id":"b"', "TRUNCATED_JSON", "the file is cut off"),
    Refused("two arrays.json", b'[{"id":"a"}]\n[]', "MALFORMED_JSON", "line 2: something follows the end"),
    Refused("truncated.csv.bz2", bz2.compress(LONG)[:-20], "TRUNCATED_BZIP2", "ends in the middle of a stream"),
    Refused("corrupt.csv.bz2", bz2.compress(LONG)[:-12] + bytes(12), "CORRUPT_BZIP2", "the bzip2 data is corrupt"),
    Refused("no extension", CSV, "UNSUPPORTED_FORMAT", "no extension"),
    Refused("dots...", CSV, "UNSUPPORTED_FORMAT", "no extension"),
    Refused("only.gz", gzip.compress(CSV), "UNSUPPORTED_FORMAT", "no extension"),
    Refused("text.txt", CSV, "UNSUPPORTED_FORMAT", "*.txt cannot be read; .csv .tsv .ndjson .jsonl .json .parquet can"),
    Refused("NDJSON.csv", NDJSON, "UNSUPPORTED_FORMAT", "holds JSON; name it .json or .ndjson"),
    Refused("JSON array.tsv", b'\n[{"id":"a"}]', "UNSUPPORTED_FORMAT", "holds JSON; name it .json or .ndjson"),
    Refused("semicolons.csv", CSV.replace(b",", b";"), "MISSING_KEY_COLUMN", "the header has 'id;i32;note'"),
    Refused("CSV.tsv", CSV, "MISSING_KEY_COLUMN", "the header has 'id,i32,note'"),
    Refused("no key.csv", b"i32,note\n1,x\n", "MISSING_KEY_COLUMN", "tried 'id'; the header has 'i32', 'note'"),
    Refused("twice.csv", b"id,note,note\na,x,y\n", "DUPLICATE_COLUMN", "names column 'note' 2 times"),
    Refused("key twice.csv", b"id,id\na,b\n", "DUPLICATE_COLUMN", "names column 'id' 2 times"),
    Refused("Latin-1 header.csv", "id,größe\na,1\n".encode("latin-1"), "BAD_HEADER", "the header is not UTF-8"),
    Refused("open quote.csv", b'id,"note\na,x\n', "BAD_HEADER", "a quoted field does not end"),
    Refused("text after a quote.csv", b'"id"x,note\na,x\n', "BAD_HEADER", "text after the closing quote"),
    Refused("wide.csv", b"id" + b",x" * 10_000 + b"\n", "TOO_MANY_COLUMNS", "10001 columns; at most 10000"),
]


async def test_file_that_cannot_be_read_fails_by_name_and_touches_nothing(intake: Intake) -> None:
    for case in FILES:
        outcome = await intake.refuse(f"strict/{case.name}", case.body)
        assert outcome.load.reason == case.reason, case.name
        assert case.message in outcome.load.message
        assert outcome.rejects == []


async def test_content_encoding_that_cannot_be_read_is_named(intake: Intake) -> None:
    for encoding in ("br", "deflate", "compress"):
        outcome = await intake.refuse(f"strict/{encoding}.csv", CSV, ContentEncoding=encoding)
        assert outcome.load.reason == "UNSUPPORTED_ENCODING"
        assert repr(encoding) in outcome.load.message


async def test_csv_under_a_json_name_is_no_json_in_its_first_line(intake: Intake) -> None:
    for name in ("CSV.json", "CSV.ndjson"):
        outcome = await intake.refuse(f"strict/{name}", CSV)
        assert outcome.load.reason == "TOO_MANY_REJECTS"
        assert "line 1: the row is not JSON" in outcome.load.message


async def test_file_that_is_damaged_behind_its_first_rows_loads_none_of_them(intake: Intake) -> None:
    """Nor where bad rows are allowed: what follows the damage is unknown."""
    whole = gzip.compress(b"id\n" + b"".join(b"%d\n" % n for n in range(300_000)))
    outcome = await intake.refuse("tolerant/large.csv.gz", whole[:-1000])
    assert outcome.load.reason == "TRUNCATED_GZIP"
    assert await intake.records("tolerant") == {}


READABLE = {
    "plain.csv": CSV,
    "plain.tsv": CSV.replace(b",", b"\t"),
    "plain.ndjson": NDJSON,
    "plain.jsonl": NDJSON,
    "plain.json": NDJSON,
    "upper case.CSV": CSV,
    "mark.csv": b"\xef\xbb\xbf" + CSV,
    "mark.tsv": b"\xef\xbb\xbf" + CSV.replace(b",", b"\t"),
    "mark.ndjson": b"\xef\xbb\xbf" + NDJSON,
    "CRLF.csv": CSV.replace(b"\n", b"\r\n"),
    "CRLF.tsv": CSV.replace(b",", b"\t").replace(b"\n", b"\r\n"),
    "CRLF.ndjson": NDJSON.replace(b"\n", b"\r\n"),
    "lone CR.csv": CSV.replace(b"\n", b"\r"),
    "lone CR.tsv": CSV.replace(b",", b"\t").replace(b"\n", b"\r"),
    "mixed line ends.csv": b"id,i32,note\r\na,1,x\rb,2,y\n",
    "no final line end.csv": CSV.rstrip(),
    "no final line end.ndjson": NDJSON.rstrip(),
    "blank lines.csv": b"\n\n" + CSV.replace(b"\n", b"\n\n"),
    "blank lines.ndjson": b"\n \n" + NDJSON.replace(b"\n", b"\n\n"),
    "quoted.csv": b'"id","i32","note"\n"a","1","x"\n"b","2","y"\n',
    "trailing delimiter.csv": CSV.replace(b"\n", b",\n"),
    "unknown columns twice.csv": b"id,i32,note,?,?\na,1,x,,\nb,2,y,,\n",
    "spaces in the header.csv": CSV.replace(b"id,i32", b" id , i32 "),
    "gzip.csv.gz": gzip.compress(CSV),
    "zstd.csv.zst": zstd(CSV),
    "zstd.csv.gz": zstd(CSV),
    "gzip.csv": gzip.compress(CSV),
    "plain.csv.gz": CSV,
    "members.csv.gz": gzip.compress(CSV[:15]) + gzip.compress(b"") + gzip.compress(CSV[15:]),
    "padded.csv.gz": gzip.compress(CSV) + bytes(512),
    "frames.csv.zst": zstd(CSV[:15]) + zstd(CSV[15:]),
}


async def test_file_that_only_looks_bad_loads_whole(intake: Intake) -> None:
    for name, body in READABLE.items():
        outcome = await intake.accept(f"strict/{name}", body)
        assert outcome.rejects == [], name
        assert (outcome.load.read.rows_read, outcome.load.read.rows_duplicate) == (2, 0), name
        records = await intake.records()
        assert {key: (one.i32, one.note) for key, one in records.items()} == {"a": (1, "x"), "b": (2, "y")}, name
        await intake.clear()


async def test_line_ends_within_quotes_are_text_and_lines_are_counted_on(intake: Intake) -> None:
    body = b'id,note,i32\na,"one\ntwo\r\nthree\rfour",1\nb,x,y\n'
    outcome = await intake.accept("tolerant/a.csv", body)
    assert (await intake.records("tolerant"))["a"].note == "one\ntwo\r\nthree\rfour"
    assert [(fault.line, fault.field) for fault in outcome.faults] == [(6, "i32")]


EMPTY = {
    "nothing.csv": b"",
    "nothing.ndjson": b"",
    "nothing.csv.gz": b"",
    "nothing.csv.zst": b"",
    "nothing, compressed.csv.gz": gzip.compress(b""),
    "line ends.csv": b"\n\r\n\n",
    "mark.csv": b"\xef\xbb\xbf",
    "header.csv": b"id,note\n",
    "header without its line end.tsv": b"id\tnote",
    "header.csv.gz": gzip.compress(b"id,note\n"),
}


async def test_file_without_rows_succeeds_with_none_and_takes_none_away(intake: Intake) -> None:
    before = await intake.everything()
    for name, body in EMPTY.items():
        outcome = await intake.accept(f"strict/{name}", body)
        assert (outcome.load.read.rows_read, outcome.rejects) == (0, []), name
    version, rows = (await intake.everything())["strict"]
    assert (version, rows) == (before["strict"][0] + len(EMPTY), before["strict"][1])

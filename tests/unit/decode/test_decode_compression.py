"""Compression and naming: magic bytes win, members concatenate, truncation and bombs fail for good."""

from __future__ import annotations

import bz2
import gzip
import struct
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
import zstandard

from ingest_service.decode import DecodeLimits, MalformedObject, open_decoder
from shared.contract.model import ContractSet

CSV = b"icao,name\n" + b"".join(b"A%04d,name %d\n" % (number, number * 7919) for number in range(5000))


def snappy(data: bytes) -> bytes:
    """The framing format."""
    return bytes(cramjam.snappy.compress(data))


SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"hello"


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(CSV, id="plain"),
        pytest.param(gzip.compress(CSV), id="gzip"),
        pytest.param(zstandard.compress(CSV), id="zstd"),
        pytest.param(gzip.compress(CSV[:20_000]) + gzip.compress(CSV[20_000:]), id="gzip members"),
        pytest.param(gzip.compress(CSV) + b"\0" * 512, id="gzip padding"),
        pytest.param(zstandard.compress(CSV[:999]) + SKIPPABLE + zstandard.compress(CSV[999:]), id="zstd frames"),
        pytest.param(SKIPPABLE + zstandard.compress(CSV), id="zstd skippable frame first"),
        pytest.param(bz2.compress(CSV), id="bzip2"),
        pytest.param(bz2.compress(CSV[:999]) + bz2.compress(b"") + bz2.compress(CSV[999:], 1), id="bzip2 streams"),
        pytest.param(snappy(CSV), id="snappy"),
        pytest.param(snappy(CSV[:999]) + snappy(CSV[999:]), id="snappy streams"),
        pytest.param(snappy(CSV) + b"\xfe\x05\0\0abcde" + b"\x80\0\0\0", id="snappy padding"),
    ],
)
def test_magic_bytes_decide_in_chunks_of_any_size(decode: Any, data: bytes, chunk: int) -> None:
    got = decode("airports", "a.csv", data, chunk=chunk)
    assert len(got.rows) == 5000
    assert got.lines == list(range(2, 5002))


@pytest.mark.parametrize("key", ["a.csv", "a.csv.gz", "a.csv.zst", "a.csv.bz2", "a.csv.sz"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress, bz2.compress, snappy])
def test_magic_bytes_win_over_the_name(decode: Any, compress: Callable[[bytes], bytes], key: str) -> None:
    assert len(decode("airports", key, compress(CSV)).rows) == 5000


@pytest.mark.parametrize("encoding", [None, "", "gzip", "identity", "aws-chunked", "aws-chunked,gzip", "zstd"])
def test_content_encoding_is_only_a_hint(decode: Any, encoding: str | None) -> None:
    assert len(decode("airports", "a.csv", CSV, encoding=encoding).rows) == 5000
    assert len(decode("airports", "a.csv", gzip.compress(CSV), encoding=encoding).rows) == 5000


def test_an_encoding_without_magic_bytes_is_refused(decode: Any) -> None:
    with pytest.raises(MalformedObject) as failure:
        decode("airports", "a.csv", CSV, encoding="br")
    assert failure.value.reason == "UNSUPPORTED_ENCODING"


@pytest.mark.parametrize("key", ["a.csv.gz", "a.csv.zst", "a.ndjson.gz"])
def test_an_empty_object_is_empty_whatever_its_name(decode: Any, key: str) -> None:
    assert decode("airports", key, b"").rows_read == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gzip.compress(CSV)[:-1], "TRUNCATED_GZIP"),
        (gzip.compress(CSV)[:5000], "TRUNCATED_GZIP"),
        (gzip.compress(CSV) + gzip.compress(CSV)[:7], "TRUNCATED_GZIP"),
        (gzip.compress(CSV)[:3], "TRUNCATED_GZIP"),
        (gzip.compress(CSV) + b"junk", "CORRUPT_GZIP"),
        (gzip.compress(CSV)[:-8] + b"\0\0\0\0" + gzip.compress(CSV)[-4:], "CORRUPT_GZIP"),
        (zstandard.compress(CSV)[:-1], "TRUNCATED_ZSTD"),
        (zstandard.compress(CSV)[:5000], "TRUNCATED_ZSTD"),
        (zstandard.compress(CSV) + zstandard.compress(CSV)[:7], "TRUNCATED_ZSTD"),
        (zstandard.compress(CSV) + b"junk", "CORRUPT_ZSTD"),
        (gzip.compress(gzip.compress(CSV)), "UNSUPPORTED_FORMAT"),
        (gzip.compress(bz2.compress(CSV)), "UNSUPPORTED_FORMAT"),
        (gzip.compress(snappy(CSV)), "UNSUPPORTED_FORMAT"),
        (b"BZh91AY&SY", "TRUNCATED_BZIP2"),
        (b"BZh9", "TRUNCATED_BZIP2"),
        (bz2.compress(CSV)[:-1], "TRUNCATED_BZIP2"),
        (bz2.compress(CSV) + bz2.compress(CSV)[:3], "TRUNCATED_BZIP2"),
        (bz2.compress(CSV) + b"junk", "CORRUPT_BZIP2"),
        (bz2.compress(CSV)[:2000] + b"\0" * 50 + bz2.compress(CSV)[2050:], "CORRUPT_BZIP2"),
        (snappy(CSV)[:-1], "TRUNCATED_SNAPPY"),
        (snappy(CSV)[:12], "TRUNCATED_SNAPPY"),
        (snappy(CSV)[:10], "TRUNCATED_SNAPPY"),
        (snappy(CSV)[:10] + b"\xfe\x01\0\0a", "TRUNCATED_SNAPPY"),
        (snappy(CSV) + b"\xfe\x05\0\0abcd", "TRUNCATED_SNAPPY"),
        (snappy(CSV)[:5000] + b"\0\0\0\0" + snappy(CSV)[5004:], "CORRUPT_SNAPPY"),
        (snappy(CSV) + b"junk", "CORRUPT_SNAPPY"),
    ],
)
@pytest.mark.parametrize("chunk", [997, 1 << 20])
def test_broken_compression_fails_the_object(decode: Any, data: bytes, reason: str, chunk: int) -> None:
    with pytest.raises(MalformedObject) as failure:
        decode("airports", "a.csv.gz", data, chunk=chunk)
    assert failure.value.reason == reason


def test_text_that_begins_as_bzip2_does_is_text(decode: Any) -> None:
    assert decode("airports", "a.csv", b"BZh9,icao\nx,AAAA\n").rows == [{"icao": "AAAA"}]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, bz2.compress, snappy])
def test_a_bomb_is_stopped_by_size_and_by_ratio(decode: Any, compress: Any) -> None:
    bomb = compress(b"icao\n" + b"\n" * 30_000_000)
    for limits in ({"max_decompressed_bytes": 1_000_000}, {"max_ratio": 20, "ratio_grace_bytes": 1_000_000}):
        with pytest.raises(MalformedObject) as failure:
            decode("airports", "a.csv", bomb, **limits)
        assert failure.value.reason == "DECOMPRESSED_TOO_LARGE"


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress, bz2.compress])
@pytest.mark.slow
def test_blocks_come_one_by_one_however_dense_the_input(contracts: ContractSet, compress: Any) -> None:
    bomb = compress(b"icao\n" + b"AAAA\n" * 4_000_000)
    decoder = open_decoder(contracts.datasets["airports"], "a.csv", None, DecodeLimits())
    blocks = decoder.feed(bomb)
    assert len(next(blocks).data) < 2 * 1024 * 1024
    assert len(next(blocks).data) < 2 * 1024 * 1024


@pytest.mark.parametrize("key", ["a", "a.parquet", "a.csv.xz", "dir.csv/a", "a.gz", ".csvx"])
def test_a_name_without_a_known_extension_is_refused(decode: Any, key: str) -> None:
    with pytest.raises(MalformedObject) as failure:
        decode("airports", key, CSV)
    assert failure.value.reason == "UNSUPPORTED_FORMAT"

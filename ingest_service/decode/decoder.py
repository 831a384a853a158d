"""The way in: one object's bytes go in, blocks of rows come out, and each block can be decoded in any thread.

Sans I/O: it is told bytes and never fetches any.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

from ingest_service.decode.compression import Decompressor
from ingest_service.decode.delimited import DelimitedReader
from ingest_service.decode.dialect import DEFAULTS, Dialect
from ingest_service.decode.header import read_header
from ingest_service.decode.json_array import ArraySplitter
from ingest_service.decode.model import Block, DecodedBlock, DecodeLimits, MalformedObject
from ingest_service.decode.ndjson import ArrayReader, NdjsonReader
from ingest_service.decode.parquet import ParquetDecoder
from ingest_service.decode.record import Record, record_of
from ingest_service.decode.rows import TSV_GRAMMAR, Grammar, fields_of, grammar, line_ends, row_spans
from ingest_service.decode.splitter import NDJSON, Splitter, delimited
from shared.contract.model import Dataset

COMPRESSED_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".sz", ".snappy")
UTF8_BOM = b"\xef\xbb\xbf"
# Content that is never rows of text, by its first bytes.
FOREIGN_MAGIC = {
    b"\xff\xfe\0\0": "UTF-32 text",
    b"\0\0\xfe\xff": "UTF-32 text",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PAR1": "Parquet (name it .parquet)",
    b"PK\x03\x04": "a zip archive",
    b"\xfd7zXZ": "xz data",
    b"\x1f\x8b": "gzip data within compressed data",
    b"\x28\xb5\x2f\xfd": "zstd data within compressed data",
    b"BZh91AY": "bzip2 data within compressed data",
    b"\xff\x06\0\0sN": "snappy data within compressed data",
}
HEAD_BYTES = 8
WHITE_SPACE = b" \t\r\n"
# `aws-chunked` is how SDKs upload and may stay in the metadata; the magic bytes decide about those that are read.
READABLE_ENCODINGS = frozenset({"", "identity", "aws-chunked", "gzip", "x-gzip", "zstd", "bzip2", "x-bzip2"})


def _foreign(what: str) -> MalformedObject:
    return MalformedObject(f"the object holds {what}, not UTF-8 text", reason="UNSUPPORTED_FORMAT")


class RowSplitter(Protocol):
    """Cuts bytes into blocks of rows."""

    def feed(self, piece: bytes) -> Iterator[Block]:
        """The blocks that are complete after this piece."""

    def finish(self) -> Iterator[Block]:
        """The last blocks."""


class Reader(Protocol):
    """Decodes the blocks of one object."""

    def decode(self, block: Block, *, row_by_row: bool = False) -> DecodedBlock:
        """The block's rows."""


def open_decoder(
    dataset: Dataset, key: str, content_encoding: str | None, limits: DecodeLimits, dialect: Dialect = DEFAULTS
) -> Decoder:
    """The decoder of an object that is text, chosen by its dialect or by its key's extensions: .csv .tsv .ndjson
    .jsonl .json, then .gz .zst .bz2 or .sz.

    Raises MalformedObject: UNSUPPORTED_FORMAT, UNSUPPORTED_ENCODING.
    """
    encodings = {encoding.strip().lower() for encoding in (content_encoding or "").split(",")}
    if encodings - READABLE_ENCODINGS:
        message = f"Content-Encoding {content_encoding!r} cannot be read; gzip, zstd and bzip2 can"
        raise MalformedObject(message, reason="UNSUPPORTED_ENCODING")
    record = record_of(dataset, limits)
    match format_of(key, dialect):
        case "csv":
            quote = dialect.quote.encode() if dialect.quote else None
            return DelimitedDecoder(record, grammar(dialect.delimiter.encode(), quote), dialect)
        case "tsv":
            return DelimitedDecoder(record, TSV_GRAMMAR, dialect)
        case "ndjson" | "jsonl":
            return NdjsonDecoder(record)
        case "json":
            return JsonDecoder(record, dialect.json_path)
        case other:
            what = f"an object named *.{other}" if other else "an object whose name has no extension"
            message = f"{what} cannot be read; .csv .tsv .ndjson .jsonl .json .parquet can, also .gz .zst .bz2 .sz"
            raise MalformedObject(message, reason="UNSUPPORTED_FORMAT")


def format_of(key: str, dialect: Dialect = DEFAULTS) -> str:
    """The format that the source or the object's name tells; "" where neither does."""
    return dialect.format or _extension(key)


def open_parquet(dataset: Dataset, limits: DecodeLimits) -> ParquetDecoder:
    """The decoder of a Parquet object, which is read in parts."""
    return ParquetDecoder(record_of(dataset, limits))


def _extension(key: str) -> str:
    name = key.rsplit("/", 1)[-1].lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.rpartition(".")[2] if "." in name else ""


class Decoder(abc.ABC):
    """Decompresses and cuts an object into blocks.

    `feed` and `finish` are generators: they work while they are iterated, so that a few compressed bytes never become a
    long list of blocks. Exhaust each before the next call; one thread at a time. `decode_block` is safe in any thread.
    All three raise MalformedObject.
    """

    def __init__(self, record: Record, splitter: RowSplitter) -> None:
        self._record = record
        self._decompressor = Decompressor(record.limits)
        self._splitter = splitter
        self._head: bytes | None = b""
        self._ordinal = 0
        self._reader: Reader | None = None

    def feed(self, data: bytes) -> Iterator[Block]:
        """The blocks that are complete after these bytes of the object."""
        for piece in self._decompressor.feed(data):
            yield from self._split(piece)

    def finish(self) -> Iterator[Block]:
        """The last blocks."""
        for piece in self._decompressor.finish():
            yield from self._split(piece)
        if self._head:
            for block in self._splitter.feed(self._begin(self._head)):
                yield from self._admit(block)
        for block in self._splitter.finish():
            yield from self._admit(block)

    def decode_block(self, block: Block, *, row_by_row: bool = False) -> DecodedBlock:
        """The block's rows; `row_by_row` takes the pessimistic path only, which gives the same."""
        assert self._reader is not None, "decode_block before the first block"
        return self._reader.decode(block, row_by_row=row_by_row)

    def _split(self, piece: bytes) -> Iterator[Block]:
        if self._head is not None:
            self._head += piece
            if len(self._head) < HEAD_BYTES:
                return
            piece, self._head = self._begin(self._head), None
        for block in self._splitter.feed(piece):
            yield from self._admit(block)

    def _begin(self, head: bytes) -> bytes:
        """The first bytes without byte order mark; raises where they are something else than text."""
        for magic, what in FOREIGN_MAGIC.items():
            if head.startswith(magic):
                raise _foreign(what)
        if b"\0" in head[:2]:
            raise _foreign("UTF-16 or UTF-32 text, or no text at all")
        return head.removeprefix(UTF8_BOM)

    def _admit(self, block: Block) -> Iterator[Block]:
        """Lets a block through once the reader is known; blocks are numbered without gaps."""
        if self._reader is None:
            opened = self._open(block)
            if opened is None:
                return
            block = opened
        yield dataclasses.replace(block, ordinal=self._ordinal)
        self._ordinal += 1

    @abc.abstractmethod
    def _open(self, block: Block) -> Block | None:
        """Sets the reader from the first block and returns what is left of it; None where it holds nothing yet."""


def _beginning(block: Block) -> bytes:
    """What the block begins with, white space apart; of rejected rows where it holds no others."""
    return block.data.lstrip() or b"".join(reject.raw.lstrip() for reject in block.rejects)


class DelimitedDecoder(Decoder):
    """CSV or TSV: the first row that is not blank is the header, where the dialect has none."""

    def __init__(self, record: Record, rows: Grammar, dialect: Dialect) -> None:
        super().__init__(record, Splitter(delimited(rows), record.limits))
        self._rows = rows
        self._dialect = dialect

    def _open(self, block: Block) -> Block | None:
        if _beginning(block).startswith((b'{"', b"[{")):
            raise MalformedObject("the object holds JSON; name it .json or .ndjson", reason="UNSUPPORTED_FORMAT")
        if self._dialect.header is not None:
            return self._begin_rows([name.encode() for name in self._dialect.header], block, 0)
        span = next(row_spans(block.data, self._rows), None)
        if span is None and not block.rejects:
            return None
        start, end = span or (0, 0)
        line = block.first_line + line_ends(block.data[:start])
        if span is None or any(reject.line < line for reject in block.rejects):
            raise MalformedObject(f"the header cannot be read: {block.rejects[0].message}", reason="BAD_HEADER")
        return self._begin_rows(fields_of(block.data[start:end], self._rows), block, end)

    def _begin_rows(self, header: Sequence[bytes], block: Block, end: int) -> Block:
        """The block after its header, which takes it up to `end`."""
        layout = read_header(header, self._record)
        self._reader = DelimitedReader(self._record, layout, self._rows, self._dialect)
        lines = line_ends(block.data[:end])
        return dataclasses.replace(block, first_line=block.first_line + lines, data=block.data[end:])


class NdjsonDecoder(Decoder):
    """NDJSON: one object a line."""

    def __init__(self, record: Record) -> None:
        super().__init__(record, Splitter(NDJSON, record.limits))

    def _open(self, block: Block) -> Block | None:
        if not _beginning(block):
            return None
        self._reader = NdjsonReader(self._record)
        return block


class JsonDecoder(Decoder):
    """One array of objects, at the top or under a path; without a path also NDJSON, told by the first byte."""

    def __init__(self, record: Record, path: Sequence[str]) -> None:
        super().__init__(record, JsonSplitter(path, record.limits))

    def _open(self, block: Block) -> Block | None:
        if block.lines is None and not _beginning(block):
            return None
        self._reader = NdjsonReader(self._record) if block.lines is None else ArrayReader(self._record)
        return block


class JsonSplitter:
    """The splitter that the first byte asks for which is no white space."""

    def __init__(self, path: Sequence[str], limits: DecodeLimits) -> None:
        self._path = path
        self._limits = limits
        self._line = 1
        self._chosen: Splitter | ArraySplitter | None = None

    def feed(self, piece: bytes) -> Iterator[Block]:
        """The blocks that are complete after this piece."""
        if self._chosen is None:
            begin = piece.lstrip(WHITE_SPACE)
            self._line += piece.count(b"\n", 0, len(piece) - len(begin))
            if not begin:
                return
            piece, self._chosen = begin, self._choose(begin)
        yield from self._chosen.feed(piece)

    def finish(self) -> Iterator[Block]:
        """The last blocks; an object of white space has none."""
        if self._chosen is not None:
            yield from self._chosen.finish()

    def _choose(self, begin: bytes) -> Splitter | ArraySplitter:
        if self._path or begin.startswith(b"["):
            return ArraySplitter(self._path, self._limits, self._line)
        return Splitter(NDJSON, self._limits, self._line)

"""From an object's bytes to binary COPY chunks: read, decode, encode, validate, all at once and in bounded memory.

Parsing and encoding run in threads (Arrow releases the GIL); the event loop only moves references.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from ingest_service.blocks import LINE, EncodedBlock, encode_block, keys_only
from ingest_service.copy_format import TRAILER, header, tuples
from ingest_service.decode import (
    Block,
    DecodedBlock,
    DecodeLimits,
    Decoder,
    Dialect,
    ParquetDecoder,
    PassedOver,
    RowBatch,
    format_of,
    open_decoder,
    open_parquet,
)
from ingest_service.key_order import KeyRun, joined, key_run
from ingest_service.ledger.records import ReadCounts
from ingest_service.ledger.rejects import KEPT_REJECTS, RejectLog
from ingest_service.objects import OpenObject
from ingest_service.ranged_file import Fetch, RangedFile
from ingest_service.rejects import Reject
from shared.contract.model import Dataset, FilePolicy

T = TypeVar("T")
B = TypeVar("B")
D = TypeVar("D", contravariant=True)
# Unknown column names kept for the ledger; a file with a million of them is not worth a million names.
KEPT_UNKNOWN_COLUMNS = 100
# From so many bad rows on a load is judged while it is read: a bomb of bad rows would hold it for hours.
HOPELESS_REJECTS = 100_000
# What is read at once is seldom more than one block; to see that there is no second one takes no turn of its own then.
_SPLIT_AT_ONCE = 2
# Keys of rejected rows kept in memory until the stage is read; rows beyond count as rows without a readable key.
KEPT_KEY_BYTES = 8 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Reading:
    """How far a load has read. Written by the pipeline, read by progress and ledger. `given_up`: not to its
    end, because too many of its rows are bad already. `rejected_keys`: of rows that must stay as they are, as binary
    COPY tuples of the key columns; only where the policy deletes rows. `rows_passed_over`: of `rows_read` those that
    were not wanted."""

    bytes_read: int = 0
    rows_read: int = 0
    rows_rejected: int = 0
    keys_unreadable: int = 0
    rows_passed_over: int = 0
    unknown_columns: dict[str, None] = field(default_factory=dict)
    rejects: RejectLog = field(default_factory=RejectLog)
    run: KeyRun | None = None
    given_up: bool = False
    rejected_keys: list[bytes] = field(default_factory=list)
    rejected_key_bytes: int = 0

    @property
    def in_key_order(self) -> bool:
        """Whether every row so far that was not rejected has a greater key than the one before it."""
        return self.run is None or self.run.rising

    @property
    def rows_good(self) -> int:
        """The rows so far that were not rejected."""
        return self.rows_read - self.rows_rejected

    @property
    def distinct(self) -> bool:
        """Whether it is known that no two of the rows that were not rejected have the same key."""
        return self.run is None or self.run.distinct

    def exceeds(self, percent: float) -> bool:
        """Whether more than `percent` of the rows were rejected so far."""
        return self.rows_rejected * 100 > percent * self.rows_read

    def forget(self) -> None:
        """Lets go of what is stored by now: it is megabytes, and whoever watches progress holds us."""
        self.rejects.forget()
        self.rejected_keys = []

    def counts(self) -> ReadCounts:
        """The counts as the ledger takes them; duplicates are the stage's to count."""
        return ReadCounts(
            bytes_read=self.bytes_read,
            rows_read=self.rows_read,
            rows_rejected=self.rows_rejected,
            keys_unreadable=self.keys_unreadable,
            unknown_columns=tuple(self.unknown_columns),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One block, ready for COPY, and what reading it gave."""

    copy: bytes
    rows_read: int
    rows_rejected: int
    rows_passed_over: int
    keys_unreadable: int
    unknown_columns: frozenset[str]
    rejects: Sequence[Reject]
    run: KeyRun | None
    rejected_keys: bytes
    keys_rejected: int


class BlockDecoder(Protocol[D]):
    """Decodes the blocks of one object, in any thread."""

    def decode_block(self, block: D, /) -> DecodedBlock:
        """The block's rows."""


def convert(dataset: Dataset, decoder: BlockDecoder[B], block: B) -> Chunk:
    """Decodes, encodes and validates one block. Pure; runs in a thread, in parallel with other blocks.

    Of the rejects only as many as a load keeps: a block of nothing but bad rows makes 200 MiB of them.
    """
    decoded = decoder.decode_block(block)
    encoded = encode_block(dataset, decoded)
    keys = _keys_to_keep(dataset, encoded)
    rejects = encoded.rejects[:KEPT_REJECTS]
    passed = decoded.passed_over
    staged = encoded.batch if passed is None else _with_keys(dataset, encoded.batch, passed)
    return Chunk(
        copy=tuples(staged),
        rows_read=decoded.rows_read + (passed.rows if passed else 0),
        rows_rejected=decoded.rows_read - encoded.batch.num_rows,
        rows_passed_over=passed.rows if passed else 0,
        keys_unreadable=decoded.keys_unreadable,
        unknown_columns=decoded.unknown_columns,
        rejects=[replace(reject, part=decoded.part) for reject in rejects] if decoded.part else rejects,
        run=key_run(dataset, staged),
        rejected_keys=tuples(keys) if keys.num_rows else b"",
        keys_rejected=keys.num_rows,
    )


def _keys_to_keep(dataset: Dataset, encoded: EncodedBlock) -> pa.RecordBatch:
    """MERGE deletes nothing, so it need not know."""
    return encoded.rejected_keys.slice(0, 0) if dataset.file_policy is FilePolicy.MERGE else encoded.rejected_keys


def _with_keys(dataset: Dataset, wanted: pa.RecordBatch, passed: PassedOver) -> pa.RecordBatch:
    """The wanted rows and the keys of those that are passed over, as they stand in the object."""
    return pa.concat_batches([wanted, keys_only(dataset, passed, wanted.schema)]).sort_by(LINE)


def object_blocks(
    dataset: Dataset,
    opened: OpenObject,
    reading: Reading,
    executor: Executor,
    *,
    dialect: Dialect,
    limits: DecodeLimits,
) -> tuple[BlockDecoder[Any], AsyncGenerator[Any, None]]:
    """What decodes an object, whatever its format, and its blocks. Raises MalformedObject."""
    head = opened.head
    if format_of(head.key, dialect) == "parquet":
        parquet = open_parquet(dataset, limits)
        return parquet, parquet_blocks(parquet, opened.ranges().read, head.size_bytes, reading)
    decoder = open_decoder(dataset, head.key, head.content_encoding, limits, dialect)
    return decoder, text_blocks(decoder, opened.chunks, reading, executor, size_bytes=head.size_bytes)


async def text_blocks(
    decoder: Decoder, chunks: AsyncIterator[bytes], reading: Reading, executor: Executor, *, size_bytes: int
) -> AsyncGenerator[Block, None]:
    """The blocks of an object that is read from its beginning to its end. Raises what `chunks` and `decoder` raise.

    The last bytes are looked at when `chunks` has ended, and so has found them whole: together with the end, as a small
    object takes most of its time to be handed from thread to thread.
    """
    last = b""
    async for data in chunks:
        reading.bytes_read += len(data)
        if reading.bytes_read >= size_bytes:
            last += data
            continue
        async for block in _each(decoder.feed(data), executor, at_once=_SPLIT_AT_ONCE):
            yield block
    async for block in _each(chain(decoder.feed(last), decoder.finish()), executor, at_once=_SPLIT_AT_ONCE):
        yield block


async def parquet_blocks(
    decoder: ParquetDecoder, fetch: Fetch, size_bytes: int, reading: Reading
) -> AsyncGenerator[RowBatch, None]:
    """The blocks of a Parquet object, whose parts `fetch` reads. Raises what `fetch` and `decoder` raise.

    Arrow waits for its bytes, so it has a thread of its own: one of the executor's would be kept from all other loads.
    """

    async def counted(begin: int, size: int) -> bytes:
        data = await fetch(begin, size)
        reading.bytes_read += len(data)
        return data

    file = RangedFile(counted, size_bytes, asyncio.get_running_loop())
    thread = ThreadPoolExecutor(1, thread_name_prefix="parquet")
    try:
        async for block in _each(decoder.blocks(file), thread):
            yield block
    finally:
        file.stop()
        thread.shutdown(wait=False, cancel_futures=True)


async def _each(items: Iterator[T], executor: Executor, *, at_once: int = 1) -> AsyncGenerator[T, None]:
    """The items, made in a thread of the executor, so many without coming back in between."""
    loop = asyncio.get_running_loop()
    more = True
    while more:
        made = await loop.run_in_executor(executor, list, islice(items, at_once))
        for item in made:
            yield item
        more = len(made) == at_once


async def copy_stream(
    dataset: Dataset,
    decoder: BlockDecoder[B],
    blocks: AsyncGenerator[B, None],
    reading: Reading,
    executor: Executor,
    *,
    blocks_ahead: int,
) -> AsyncGenerator[bytes, None]:
    """The blocks' rows as one binary COPY stream, in file order; `reading` is kept up to date on the way.

    At most `blocks_ahead` blocks are in work or waiting for COPY. Raises MalformedObject where an object as a whole
    cannot be read, and whatever `blocks` raises.
    """
    queue: asyncio.Queue[asyncio.Future[Chunk] | None] = asyncio.Queue(maxsize=blocks_ahead)
    reader = asyncio.create_task(_read(dataset, decoder, blocks, executor, queue))
    try:
        yield header()
        while (future := await queue.get()) is not None:
            chunk = await future
            _account(reading, chunk)
            if reading.rows_rejected >= HOPELESS_REJECTS and reading.exceeds(dataset.max_reject_percent):
                reading.given_up = True
                break
            if chunk.copy:
                yield chunk.copy
        yield TRAILER
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        _discard(queue)


def _discard(queue: asyncio.Queue[asyncio.Future[Chunk] | None]) -> None:
    """Blocks that nobody waits for any more: what has not begun does not begin, what failed is not reported again."""
    while not queue.empty():
        future = queue.get_nowait()
        if future is not None and not future.cancel() and not future.cancelled():
            future.exception()


async def _read(
    dataset: Dataset,
    decoder: BlockDecoder[B],
    blocks: AsyncGenerator[B, None],
    executor: Executor,
    queue: asyncio.Queue[asyncio.Future[Chunk] | None],
) -> None:
    """Fills the queue with blocks in work, in file order; an error takes its place in that order, None ends it."""
    loop = asyncio.get_running_loop()
    try:
        async with aclosing(blocks):
            async for block in blocks:
                await queue.put(loop.run_in_executor(executor, convert, dataset, decoder, block))
    except Exception as exc:  # noqa: BLE001  raised again by whoever takes it from the queue
        failed: asyncio.Future[Chunk] = loop.create_future()
        failed.set_exception(exc)
        await queue.put(failed)
    else:
        await queue.put(None)


def _account(reading: Reading, chunk: Chunk) -> None:
    reading.rows_read += chunk.rows_read
    reading.rows_rejected += chunk.rows_rejected
    reading.rows_passed_over += chunk.rows_passed_over
    reading.keys_unreadable += chunk.keys_unreadable
    if chunk.rejected_keys:
        reading.rejected_key_bytes += len(chunk.rejected_keys)
        if reading.rejected_key_bytes <= KEPT_KEY_BYTES:
            reading.rejected_keys.append(chunk.rejected_keys)
        else:
            reading.keys_unreadable += chunk.keys_rejected
    for name in sorted(chunk.unknown_columns):
        if len(reading.unknown_columns) < KEPT_UNKNOWN_COLUMNS:
            reading.unknown_columns[name] = None
    reading.rejects.add(chunk.rejects)
    reading.run = joined(reading.run, chunk.run)

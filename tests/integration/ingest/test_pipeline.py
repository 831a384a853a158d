"""The way from bytes to COPY: bounded whatever the object holds, and nothing left behind when it breaks off."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingest_service.decode import DecodeLimits, MalformedObject, open_decoder
from ingest_service.ledger.rejects import KEPT_REJECTS
from ingest_service.pipeline import Reading, convert, copy_stream, text_blocks
from shared.errors import Unavailable
from tests.integration.merge.lab import Lab

SMALL = DecodeLimits(block_bytes=20_000)


def test_block_of_bad_rows_carries_no_more_rejects_than_a_load_keeps(lab: Lab) -> None:
    decoder = open_decoder(lab.dataset, "things/a.csv", None, SMALL)
    blocks = [*decoder.feed(b"owner,number\n" + b"a,x\n" * 4_000), *decoder.finish()]
    chunk = convert(lab.dataset, decoder, blocks[0])
    assert chunk.rows_rejected == chunk.rows_read > KEPT_REJECTS
    assert [reject.line for reject in chunk.rejects] == list(range(2, KEPT_REJECTS + 2))


@pytest.mark.parametrize("taken", [1, 2])
async def test_stream_that_is_broken_off_leaves_no_failure_unheard(
    lab: Lab, executor: ThreadPoolExecutor, taken: int
) -> None:
    """asyncio reports a failure that nobody looked at, long after and with no word of the load."""
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))

    async def chunks() -> AsyncIterator[bytes]:
        yield b"owner,number\n" + b"a,1\n" * 50_000
        raise ConnectionError("the source broke")

    decoder = open_decoder(lab.dataset, "things/a.csv", None, SMALL)
    blocks = text_blocks(decoder, chunks(), Reading(), executor, size_bytes=10**9)
    stream = copy_stream(lab.dataset, decoder, blocks, Reading(), executor, blocks_ahead=100)
    for _ in range(taken):
        await anext(stream)
    await stream.aclose()
    del stream
    gc.collect()
    assert reported == []


async def test_bytes_that_arrived_damaged_are_not_held_against_the_file(lab: Lab, executor: ThreadPoolExecutor) -> None:
    """What is wrong with them would fail the load for good; that they are damaged is told behind the last of them."""
    data = b"owner,owner\na,1\n"

    async def chunks(damaged: bool) -> AsyncIterator[bytes]:
        yield data
        if damaged:
            raise Unavailable("the object arrived corrupted", reason="S3_CHECKSUM_MISMATCH")

    async def read(*, damaged: bool) -> None:
        decoder = open_decoder(lab.dataset, "things/a.csv", None, SMALL)
        async for _ in text_blocks(decoder, chunks(damaged), Reading(), executor, size_bytes=len(data)):
            pass

    with pytest.raises(Unavailable):
        await read(damaged=True)
    with pytest.raises(MalformedObject):
        await read(damaged=False)


@pytest.mark.parametrize("piece_bytes", [1, 1_000, 40_000, 10**6])
async def test_blocks_are_the_same_however_the_bytes_come(
    lab: Lab, executor: ThreadPoolExecutor, piece_bytes: int
) -> None:
    rows = 100 if piece_bytes == 1 else 10_000
    data = b"owner,number\n" + b"".join(b"a,%d\n" % number for number in range(rows))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), piece_bytes):
            yield data[start : start + piece_bytes]

    decoder, reading = open_decoder(lab.dataset, "things/a.csv", None, SMALL), Reading()
    blocks = [block async for block in text_blocks(decoder, chunks(), reading, executor, size_bytes=len(data))]
    assert b"".join(block.data for block in blocks) == data.split(b"\n", 1)[1]
    assert reading.bytes_read == len(data)

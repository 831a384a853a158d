"""The way from bytes to COPY: bounded whatever the object holds, and nothing left behind when it breaks off."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ingest_service.decode import DecodeLimits, open_decoder
from ingest_service.ledger.rejects import KEPT_REJECTS
from ingest_service.pipeline import Reading, convert, copy_stream, text_blocks
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
    blocks = text_blocks(decoder, chunks(), Reading(), executor)
    stream = copy_stream(lab.dataset, decoder, blocks, Reading(), executor, blocks_ahead=100)
    for _ in range(taken):
        await anext(stream)
    await stream.aclose()
    del stream
    gc.collect()
    assert reported == []

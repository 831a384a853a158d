"""A snapshot in parts: the objects in the folder of a marker and below, read as if they were one object.

Must never mix two generations: each part is read in the very version that was listed while the marker stood.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from ingest_service.decode import DecodedBlock, MalformedObject
from ingest_service.ledger.records import PartSet
from ingest_service.objects import ListedObject, ObjectChanged, ObjectGone, ObjectHead, ObjectStore, OpenObject
from ingest_service.pipeline import BlockDecoder
from ingest_service.routing import ObjectUri, Role, folder_of_marker
from ingest_service.sources import Source

# Parts of one load that are open at once, and how many bytes they may hold together before one more is opened.
OPEN_AHEAD = 4
OPEN_AHEAD_BYTES = 16 * 1024 * 1024

# What decodes an object, and its blocks.
ReadObject = Callable[[OpenObject], "tuple[BlockDecoder[Any], AsyncGenerator[Any, None]]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A marker, and the parts that it stands for in the order of their keys."""

    marker: ObjectHead
    parts: tuple[ListedObject, ...]

    def part_set(self) -> PartSet:
        """What the ledger keeps of the parts. Two sets are equal where every part is the identical version."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(f"{part.key}\0{part.etag}\0{part.last_modified.isoformat()}\n".encode())
        size_bytes = sum(part.size_bytes for part in self.parts)
        return PartSet(count=len(self.parts), size_bytes=size_bytes, digest=digest.hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class PartBlock:
    """A block of a part with what decodes it. `number` counts parts from 0."""

    number: int
    part: ListedObject
    decoder: BlockDecoder[Any]
    block: Any


class PartsDecoder:
    """Decodes blocks of any part, in any thread. Raises MalformedObject, naming the part."""

    def decode_block(self, block: PartBlock) -> DecodedBlock:
        """The block's rows; those of a later part come later in `order`."""
        with _naming(block.part):
            decoded = block.decoder.decode_block(block.block)
        return replace(decoded.of_object(block.number), part=block.part.key)


async def list_folder(store: ObjectStore, source: Source, bucket: str, marker: str) -> Folder:
    """The marker's folder as it is now. Raises ObjectGone when the marker is not there, ObjectChanged when it was
    written meanwhile, and what listing raises."""
    folder = folder_of_marker(marker)
    assert folder is not None, "by its role"
    before = await store.head(bucket, marker)
    parts = [listed async for listed in store.list_prefix(bucket, folder) if _is_part(source, listed)]
    # A listing takes pages and time. A writer who begins anew takes the marker away first, or writes it again at last.
    if await store.head(bucket, marker) != before:
        uri = ObjectUri(bucket=bucket, key=marker)
        raise ObjectChanged(f"{uri} was written while its folder was listed", reason="OBJECT_CHANGED")
    return Folder(marker=before, parts=tuple(sorted(parts, key=lambda part: part.key)))


async def part_blocks(store: ObjectStore, folder: Folder, read: ReadObject) -> AsyncGenerator[PartBlock, None]:
    """The blocks of all parts, in order, for a PartsDecoder.

    Raises MalformedObject, naming the part, ObjectChanged when a part is not what was listed, and what reading raises.
    """
    async with aclosing(_opening_ahead(store, folder.parts)) as openings:
        number = 0
        async for part, opening in openings:
            with _naming(part):
                async with opening as opened:
                    decoder, blocks = read(opened)
                    async with aclosing(blocks):
                        async for block in blocks:
                            yield PartBlock(number=number, part=part, decoder=decoder, block=block)
            number += 1


class _Opening:
    """An object that is being opened from now on, to be entered when it is its turn, or else dropped."""

    def __init__(self, store: ObjectStore, part: ListedObject) -> None:
        self._object = store.open_object(part.bucket, part.key, etag=part.etag)
        self._opened = asyncio.ensure_future(self._object.__aenter__())

    async def __aenter__(self) -> OpenObject:
        return await self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._object.__aexit__(kind, error, trace)

    async def drop(self) -> None:
        """Closes what nobody entered."""
        self._opened.cancel()
        await asyncio.gather(self._opened, return_exceptions=True)
        if not self._opened.cancelled() and self._opened.exception() is None:
            await self._object.__aexit__(None, None, None)


async def _opening_ahead(
    store: ObjectStore, parts: Sequence[ListedObject]
) -> AsyncGenerator[tuple[ListedObject, _Opening], None]:
    """The parts in order, with the next ones on their way: a first byte takes S3 tens of milliseconds, and Spark writes
    hundreds of parts. Only as far as they are small: a body that waits for minutes is cut off."""
    ahead: deque[tuple[ListedObject, _Opening]] = deque()
    left = deque(parts)
    try:
        while left or ahead:
            while left and (not ahead or _worth_opening([part for part, _ in ahead])):
                part = left.popleft()
                ahead.append((part, _Opening(store, part)))
            yield ahead.popleft()
    finally:
        await asyncio.gather(*(opening.drop() for _, opening in ahead))


def _worth_opening(ahead: Sequence[ListedObject]) -> bool:
    """Whether one more is soon needed when these are open."""
    return len(ahead) < OPEN_AHEAD and sum(part.size_bytes for part in ahead) < OPEN_AHEAD_BYTES


def _is_part(source: Source, listed: ListedObject) -> bool:
    uri = ObjectUri(bucket=listed.bucket, key=listed.key)
    return source.takes(uri) and source.role_of(uri) is Role.PART


@contextmanager
def _naming(part: ListedObject) -> Iterator[None]:
    """Failures of one part as failures of the load, whose own object is the marker."""
    try:
        yield
    except MalformedObject as exc:
        uri = ObjectUri(bucket=part.bucket, key=part.key)
        raise MalformedObject(f"{uri}: {exc.message}", reason=exc.reason) from exc
    except ObjectGone as exc:
        raise ObjectChanged(f"a part is gone since it was listed: {exc.message}", reason="OBJECT_CHANGED") from exc

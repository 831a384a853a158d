"""Get and List: one statement a call, answered with the bytes that Postgres joined."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from google.protobuf.message import Message

from query_service.consistency import check_same_version, newest_known, remaining_s, wait_for_version
from query_service.endpoint import Endpoint
from query_service.masks import Mask
from query_service.paging import Paging
from query_service.parameters import Parameters, get_parameters, given_token, query_parameters
from query_service.rows import Page, missing_dataset, unframe
from query_service.tokens import Position, TokenKind, TokenScope, encode_token
from shared.errors import NotFound

# Below gRPC's default limit of 4 MiB for a received message, with room for the token and the frame.
PAGE_BYTES = 3_500_000
# How many listings a List remembers, and how many bytes may say what one asks for. Each keeps its read_mask, which has
# 75 KiB where the bytes are nothing but paths.
_MOST_LISTINGS, _LONGEST_LISTING = 128, 1000
# How long a call looks for the first row that meets its filter before it answers with an empty page and a token.
LONGEST_SEARCH_S = 1.0


class GetHandler:
    """Answers a Get with the record's own bytes."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def handle(self, message: Message, context: Any) -> bytes:
        """The record; raises NotFound."""
        endpoint = self._endpoint
        dataset, database = endpoint.dataset, endpoint.database
        endpoint.check(message)
        wanted = get_parameters(endpoint.method, dataset.key_columns, message)
        mask = endpoint.mask(message)
        timeout_s = remaining_s(context, database.limits.query_timeout_s)
        await wait_for_version(database, dataset, wanted.at_least_version, timeout_s)
        arguments = (dataset.name, *wanted.key)
        at_least = wanted.at_least_version
        row = await database.fetch_row(dataset, endpoint.planner.get, arguments, timeout_s, at_least=at_least)
        if row is None:
            raise missing_dataset(dataset)
        if row["wire"] is None:
            raise _not_found(endpoint, wanted.key)
        record = unframe(row["wire"])
        return record if mask is None else mask.record(record)


class _Listing(NamedTuple):
    """What a List asks for beside where to begin: the same for all of its pages."""

    wanted: Parameters
    mask: Mask | None
    scope: TokenScope
    paging: Paging


class ListHandler:
    """Answers a List with a page of rows in key order, the token of the next page and the dataset's version."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._parse = endpoint.method.input_class.FromString
        self._known_listing = lru_cache(maxsize=_MOST_LISTINGS)(self._encoded_listing)

    async def handle(self, message: Message, context: Any) -> bytes:
        """The encoded response: the rows' bytes as they are stored, then the fields of the page."""
        endpoint = self._endpoint
        listing, token = self._asked(message)
        wanted, mask, scope, paging = listing
        position = endpoint.position(scope, token)
        timeout_s = remaining_s(context, endpoint.database.limits.query_timeout_s)
        await wait_for_version(endpoint.database, endpoint.dataset, wanted.at_least_version, timeout_s)
        page, start = await self._read(listing, position, timeout_s)
        if position is not None and wanted.require_same_version:
            check_same_version(position, page)
        trailer = endpoint.output_class()
        if page.more:
            trailer.next_page_token = encode_token(scope, paging.position_after(page, start))
        if "dataset_version" in endpoint.method.response_fields:
            trailer.dataset_version = page.version
        trailer_bytes: bytes = trailer.SerializeToString()
        return (page.data if mask is None else mask.page(page.data)) + trailer_bytes

    def _asked(self, message: Any) -> tuple[_Listing, str]:
        """The listing and the token of a request, which is checked; raises InvalidRequest."""
        endpoint = self._endpoint
        token = given_token(endpoint.method, message)
        if not endpoint.method.request_has_rules:  # which may be about the token
            message.ClearField("page_token")
            encoded = message.SerializePartialToString()  # proto2 may require a field, which parsing does not
            if len(encoded) <= _LONGEST_LISTING:
                return self._known_listing(encoded), token
        return self._listing(message), token

    def _encoded_listing(self, encoded: bytes) -> _Listing:
        return self._listing(self._parse(encoded))

    def _listing(self, message: Message) -> _Listing:
        endpoint = self._endpoint
        endpoint.check(message)
        wanted = query_parameters(endpoint.method, endpoint.dataset, message)
        scope, paging = endpoint.scope(TokenKind.PAGE, wanted.query), endpoint.paging(wanted.query)
        return _Listing(wanted, endpoint.mask(message), scope, paging)

    async def _read(
        self, listing: _Listing, position: Position | None, timeout_s: float
    ) -> tuple[Page, Position | None]:
        """The first page with rows, if one is found soon, and where it starts."""
        database, dataset = self._endpoint.database, self._endpoint.dataset
        wanted, _, scope, paging = listing
        until = time.monotonic() + min(LONGEST_SEARCH_S, timeout_s / 2)

        def fetch(sql: str, arguments: Sequence[Any]) -> Awaitable[Any]:
            at_least = newest_known(wanted.at_least_version, position)
            return database.fetch_row(dataset, sql, arguments, timeout_s, at_least=at_least)

        while True:
            after = paging.after(scope, position)
            page = await paging.read(fetch, after, max_rows=wanted.page_size, max_bytes=PAGE_BYTES, beyond=True)
            if page.rows or not page.more or time.monotonic() > until:
                return page, position
            position = paging.position_after(page, position)


def _not_found(endpoint: Endpoint, key: tuple[Any, ...]) -> NotFound:
    named = dict(zip(endpoint.dataset.key, map(str, key), strict=True))
    text = ", ".join(f"{name}={value!r}" for name, value in named.items())
    return NotFound(
        f"{endpoint.dataset.name} holds no row with {text}",
        reason="ROW_NOT_FOUND",
        metadata={"dataset": endpoint.dataset.name, **named},
    )

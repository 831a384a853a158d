"""The streaming server that one writes by hand: grpc.aio and asyncpg, a cursor that fetches 1,000 rows at a time, a
message object per row, 1,000 rows to a response.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from google.protobuf.message_factory import GetMessageClass

from shared.contract.build import load_contracts
from tests.bench import baseline_server

SERVICE = "bench.v1.HandWritten"
METHOD = f"/{SERVICE}/StreamOrders"
ROWS_PER_MESSAGE = 1000
# Seconds, because a datetime takes 6 us more a row to become a Timestamp; date_part because extract() is a numeric.
_SQL = """
SELECT id, customer, product, quantity, price, currency, country, express,
       date_part('epoch', update_time)::bigint, note
FROM bench.orders ORDER BY id
"""


class OrderStream:
    """The handler. `response` is the message class of its answers."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], response: type[Any]) -> None:
        self._pool = pool
        self._response = response

    async def stream_orders(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """All orders in key order, out of one snapshot."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            cursor = await connection.cursor(_SQL)
            while rows := await cursor.fetch(ROWS_PER_MESSAGE):
                yield self._page(rows)

    def _page(self, rows: Sequence[asyncpg.Record]) -> Any:
        """add() and assignments: 1.4 us a row, where a message made with keywords and handed over takes 3.3 us."""
        page = self._response()
        for row in rows:
            order = page.orders.add()
            order.id, order.customer, order.product, order.quantity, order.price = row[:5]
            order.currency, order.country, order.express, order.update_time.seconds, order.note = row[5:]
        return page


async def main() -> None:
    """Serves until told to end."""
    contracts = load_contracts(Path(os.environ["PENSTOCK_CONTRACTS"]))
    service = next(service for service in contracts.services if service.full_name == "bench.v1.OrderService")
    method = next(method for method in service.methods if method.name == "StreamOrders")
    async with asyncpg.create_pool(os.environ["PENSTOCK_DATABASE_URL"], min_size=1, max_size=4) as pool:
        response = GetMessageClass(method.output)
        stream = OrderStream(pool, response)
        handler = grpc.unary_stream_rpc_method_handler(
            stream.stream_orders,
            request_deserializer=method.input_class.FromString,
            response_serializer=response.SerializeToString,
        )
        await baseline_server.serve(grpc.method_handlers_generic_handler(SERVICE, {"StreamOrders": handler}))


if __name__ == "__main__":
    asyncio.run(main())

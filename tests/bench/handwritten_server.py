"""The streaming server that one writes by hand: grpc.aio and asyncpg, a cursor that fetches 1,000 rows at a time, a
message object per row, 1,000 rows to a response.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
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
# An epoch is cheaper to take over into a Timestamp than a datetime is: 15 % of the whole.
_SQL = """
SELECT id, customer, product, quantity, price, currency, country, express,
       extract(epoch FROM update_time)::bigint, note
FROM bench.orders ORDER BY id
"""


class OrderStream:
    """The handler. `order` and `response` are message classes."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], order: type[Any], response: type[Any]) -> None:
        self._pool = pool
        self._order = order
        self._timestamp = GetMessageClass(order.DESCRIPTOR.fields_by_name["update_time"].message_type)
        self._response = response

    async def stream_orders(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """All orders in key order, out of one snapshot."""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            cursor = await connection.cursor(_SQL)
            while rows := await cursor.fetch(ROWS_PER_MESSAGE):
                yield self._response(orders=[self._message(row) for row in rows])

    def _message(self, row: asyncpg.Record) -> Any:
        id_, customer, product, quantity, price, currency, country, express, updated_s, note = row
        return self._order(
            id=id_,
            customer=customer,
            product=product,
            quantity=quantity,
            price=price,
            currency=currency,
            country=country,
            express=express,
            update_time=self._timestamp(seconds=updated_s),
            note=note,
        )


async def main() -> None:
    """Serves until told to end."""
    contracts = load_contracts(Path(os.environ["PENSTOCK_CONTRACTS"]))
    service = next(service for service in contracts.services if service.full_name == "bench.v1.OrderService")
    method = next(method for method in service.methods if method.name == "StreamOrders")
    async with asyncpg.create_pool(os.environ["PENSTOCK_DATABASE_URL"], min_size=1, max_size=4) as pool:
        response = GetMessageClass(method.output)
        stream = OrderStream(pool, service.dataset.message_class, response)
        handler = grpc.unary_stream_rpc_method_handler(
            stream.stream_orders,
            request_deserializer=method.input_class.FromString,
            response_serializer=response.SerializeToString,
        )
        await baseline_server.serve(grpc.method_handlers_generic_handler(SERVICE, {"StreamOrders": handler}))


if __name__ == "__main__":
    asyncio.run(main())

"""The loader of small files that one writes by hand: SQS events, S3, the csv module, COPY into a temporary table and
INSERT ON CONFLICT DO UPDATE, one transaction a file, four files at once. It checks nothing and remembers nothing.

`python -m tests.bench.handwritten_loader COUNT` loads so many files and prints the seconds that it took.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import sys
import time
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

import aioboto3
import asyncpg

QUEUE_URL = "BENCH_QUEUE_URL"
TABLE = "bench.few"
CONCURRENCY = 4
_STAGE = f"CREATE TEMP TABLE stage (LIKE {TABLE}) ON COMMIT DROP"
_UPSERT = f"""
INSERT INTO {TABLE} SELECT * FROM stage ON CONFLICT (id) DO UPDATE
SET customer = excluded.customer, product = excluded.product, quantity = excluded.quantity, price = excluded.price,
    currency = excluded.currency, country = excluded.country, express = excluded.express,
    update_time = excluded.update_time, note = excluded.note
"""


class Loader:
    """Takes messages until `left` files are loaded; then `done` is set."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], s3: Any, sqs: Any, left: int) -> None:
        self._pool, self._s3, self._sqs = pool, s3, sqs
        self._left = left
        self.done = asyncio.Event()

    async def run(self) -> None:
        """One of the workers. A receive is never broken off: the queue would give the next run's messages to nobody."""
        while self._left > 0:
            answer = await self._sqs.receive_message(
                QueueUrl=os.environ[QUEUE_URL], MaxNumberOfMessages=10, WaitTimeSeconds=5
            )
            messages = answer.get("Messages", [])
            for message in messages:
                for record in json.loads(message["Body"]).get("Records", ()):
                    await self._load(record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"]))
            if messages:
                entries = [{"Id": one["MessageId"], "ReceiptHandle": one["ReceiptHandle"]} for one in messages]
                await self._sqs.delete_message_batch(QueueUrl=os.environ[QUEUE_URL], Entries=entries)
            if self._left <= 0:
                self.done.set()

    async def _load(self, bucket: str, key: str) -> None:
        answer = await self._s3.get_object(Bucket=bucket, Key=key)
        text = (await answer["Body"].read()).decode()
        rows = csv.reader(io.StringIO(text))
        columns = next(rows)
        records = [_record(row) for row in rows]
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_STAGE)
            await connection.copy_records_to_table("stage", columns=columns, records=records)
            await connection.execute(_UPSERT)
        self._left -= 1


def _record(row: list[str]) -> tuple[object, ...]:
    key, customer, product, quantity, price, currency, country, express, update_time, note = row
    moment = datetime.fromisoformat(update_time)
    return key, customer, product, int(quantity), float(price), currency, country, express == "true", moment, note


async def main(count: int) -> None:
    """See above."""
    session = aioboto3.Session()
    async with (
        asyncpg.create_pool(os.environ["PENSTOCK_DATABASE_URL"], min_size=CONCURRENCY, max_size=CONCURRENCY) as pool,
        session.client("s3") as s3,
        session.client("sqs") as sqs,
    ):
        loader = Loader(pool, s3, sqs, count)
        begin = time.perf_counter()
        workers = [asyncio.create_task(loader.run()) for _ in range(CONCURRENCY)]
        await loader.done.wait()
        print(time.perf_counter() - begin)
        await asyncio.gather(*workers)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

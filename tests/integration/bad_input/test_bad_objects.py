"""Objects that are gone, forbidden or oddly named, and queue messages that nobody can parse."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any
from urllib.parse import quote_plus

import pytest

from ingest_service.aws import AwsAccess, open_client
from ingest_service.consumer import Consumer, ConsumerConfig
from ingest_service.handler import EventHandler
from ingest_service.ledger import listing
from ingest_service.ledger.records import LoadState, LoadTrigger
from ingest_service.load import Loader
from ingest_service.objects import ObjectStore
from ingest_service.sources import Source, Sources, sources_by_name
from tests.integration.bad_input.intake import BEFORE, Intake
from tests.integration.consumer.conftest import Queues, Until

LONGEST_KEY_BYTES = 1024


async def test_object_that_is_gone_is_superseded_for_an_event_and_failed_for_a_caller(intake: Intake) -> None:
    before = await intake.everything()
    outcome = await intake.load("strict/gone.csv")
    assert (outcome.load.state, outcome.load.reason) == (LoadState.SUPERSEDED, "OBJECT_GONE")
    assert f"{intake.uri('strict/gone.csv')} is not there" in outcome.load.message
    assert await intake.everything() == before
    assert (await intake.fail("strict/gone.csv", LoadTrigger.POPULATE)).load.reason == "OBJECT_GONE"


async def test_bucket_that_is_gone_fails_by_its_name(intake: Intake) -> None:
    elsewhere = dataclasses.replace(intake, bucket="no-such-bucket")
    outcome = await elsewhere.load("strict/a.csv")
    assert (outcome.load.state, outcome.load.reason) == (LoadState.FAILED, "BUCKET_NOT_FOUND")
    assert "'no-such-bucket' does not exist" in outcome.load.message


async def test_bucket_without_permission_fails_naming_the_permission(intake: Intake, access: AwsAccess) -> None:
    """The emulator lets another account's key in nowhere, as S3 does: 403 AccessDenied."""
    await intake.put("strict/a.csv", BEFORE)
    stranger = dataclasses.replace(access, access_key_id="111111111111")
    async with open_client("s3", stranger) as client:
        denied = dataclasses.replace(intake, loader=loader_of(intake, ObjectStore(client)))
        outcome = await denied.load("strict/a.csv")
    assert (outcome.load.state, outcome.load.reason) == (LoadState.FAILED, "S3_ACCESS_DENIED")
    arn = f"arn:aws:s3:::{intake.bucket}/strict/a.csv"
    assert f"GetObject of {intake.uri('strict/a.csv')} was refused" in outcome.load.message
    assert f"allow s3:GetObject on {arn}" in outcome.load.message


def loader_of(intake: Intake, store: ObjectStore) -> Loader:
    return Loader(pool=intake.pool, store=store, executor=intake.executor, owner="stranger")


KEYS = {
    "spaces": "strict/two  words .csv",
    "plus": "strict/a+b.csv",
    "percent": "strict/100%25 100%.csv",
    "unicode": "strict/größe-日本-🛩.csv",
    "decomposed": "strict/o\u0308.csv",
    "dots": "strict/a..csv",
    "dot segments": "strict/../strict/./a.csv",
    "double slash": "strict//a.csv",
    "quotes": 'strict/it\'s "a" <file> & more.csv',
    "line end": "strict/a\nb.csv",
    "question mark": "strict/a.csv?versionId=x#y.csv",
    "backslash": "strict/a\\b.csv",
    "longest": "strict/" + "é" * ((LONGEST_KEY_BYTES - 11) // 2) + ".csv",
}


async def test_object_of_any_name_is_loaded_from_its_event(
    intake: Intake, queues: Queues, config: ConsumerConfig, until: Until
) -> None:
    for what, key in KEYS.items():
        await intake.put(key, f"id\n{what}\n".encode())
        await queues.send(notification(intake.bucket, key))
    consumer = await consume(intake, queues, config, until, deleted=len(KEYS))
    assert consumer.counts.unexpected == 0
    for key in KEYS.values():
        async with intake.pool.acquire() as connection:
            wanted = listing.LoadFilter(bucket=intake.bucket, key=key)
            loads = await listing.list_loads(connection, wanted, after=None, limit=10)
        assert [load.state for load in loads] == [LoadState.SUCCEEDED], key
    assert set(await intake.records()) == set(KEYS)


async def test_object_that_feeds_two_datasets_is_settled_when_it_ended_in_both(
    intake: Intake, queues: Queues, config: ConsumerConfig, until: Until
) -> None:
    """Its bad row fails it in the one, and takes nothing from the other."""
    await intake.put("shared/a.csv", b"id,i32\na,1\nb,bad\n")
    await queues.send(notification(intake.bucket, "shared/a.csv"))
    sources = Sources(sources=tuple(Source(dataset=name, bucket=intake.bucket) for name in ("strict", "tolerant")))
    await consume(intake, queues, config, until, deleted=1, sources=sources)
    assert await queues.empty()
    async with intake.pool.acquire() as connection:
        wanted = listing.LoadFilter(bucket=intake.bucket, key="shared/a.csv")
        loads = await listing.list_loads(connection, wanted, after=None, limit=10)
    ends = {load.dataset: load.state for load in loads}
    assert ends == {"strict": LoadState.FAILED, "tolerant": LoadState.SUCCEEDED}
    assert set(await intake.records("tolerant")) == {"a"}
    assert await intake.records("strict") == {}


def _record_of(key: str) -> str:
    return '{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"%s"}}}]}' % key


UNPARSABLE = {
    "no JSON": "not JSON",
    "empty object": "{}",
    "array": "[]",
    "truncated": '{"Records":[{"eventVersion":"2.1"',
    "no records list": '{"Records":"x"}',
    "record without a name": '{"Records":[{"s3":{}}]}',
    "record without a key": '{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"}}}]}',
    "key with NUL": _record_of("%00"),
    "key that is no UTF-8": _record_of("%ff"),
    "another major version": '{"Records":[{"eventVersion":"3.0","eventName":"ObjectCreated:Put"}]}',
    "deep nesting": "[" * 5000,
    "largest": json.dumps({"text": "x" * 250_000}),
}


async def test_body_that_nobody_can_parse_ends_in_the_dead_letter_queue_and_stalls_nothing(
    intake: Intake, queues: Queues, config: ConsumerConfig, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    await intake.put("strict/a.csv", b"id\na\n")
    for body in UNPARSABLE.values():
        await queues.send(body)
    await queues.send(notification(intake.bucket, "strict/a.csv"))
    consumer = await consume(intake, queues, config, until, deleted=1, unparsable=2 * len(UNPARSABLE))
    assert set(await intake.records()) == {"a"}
    assert consumer.counts.unexpected == 0
    assert await dead(queues, len(UNPARSABLE)) == sorted(UNPARSABLE.values())
    assert caplog.text.count("cannot be read and is left to the dead-letter queue") == 2 * len(UNPARSABLE)


def notification(bucket: str, key: str) -> str:
    """As S3 sends it, with the key URL-encoded."""
    thing = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "sequencer": "0A"}}
    return json.dumps({"Records": [{"eventVersion": "2.1", "eventName": "ObjectCreated:Put", "s3": thing}]})


async def consume(
    intake: Intake,
    queues: Queues,
    config: ConsumerConfig,
    until: Until,
    *,
    deleted: int,
    unparsable: int = 0,
    sources: Sources | None = None,
) -> Consumer:
    """Runs the service's consumer and handler until so many messages are settled."""
    handler = EventHandler(
        datasets=intake.datasets,
        sources=sources or sources_by_name(intake.datasets, [intake.bucket]),
        loader=intake.loader,
        store=intake.store,
        pool=intake.pool,
        owner="test",
    )
    consumer = Consumer(queues.main, handler, _always, config)
    running = asyncio.create_task(consumer.run())
    await until(lambda: consumer.counts.deleted >= deleted and consumer.counts.unparsable >= unparsable)
    consumer.stop()
    await running
    return consumer


async def _always() -> bool:
    return True


async def dead(queues: Queues, count: int) -> list[str]:
    """The bodies in the dead-letter queue once there are so many."""
    found: dict[str, Any] = {}
    async with asyncio.timeout(30):
        while len(found) < count:
            await queues.main.receive(1, wait_s=0, visibility_timeout_s=30)  # SQS moves a message when it is asked for
            for message in await queues.dead.receive(10, wait_s=0, visibility_timeout_s=30):
                found[message.id] = message.body
    return sorted(found.values())

"""When a message is deleted, left, or handed back, against a real SQS emulator."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ingest_service.aws import AwsAccess, open_client
from ingest_service.consumer import TERMINAL, Consumer, ConsumerConfig, Outcome, Queue, retry
from ingest_service.consumer.deletes import Deletes
from ingest_service.consumer.queue import VisibilityLost
from ingest_service.events import EventKind, ObjectEvent
from ingest_service.objects import ObjectStore
from shared.errors import FailedPrecondition, Unavailable
from shared.local.emulator import Wiring
from tests.integration.consumer.conftest import Queues, Until
from tests.integration.consumer.flaky_proxy import FlakyProxy

pytestmark = pytest.mark.usefixtures("emulator")


def body(*keys: str, name: str = "ObjectCreated:Put") -> str:
    records = [
        {"eventVersion": "2.1", "eventName": name, "s3": {"bucket": {"name": "lake"}, "object": {"key": key}}}
        for key in keys
    ]
    return json.dumps({"Records": records})


async def always() -> bool:
    return True


class Handler:
    """Answers events from a script, then TERMINAL; keeps what it saw."""

    def __init__(self, *script: Outcome | Exception) -> None:
        self._script = list(script)
        self.seen: list[str] = []

    async def __call__(self, event: ObjectEvent) -> Outcome:
        self.seen.append(event.key)
        answer = self._script.pop(0) if self._script else TERMINAL
        if isinstance(answer, Exception):
            raise answer
        return answer


class Gate:
    """A handler that blocks until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.running: list[str] = []
        self.most = 0
        self.seen: list[str] = []

    async def __call__(self, event: ObjectEvent) -> Outcome:
        self.running.append(event.key)
        self.seen.append(event.key)
        self.most = max(self.most, len(self.running))
        try:
            await self.open.wait()
        finally:
            self.running.remove(event.key)
        return TERMINAL


def consumer(
    queues: Queues, handle: Any, config: ConsumerConfig, ready: Callable[[], Awaitable[bool]] = always
) -> Consumer:
    return Consumer(queues.main, handle, ready, config)


async def test_uploaded_and_deleted_objects_arrive_decoded_and_are_settled(
    wiring: Wiring, s3: Any, sqs: Any, config: ConsumerConfig, store: ObjectStore, until: Until
) -> None:
    seen: list[ObjectEvent] = []

    async def handle(event: ObjectEvent) -> Outcome:
        seen.append(event)
        return TERMINAL

    running = Consumer(Queue(sqs, wiring.queue_url), handle, always, config)
    await s3.put_object(Bucket=wiring.bucket, Key="airports/a b+é.csv", Body=b"x")
    await s3.delete_object(Bucket=wiring.bucket, Key="airports/a b+é.csv")
    task = asyncio.create_task(running.run())
    await until(lambda: running.counts.deleted == 3)
    running.stop()
    await task
    assert running.counts.test_events == 1
    created, removed = sorted(seen, key=lambda event: event.sequencer or "")
    assert (created.kind, removed.kind) == (EventKind.CREATED, EventKind.REMOVED)
    assert created.key == removed.key == "airports/a b+é.csv"
    head = await store.head(wiring.bucket, created.key, version_id=created.version_id)
    assert (head.version_id, head.size_bytes) == (created.version_id, created.size_bytes)


async def test_message_with_several_records_is_deleted_when_all_are_terminal(
    queues: Queues, config: ConsumerConfig
) -> None:
    handler = Handler(TERMINAL, retry(), retry())
    running = consumer(queues, handler, config)
    await queues.send(body("d/a", "d/b", "d/c"))
    assert await running.run_once() == 1
    await running.idle()
    assert handler.seen == ["d/a", "d/b", "d/b", "d/b", "d/c"]
    assert (running.counts.deleted, running.counts.received, running.counts.retries) == (1, 1, 2)
    assert await queues.empty()


async def test_next_attempt_does_only_what_the_last_one_left(queues: Queues, config: ConsumerConfig) -> None:
    rest = Handler(retry(), TERMINAL)
    first = Handler(retry(rest=rest))
    running = consumer(queues, first, config)
    await queues.send(body("d/a"))
    await running.run_once()
    await running.idle()
    assert (first.seen, rest.seen) == (["d/a"], ["d/a", "d/a"])
    assert await queues.empty()


async def test_messages_done_at_about_the_same_time_are_deleted_in_one_request(
    queues: Queues, config: ConsumerConfig, access: AwsAccess, proxy: FlakyProxy
) -> None:
    for number in range(10):
        await queues.send(body(f"d/{number}"))
    async with open_client("sqs", dataclasses.replace(access, endpoint_url=proxy.endpoint_url)) as sqs:
        patient = dataclasses.replace(config, concurrency=10, delete_linger_s=30)
        running = Consumer(Queue(sqs, queues.main.url), Handler(), always, patient)
        while running.counts.received < 10:
            await running.run_once()
        await running.idle()
    assert running.counts.deleted == 10
    assert sum("DeleteMessage" in head for head in proxy.requests) == 1
    assert await queues.empty()


async def test_message_that_is_not_ours_any_more_keeps_no_other_from_being_deleted(
    queues: Queues, config: ConsumerConfig
) -> None:
    await queues.send(body("d/a"))
    (lost,) = await queues.main.receive(1, wait_s=5, visibility_timeout_s=30)
    await queues.sqs.purge_queue(QueueUrl=queues.main.url)
    await queues.send(body("d/b"))
    (ours,) = await queues.main.receive(1, wait_s=5, visibility_timeout_s=30)
    deletes = Deletes(queues.main, config.delete_linger_s)
    ended = await asyncio.gather(deletes.delete(lost), deletes.delete(ours), return_exceptions=True)
    assert isinstance(ended[0], VisibilityLost)
    assert ended[1] is None
    assert await queues.empty()


async def test_duplicate_delivery_is_handled_and_settled_again(queues: Queues, config: ConsumerConfig) -> None:
    handler = Handler()
    running = consumer(queues, handler, config)
    for _ in range(2):
        await queues.send(body("d/a"))
        await running.run_once()
    await running.idle()
    assert handler.seen == ["d/a", "d/a"]
    assert await queues.empty()


@pytest.mark.parametrize("text", ['{"Event": "s3:TestEvent", "Bucket": "b"}', body("d/a", name="ObjectTagging:Put")])
async def test_test_and_unknown_events_are_acknowledged_and_counted(
    queues: Queues, config: ConsumerConfig, text: str
) -> None:
    handler = Handler()
    running = consumer(queues, handler, config)
    await queues.send(text)
    await running.run_once()
    await running.idle()
    assert running.counts.test_events + running.counts.unknown_events == 1
    assert handler.seen == []
    assert await queues.empty()


async def test_unparsable_body_ends_in_the_dead_letter_queue(
    queues: Queues, config: ConsumerConfig, until: Until
) -> None:
    running = consumer(queues, Handler(), config)
    await queues.send("not an event")
    task = asyncio.create_task(running.run())
    await until(lambda: running.counts.unparsable == 2)
    (dead,) = await queues.dead.receive(1, wait_s=5, visibility_timeout_s=30)
    running.stop()
    await task
    assert dead.body == "not an event"
    assert running.counts.deleted == 0


@pytest.mark.parametrize("bug", [ZeroDivisionError("bug"), FailedPrecondition("cannot", reason="X")])
async def test_unexpected_error_is_tried_again_then_left_to_the_dead_letter_queue(
    queues: Queues, config: ConsumerConfig, until: Until, bug: Exception
) -> None:
    handler = Handler(*[bug] * 100)
    running = consumer(queues, handler, config)
    await queues.send(body("d/a"))
    task = asyncio.create_task(running.run())
    await until(lambda: len(handler.seen) == 2 * config.unexpected_attempts)
    assert await queues.dead.receive(1, wait_s=5, visibility_timeout_s=30)
    running.stop()
    await task


async def test_transient_errors_are_retried_within_one_receive(queues: Queues, config: ConsumerConfig) -> None:
    handler = Handler(*[Unavailable("down", reason="X")] * 5)
    running = consumer(queues, handler, config)
    await queues.send(body("d/a"))
    await running.run_once()
    await running.idle()
    assert len(handler.seen) == 6
    assert (running.counts.received, running.counts.deleted) == (1, 1)


@pytest.mark.slow
async def test_heartbeat_keeps_a_long_job_invisible(queues: Queues, config: ConsumerConfig) -> None:
    gate = Gate()
    running = consumer(queues, gate, dataclasses.replace(config, visibility_timeout_s=2))
    await queues.send(body("d/a"))
    await running.run_once()
    # The long poll spans two visibility timeouts.
    assert await queues.main.receive(1, wait_s=5, visibility_timeout_s=30) == []
    gate.open.set()
    await running.idle()
    assert running.counts.deleted == 1
    assert gate.seen == ["d/a"]


async def test_lost_visibility_ends_the_retries(queues: Queues, config: ConsumerConfig, until: Until) -> None:
    handler = Handler(retry(3600))
    running = consumer(queues, handler, dataclasses.replace(config, visibility_timeout_s=1))
    await queues.send(body("d/a"))
    await running.run_once()
    await until(lambda: running.counts.retries == 1)
    await queues.sqs.purge_queue(QueueUrl=queues.main.url)
    async with asyncio.timeout(20):
        await running.idle()
    assert running.counts.visibility_lost == 1
    assert handler.seen == ["d/a"]


async def test_past_the_cap_a_message_is_shown_again(queues: Queues, config: ConsumerConfig) -> None:
    handler = Handler(retry(3600))
    running = consumer(queues, handler, dataclasses.replace(config, visibility_cap_s=0.3))
    await queues.send(body("d/a"))
    await running.run_once()
    async with asyncio.timeout(20):
        await running.idle()
    (again,) = await queues.main.receive(1, wait_s=5, visibility_timeout_s=30)
    assert again.receive_count == 2


async def test_job_that_outlives_its_visibility_still_finishes(
    queues: Queues, config: ConsumerConfig, until: Until
) -> None:
    gate = Gate()
    running = consumer(queues, gate, dataclasses.replace(config, visibility_timeout_s=1))
    await queues.send(body("d/a", "d/b"))
    await running.run_once()
    await until(lambda: gate.running == ["d/a"])
    await queues.sqs.purge_queue(QueueUrl=queues.main.url)
    gate.open.set()
    await running.idle()
    assert gate.seen == ["d/a", "d/b"]
    assert running.counts.visibility_lost == 1

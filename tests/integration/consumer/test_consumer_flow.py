"""What the consumer receives, in which order it works, and how it stops, against a real SQS emulator."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_trace_id

from ingest_service.aws import AwsAccess, open_client
from ingest_service.consumer import TERMINAL, Consumer, ConsumerConfig, Outcome, Queue, retry
from ingest_service.events import ObjectEvent
from ingest_service.objects import ObjectStore
from tests.integration.consumer.conftest import Queues, Until
from tests.integration.consumer.flaky_proxy import FlakyProxy
from tests.integration.consumer.test_consumer_settles import Gate, Handler, always, body, consumer

Spans = tuple[TracerProvider, InMemorySpanExporter]


async def test_only_what_can_be_started_is_received(queues: Queues, config: ConsumerConfig, until: Until) -> None:
    gate = Gate()
    running = consumer(queues, gate, dataclasses.replace(config, concurrency=2))
    for n in range(5):
        await queues.send(body(f"d/{n}"))
    task = asyncio.create_task(running.run())
    await until(lambda: len(gate.running) == 2)
    assert running.counts.received == 2
    assert await queues.visible() == 3
    gate.open.set()
    await until(lambda: running.counts.deleted == 5)
    running.stop()
    await task
    assert gate.most == 2


async def test_waiting_retries_do_not_stall_other_objects(queues: Queues, config: ConsumerConfig, until: Until) -> None:
    async def handle(event: ObjectEvent) -> Outcome:
        return retry(3600) if "poison" in event.key else TERMINAL

    running = consumer(queues, handle, dataclasses.replace(config, concurrency=1))
    for key in ("d/poison1", "d/poison2", "d/good"):
        await queues.send(body(key))
    task = asyncio.create_task(running.run())
    await until(lambda: running.counts.deleted == 1 and running.in_flight == 2)
    running.stop()
    await task


async def test_messages_in_hand_are_bounded(queues: Queues, config: ConsumerConfig, until: Until) -> None:
    handler = Handler(*[retry(3600)] * 100)
    running = consumer(queues, handler, dataclasses.replace(config, concurrency=1, in_flight_limit=3))
    for n in range(5):
        await queues.send(body(f"d/{n}"))
    task = asyncio.create_task(running.run())
    await until(lambda: running.counts.retries == 3)
    assert await queues.visible() == 2
    running.stop()
    await task
    assert running.counts.handed_back == 3


async def test_events_of_one_object_never_run_at_once(queues: Queues, config: ConsumerConfig, until: Until) -> None:
    gate = Gate()
    running = consumer(queues, gate, dataclasses.replace(config, concurrency=8))
    for key in ("d/a", "d/a", "d/b", "d/a"):
        await queues.send(body(key))
    task = asyncio.create_task(running.run())
    await until(lambda: running.counts.received == 4)
    await until(lambda: len(gate.running) == 2)
    assert sorted(gate.running) == ["d/a", "d/b"]
    gate.open.set()
    await until(lambda: running.counts.deleted == 4)
    running.stop()
    await task
    assert gate.most == 2


async def test_nothing_is_received_while_not_ready(queues: Queues, config: ConsumerConfig, until: Until) -> None:
    asked = 0
    up = False

    async def ready() -> bool:
        nonlocal asked
        asked += 1
        return up

    running = consumer(queues, Handler(), config, ready)
    await queues.send(body("d/a"))
    task = asyncio.create_task(running.run())
    await until(lambda: asked >= 5)
    assert running.counts.received == 0
    assert await queues.visible() == 1
    up = True
    await until(lambda: running.counts.deleted == 1)
    running.stop()
    await task


async def test_place_that_comes_free_while_not_ready_is_not_filled(
    queues: Queues, config: ConsumerConfig, until: Until
) -> None:
    asked_in_vain = 0
    up = True

    async def ready() -> bool:
        nonlocal asked_in_vain
        asked_in_vain += not up
        return up

    gate = Gate()
    running = consumer(queues, gate, dataclasses.replace(config, concurrency=1), ready)
    for key in ("d/a", "d/b"):
        await queues.send(body(key))
    task = asyncio.create_task(running.run())
    await until(lambda: gate.running == ["d/a"])
    up = False
    gate.open.set()
    await until(lambda: asked_in_vain >= 3)
    assert running.counts.received == 1
    up = True
    await until(lambda: running.counts.deleted == 2)
    running.stop()
    await task


@pytest.mark.slow
async def test_in_flight_heartbeat_goes_on_while_not_ready(
    queues: Queues, config: ConsumerConfig, until: Until
) -> None:
    up = True

    async def ready() -> bool:
        return up

    gate = Gate()
    running = consumer(queues, gate, dataclasses.replace(config, visibility_timeout_s=2), ready)
    await queues.send(body("d/a"))
    task = asyncio.create_task(running.run())
    await until(lambda: gate.running == ["d/a"])
    up = False
    assert await queues.main.receive(1, wait_s=5, visibility_timeout_s=30) == []
    gate.open.set()
    await until(lambda: running.counts.deleted == 1)
    running.stop()
    await task


@pytest.mark.slow
async def test_consumer_survives_sqs_going_down_and_coming_back(
    access: AwsAccess, proxy: FlakyProxy, queues: Queues, config: ConsumerConfig, until: Until
) -> None:
    through = dataclasses.replace(access, endpoint_url=proxy.endpoint_url)
    handler = Handler()
    # The emulator goes on with a long poll whose connection is gone: what that swallows must come back soon.
    config = dataclasses.replace(config, wait_s=1, visibility_timeout_s=3)
    async with open_client("sqs", through, max_attempts=1) as client:
        running = Consumer(Queue(client, queues.main.url), handler, always, config)
        task = asyncio.create_task(running.run())
        await queues.send(body("d/a"))
        await until(lambda: running.counts.deleted == 1)
        await proxy.down()
        await until(lambda: running.counts.receive_failures >= 3)
        await queues.send(body("d/b"))
        await proxy.up()
        await until(lambda: running.counts.deleted == 2)
        running.stop()
        await task
    assert handler.seen == ["d/a", "d/b"]


async def test_stop_breaks_off_the_long_poll(
    access: AwsAccess, proxy: FlakyProxy, queues: Queues, config: ConsumerConfig, until: Until
) -> None:
    async with open_client("sqs", dataclasses.replace(access, endpoint_url=proxy.endpoint_url)) as client:
        patient = dataclasses.replace(config, wait_s=20)
        running = Consumer(Queue(client, queues.main.url), Handler(), always, patient)
        task = asyncio.create_task(running.run())
        await until(lambda: any("ReceiveMessage" in request for request in proxy.requests))
        running.stop()
        async with asyncio.timeout(10):
            await task


async def test_stop_waits_for_what_runs(queues: Queues, config: ConsumerConfig, until: Until) -> None:
    gate = Gate()
    running = consumer(queues, gate, config)
    await queues.send(body("d/a"))
    task = asyncio.create_task(running.run())
    await until(lambda: bool(gate.running))
    running.stop()
    gate.open.set()
    await task
    assert running.counts.deleted == 1
    assert await queues.empty()


@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_unfinished_messages_are_handed_back_at_once(
    queues: Queues, config: ConsumerConfig, until: Until, how: str
) -> None:
    gate = Gate()
    running = consumer(queues, gate, dataclasses.replace(config, drain_s=0.1, visibility_timeout_s=600))
    await queues.send(body("d/a"))
    task = asyncio.create_task(running.run())
    await until(lambda: bool(gate.running))
    running.stop() if how == "drain" else task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() == (how == "cancel")
    (again,) = await queues.main.receive(1, wait_s=5, visibility_timeout_s=30)
    assert again.receive_count == 2
    assert gate.running == []


async def test_stop_hands_back_what_waits_for_its_turn_or_a_retry(
    queues: Queues, config: ConsumerConfig, until: Until
) -> None:
    gate = Gate()

    async def handle(event: ObjectEvent) -> Outcome:
        return retry(3600) if event.key == "d/retry" else await gate(event)

    # With its hands full it does not poll: a poll that stop() breaks off lives on in the emulator and takes a message.
    running = consumer(queues, handle, dataclasses.replace(config, visibility_timeout_s=600, in_flight_limit=3))
    for key in ("d/a", "d/a", "d/retry"):
        await queues.send(body(key))
    task = asyncio.create_task(running.run())
    await until(lambda: running.counts.received == 3 and running.counts.retries == 1 and len(gate.running) == 1)
    running.stop()
    gate.open.set()
    await task
    assert (running.counts.deleted, running.counts.handed_back) == (1, 2)
    assert gate.seen == ["d/a"]
    assert await queues.visible() == 2


async def test_one_trace_from_receive_through_s3_to_delete(
    queues: Queues, s3: Any, bucket: str, config: ConsumerConfig, spans: Spans
) -> None:
    provider, exported = spans
    await s3.put_object(Bucket=bucket, Key="k", Body=b"abc")
    store = ObjectStore(s3, tracer_provider=provider)

    async def handle(event: ObjectEvent) -> Outcome:
        async with store.open_object(bucket, "k") as opened:
            assert [chunk async for chunk in opened.chunks] == [b"abc"]
        return TERMINAL

    running = Consumer(queues.main, handle, always, config, tracer_provider=provider)
    upstream = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await queues.send(body("d/a"), MessageAttributes={"traceparent": {"DataType": "String", "StringValue": upstream}})
    await running.run_once()
    await running.idle()
    by_name = {span.name: span for span in exported.get_finished_spans()}
    root = by_name[f"process {queues.main.name}"]
    assert root.parent is None
    assert root.kind is SpanKind.CONSUMER
    assert [format_trace_id(link.context.trace_id) for link in root.links] == [upstream.split("-")[1]]
    children = [f"receive {queues.main.name}", "S3.GetObject", f"delete {queues.main.name}"]
    assert all(by_name[name].parent == root.context for name in children)
    assert by_name["S3.GetObject"].attributes is not None
    assert by_name["S3.GetObject"].attributes["penstock.bytes_read"] == 3

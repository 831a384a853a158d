"""A real S3/SQS emulator per test process, and a bucket and queues per test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ingest_service.aws import AwsAccess, open_client
from ingest_service.backoff import Backoff
from ingest_service.consumer import ConsumerConfig, Queue
from ingest_service.objects import ObjectStore, ReadPolicy
from shared.local.emulator import REGION, Emulator, Wiring
from tests.integration.consumer.flaky_proxy import FlakyProxy

FAST = Backoff(base_s=0.02, cap_s=0.1)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture
def access(emulator: Emulator) -> AwsAccess:
    environment = emulator.environment()
    return AwsAccess(
        endpoint_url=emulator.endpoint_url,
        region=REGION,
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture
async def proxy(emulator: Emulator) -> AsyncIterator[FlakyProxy]:
    async with FlakyProxy(emulator.port) as running:
        yield running


@pytest.fixture
async def s3(access: AwsAccess) -> AsyncIterator[Any]:
    async with open_client("s3", access) as client:
        yield client


@pytest.fixture
async def sqs(access: AwsAccess) -> AsyncIterator[Any]:
    async with open_client("sqs", access) as client:
        yield client


@pytest.fixture
def store(s3: Any) -> ObjectStore:
    return ObjectStore(s3, ReadPolicy(missing_retries_s=(0.01,), resume_backoff=FAST))


@pytest.fixture
async def bucket(s3: Any) -> str:
    """An unversioned bucket without notifications."""
    name = f"plain-{uuid.uuid4().hex[:12]}"
    await s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def wiring(emulator: Emulator) -> Wiring:
    """A versioned bucket that notifies a queue; the test event that announces it lies in the queue."""
    return emulator.wire(f"wired-{uuid.uuid4().hex[:12]}", visibility_timeout_s=30, max_receive_count=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """A queue with its dead-letter queue (after two receives), both empty."""

    main: Queue
    dead: Queue
    sqs: Any

    async def send(self, body: str, **more: Any) -> None:
        await self.sqs.send_message(QueueUrl=self.main.url, MessageBody=body, **more)

    async def visible(self) -> int:
        names = ["ApproximateNumberOfMessages"]
        answer = await self.sqs.get_queue_attributes(QueueUrl=self.main.url, AttributeNames=names)
        return int(answer["Attributes"][names[0]])

    async def empty(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = await self.sqs.get_queue_attributes(QueueUrl=self.main.url, AttributeNames=names)
        return all(count == "0" for count in answer["Attributes"].values())


@pytest.fixture
def queues(emulator: Emulator, sqs: Any) -> Queues:
    wired = emulator.wire(f"unused-{uuid.uuid4().hex[:12]}", visibility_timeout_s=30, max_receive_count=2)
    with closing(emulator.client("sqs")) as sync:
        sync.purge_queue(QueueUrl=wired.queue_url)
    return Queues(main=Queue(sqs, wired.queue_url), dead=Queue(sqs, wired.dead_letter_queue_url), sqs=sqs)


@pytest.fixture
def config() -> ConsumerConfig:
    """Short waits; the visibility timeout is long where a test does not say otherwise."""
    return ConsumerConfig(
        wait_s=5,
        visibility_timeout_s=30,
        retry_backoff=FAST,
        sqs_backoff=FAST,
        ready_poll_s=0.01,
        redelivery_s=0,
        unreadable_redelivery_s=0,
        drain_s=30,
        hand_back_s=10,
    )


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    """A tracer provider of the test's own and what it exported."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


Until = Callable[[Callable[[], bool]], Any]


@pytest.fixture
def until() -> Until:
    """Waits for a condition, at most 30 s."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - polled, with a deadline: nothing signals these conditions
                await asyncio.sleep(0.005)

    return wait

"""The ingest service's composition root: everything that is built, opened and closed is visible here.

Stop order: not ready -> no more messages -> what runs finishes within the drain time, the rest is handed back ->
RPCs drain -> clients, pool, threads -> telemetry is flushed.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from uuid import uuid4

import asyncpg
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from ingest_service.aws import open_client
from ingest_service.consumer import Consumer, ConsumerConfig, Queue
from ingest_service.findings import Finding, Weight
from ingest_service.handler import EventHandler
from ingest_service.load import Loader, LoadLimits
from ingest_service.maintenance import Maintenance
from ingest_service.objects import ObjectStore, ReadPolicy
from ingest_service.parts import OPEN_AHEAD
from ingest_service.populate import Populates
from ingest_service.reconcile.epochs import EpochCheck
from ingest_service.reconcile.reconciler import Reconciler
from ingest_service.reconcile.schedule import Claims, Schedule
from ingest_service.removal import Removals
from ingest_service.rpc import IngestRpc
from ingest_service.self_check import SelfCheck
from ingest_service.settings import IngestSettings, read_settings
from ingest_service.sources import Sources, sources_by_name
from ingest_service.sources_file import read_sources
from ingest_service.unload import Unloader
from ingest_service.validate import compile_rules
from ingest_service.watch import LoadWatch
from shared.contract.build import load_contracts
from shared.contract.model import ContractSet, Dataset, FilePolicy
from shared.errors import ConfigError
from shared.postgres.applied import check_applied
from shared.postgres.pool import open_pool
from shared.postgres.readiness import Readiness
from shared.rpc.handlers import generated_handlers
from shared.rpc.server import RpcServer
from shared.telemetry import setup

logger = logging.getLogger(__name__)

SERVICE_NAME = "penstock-ingest"
# One thread a core parses and encodes; a second loads nothing but memory.
_LONG_POLL_S = 20
# Beside the bodies that loads hold open: ranged reads, listings, looks at objects.
_S3_CONNECTIONS = 50
_LEVELS = {Weight.ERROR: logging.ERROR, Weight.WARNING: logging.WARNING, Weight.UNKNOWN: logging.INFO}


async def serve(environ: Mapping[str, str], stop: asyncio.Event) -> None:
    """Runs the service until `stop` is set. Raises ConfigError, ContractError, Unavailable when it cannot start."""
    async with AsyncExitStack() as stack:
        telemetry = setup(SERVICE_NAME, environ, metadata.version("penstock"))
        stack.callback(telemetry.close)
        settings, contracts, sources = configured(environ)
        pool = await stack.enter_async_context(_pool(settings))
        await check_applied(pool, contracts)
        await stack.enter_async_context(_running(settings, contracts, sources, pool))
        await stop.wait()


async def check(environ: Mapping[str, str], stop: asyncio.Event) -> None:
    """Says on standard output what the service was told and what the self-check found; asks no database. Raises
    ConfigError or ContractError where the service would not start."""
    settings, contracts, sources = configured(environ)
    print(f"contracts: {len(contracts.datasets)} datasets ({', '.join(sorted(contracts.datasets))})")
    for source in sources.sources:
        print(f"source: {source}")
    async with open_client("s3", settings.aws) as s3, open_client("sqs", settings.aws) as sqs:
        queue = Queue(sqs, settings.queue_url)
        looking = SelfCheck(s3=s3, queue=queue, sources=sources, visibility_timeout_s=settings.visibility_timeout_s)
        findings = await looking.run()
    for finding in findings:
        if finding.weight is not Weight.ERROR:
            print(f"{finding.weight}: {finding.line}")
    _require_no_error(findings)


async def _checked(looking: SelfCheck) -> None:
    findings = await looking.run()
    for finding in findings:
        logger.log(_LEVELS[finding.weight], "self-check: %s", finding.line)
    _require_no_error(findings)


def _require_no_error(findings: Sequence[Finding]) -> None:
    errors = [finding.line for finding in findings if finding.weight is Weight.ERROR]
    if errors:
        raise ConfigError("\n".join(errors), reason="SELF_CHECK_FAILED")


def configured(environ: Mapping[str, str]) -> tuple[IngestSettings, ContractSet, Sources]:
    """Settings, contracts whose rules compile, and sources. Raises ConfigError or ContractError."""
    settings = read_settings(environ)
    contracts = load_contracts(settings.contracts)
    for dataset in contracts.datasets.values():
        compile_rules(dataset)
    return settings, contracts, load_sources(settings, contracts)


def load_sources(settings: IngestSettings, contracts: ContractSet) -> Sources:
    """Which objects go to which dataset. Raises ConfigError with every problem of the sources file."""
    path = settings.sources
    if path is None:
        return sources_by_name(contracts.datasets, settings.buckets)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        message = f"{path}: cannot be read ({exc}): point PENSTOCK_SOURCES at a YAML file in UTF-8"
        raise ConfigError(message, reason="SOURCES_INVALID") from exc
    return read_sources(
        text,
        name=str(path),
        datasets=contracts.datasets,
        snapshots=[one.name for one in contracts.datasets.values() if one.file_policy is FilePolicy.SNAPSHOT],
        more_buckets=settings.buckets,
    )


def owner_name() -> str:
    """Names this incarnation of this process in the ledger."""
    return f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What the service is made of, once its connections are open."""

    rpc: IngestRpc
    consumer: Consumer
    populates: Populates
    watch: LoadWatch
    readiness: Readiness
    maintenance: Maintenance
    schedule: Schedule
    epochs: EpochCheck


@asynccontextmanager
async def _running(
    settings: IngestSettings, contracts: ContractSet, sources: Sources, pool: asyncpg.Pool[asyncpg.Record]
) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode"))
        connections = _S3_CONNECTIONS + (OPEN_AHEAD + settings.object_parts) * settings.concurrency
        s3 = await stack.enter_async_context(open_client("s3", settings.aws, max_connections=connections))
        sqs = await stack.enter_async_context(open_client("sqs", settings.aws, read_timeout_s=_LONG_POLL_S + 15))
        queue = Queue(sqs, settings.queue_url)
        looking = SelfCheck(s3=s3, queue=queue, sources=sources, visibility_timeout_s=settings.visibility_timeout_s)
        await _checked(looking)
        store = ObjectStore(s3, _read_policy(settings))
        parts = _parts(settings, contracts.datasets, sources, pool, store, queue, executor)
        server = await stack.enter_async_context(_server(settings, parts.rpc))
        await stack.enter_async_context(_at_work(server, parts, settings.rpc.drain_s))
        yield


def _parts(
    settings: IngestSettings,
    datasets: Mapping[str, Dataset],
    sources: Sources,
    pool: asyncpg.Pool[asyncpg.Record],
    store: ObjectStore,
    queue: Queue,
    executor: Executor,
) -> _Parts:
    """Builds everything; opens and starts nothing."""
    owner = owner_name()
    limits = LoadLimits(concurrency=settings.concurrency)
    loader = Loader(pool=pool, store=store, executor=executor, owner=owner, limits=limits)
    populates = Populates(pool=pool, store=store, loader=loader, sources=sources, owner=owner)
    removals = Removals(pool=pool, store=store, loader=loader, owner=owner)
    reconciler = Reconciler(
        pool=pool, store=store, loader=loader, removals=removals, sources=sources, datasets=datasets
    )
    claims = Claims(pool=pool, reconciler=reconciler, owner=owner)
    handler = EventHandler(datasets=datasets, sources=sources, loader=loader, store=store, pool=pool, owner=owner)
    unloader = Unloader(pool=pool, owner=owner)
    readiness, watch = Readiness(pool), LoadWatch(pool=pool)
    return _Parts(
        rpc=IngestRpc(
            pool=pool,
            datasets=datasets,
            sources=sources,
            populates=populates,
            unloader=unloader,
            reconciler=reconciler,
            watch=watch,
        ),
        consumer=Consumer(queue, handler, readiness.check, _consumer_config(settings)),
        populates=populates,
        watch=watch,
        readiness=readiness,
        maintenance=Maintenance(
            pool=pool,
            populates=populates,
            datasets=datasets,
            sources=sources,
            watch_retention_s=settings.watch_retention_s,
        ),
        schedule=Schedule(pool=pool, claims=claims, datasets=datasets, interval_s=settings.reconcile_interval_s),
        epochs=EpochCheck(pool=pool, claims=claims, queue=queue, datasets=datasets),
    )


@asynccontextmanager
async def _at_work(server: RpcServer, parts: _Parts, drain_s: float) -> AsyncIterator[None]:
    """Everything that has no end runs inside the block; behind it what is under way is brought to an end."""
    serving = parts.readiness.run(functools.partial(_announce, server, parts.epochs))
    loops = (parts.maintenance.run(), serving, parts.watch.run(), parts.schedule.run(), parts.epochs.run())
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(loop) for loop in loops]
        consuming = tasks.create_task(parts.consumer.run())
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await server.set_serving(False)
            parts.consumer.stop()
            parts.watch.stop()
            async with asyncio.TaskGroup() as stopping:  # to its end, whatever one of them meets
                stopping.create_task(parts.populates.stop(drain_s))
                stopping.create_task(server.stop())
                await asyncio.wait([consuming])


async def _announce(server: RpcServer, epochs: EpochCheck, ready: bool) -> None:
    """Ready is who reaches the database, and knows that no loads lost with an earlier one are missing there."""
    await server.set_serving(ready and await epochs.passed())


def _server(settings: IngestSettings, rpc: IngestRpc) -> RpcServer:
    handlers = generated_handlers(ingest_pb2_grpc.add_IngestServiceServicer_to_server, rpc)
    return RpcServer(settings.rpc, handlers, files=[ingest_pb2.DESCRIPTOR])


def _pool(settings: IngestSettings) -> Any:
    return open_pool(
        settings.database.url,
        application_name=SERVICE_NAME,
        max_size=settings.database.pool_size,
        statement_cache_size=settings.database.statement_cache_size,
        connect_timeout_s=settings.database.connect_timeout_s,
    )


def _read_policy(settings: IngestSettings) -> ReadPolicy:
    return ReadPolicy(parallel_parts=settings.object_parts, part_bytes=settings.object_part_bytes)


def _consumer_config(settings: IngestSettings) -> ConsumerConfig:
    return ConsumerConfig(
        concurrency=settings.concurrency,
        wait_s=_LONG_POLL_S,
        visibility_timeout_s=settings.visibility_timeout_s,
        drain_s=settings.rpc.drain_s,
    )

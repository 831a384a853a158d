"""The query service's composition root: everything that is built, opened and closed is visible here.

Stop order: not ready -> watches end -> RPCs drain, what is left ends UNAVAILABLE with RetryInfo -> caches -> replicas
-> versions -> pool -> telemetry is flushed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib import metadata
from typing import Any

import asyncpg
from opentelemetry import metrics, trace

from query_service.binding import bind_services
from query_service.cache import AnswerCache
from query_service.cached import Caching
from query_service.connections import Connections
from query_service.database import FIRST_STATEMENT, PLANNER_SETTINGS, Database
from query_service.replicas import Replica, Replicas, Server
from query_service.settings import CacheSettings, QuerySettings, read_settings, stream_slots
from query_service.shared_cache import SharedCache
from query_service.shares import Shares
from query_service.thread_priority import yield_to_event_loop
from query_service.versions import Versions
from shared.contract.build import load_contracts
from shared.contract.model import ContractSet
from shared.postgres.applied import check_applied
from shared.postgres.pool import location, open_pool
from shared.postgres.readiness import Readiness
from shared.rpc.observation import Observer
from shared.rpc.server import RpcServer
from shared.telemetry import setup

logger = logging.getLogger(__name__)

SERVICE_NAME = "penstock-query"


async def serve(environ: Mapping[str, str], stop: asyncio.Event) -> None:
    """Runs the service until `stop` is set. Raises ConfigError, ContractError, Unavailable when it cannot start."""
    async with AsyncExitStack() as stack:
        telemetry = setup(SERVICE_NAME, environ, metadata.version("penstock"))
        stack.callback(telemetry.close)
        exporters = threading.enumerate()
        settings = read_settings(environ)
        contracts = load_contracts(settings.contracts)
        pool = await stack.enter_async_context(query_pool(settings))
        await check_applied(pool, contracts)
        await stack.enter_async_context(running(settings, contracts, pool))
        yield_to_event_loop(exporters)
        await stop.wait()


@asynccontextmanager
async def running(
    settings: QuerySettings,
    contracts: ContractSet,
    pool: asyncpg.Pool[asyncpg.Record],
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> AsyncIterator[RpcServer]:
    """The server over an open pool, ready as long as the database answers; drained at the end."""
    tracer = trace.get_tracer("query_service", tracer_provider=tracer_provider)
    observer = Observer(tracer_provider=tracer_provider, meter_provider=meter_provider)
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(opened_server(settings, pool))
        versions = Versions(await stack.enter_async_context(versions_pool(settings)))
        await stack.enter_async_context(beside(versions.run()))
        replicas = await stack.enter_async_context(opened_replicas(settings, versions))
        database = Database(primary, replicas=replicas, versions=versions, tracer=tracer, limits=settings.limits)
        caching = await stack.enter_async_context(opened_caches(settings.cache, meter_provider))
        handlers = bind_services(contracts, database, caching)
        server = RpcServer(settings.rpc, handlers, descriptors=contracts.descriptors, observer=observer)
        await stack.enter_async_context(server)
        stack.callback(database.watches.stop)
        await stack.enter_async_context(beside(Readiness(pool).run(server.set_serving)))
        yield server


@asynccontextmanager
async def opened_server(settings: QuerySettings, pool: asyncpg.Pool[asyncpg.Record]) -> AsyncIterator[Server]:
    """A database server as calls share it."""
    connections = Connections(pool, queue_s=settings.limits.queue_s, told_apart=settings.told_apart)
    slots = stream_slots(settings.limits, connections.size, told_apart=settings.told_apart)
    try:
        yield Server(connections=connections, streams=Shares(*slots))
    finally:
        await connections.close()


@asynccontextmanager
async def opened_replicas(settings: QuerySettings, versions: Versions) -> AsyncIterator[Replicas]:
    """The replicas, each being looked at; one that is away does not keep the service from starting."""
    async with AsyncExitStack() as stack:
        replicas = []
        for url in settings.replicas.urls:
            pool = await stack.enter_async_context(query_pool(settings, replica_url=url))
            replica = Replica(
                name=location(url),
                pool=pool,
                server=await stack.enter_async_context(opened_server(settings, pool)),
                versions=versions,
                max_lag_s=settings.replicas.max_lag_s,
                clock=time.monotonic,
            )
            await stack.enter_async_context(beside(replica.run()))
            replicas.append(replica)
        yield Replicas(replicas)


@asynccontextmanager
async def opened_caches(
    settings: CacheSettings, meter_provider: metrics.MeterProvider | None
) -> AsyncIterator[Caching | None]:
    """What answers are kept in; None where nothing is to be kept."""
    shared = SharedCache(settings.url, timeout_s=settings.timeout_s) if settings.url else None
    try:
        if settings.max_bytes or shared is not None:
            yield Caching(AnswerCache(settings.max_bytes), shared, meter_provider)
        else:
            yield None
    finally:
        if shared is not None:
            await shared.close()


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs what has no end beside the block. A bug in it is said at once: nobody waits for its end."""
    task = asyncio.create_task(work)
    task.add_done_callback(_say_bug)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _say_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (bug := task.exception()) is not None:
        logger.critical("a task of the service ended", exc_info=bug)


def query_pool(
    settings: QuerySettings, replica_url: str | None = None
) -> AbstractAsyncContextManager[asyncpg.Pool[asyncpg.Record]]:
    """The pool whose sessions plan as this service needs it; to a replica it connects when first used."""
    return open_pool(
        replica_url or settings.database.url,
        application_name=SERVICE_NAME,
        min_size=0 if replica_url else 1,
        max_size=settings.database.pool_size,
        statement_timeout_s=settings.limits.query_timeout_s,
        server_settings=PLANNER_SETTINGS,
        statement_cache_size=settings.database.statement_cache_size,
        connect_timeout_s=settings.database.connect_timeout_s,
        setting="PENSTOCK_REPLICA_URLS" if replica_url else "PENSTOCK_DATABASE_URL",
        first_statement=FIRST_STATEMENT,
    )


def versions_pool(settings: QuerySettings) -> AbstractAsyncContextManager[asyncpg.Pool[asyncpg.Record]]:
    """The one connection that listens for versions; opened when first used."""
    return open_pool(
        settings.database.url,
        application_name=f"{SERVICE_NAME}-versions",
        min_size=0,
        max_size=1,
        statement_cache_size=settings.database.statement_cache_size,
        connect_timeout_s=settings.database.connect_timeout_s,
    )

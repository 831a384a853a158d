"""A real ingest process that is killed or stopped in the middle of a load: the next one finishes the work, once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from ingest_service.aws import AwsAccess, open_client
from ingest_service.ledger.records import LoadState
from shared.local.emulator import Emulator
from tests.integration.ingest.rig import Rig, by_key, many, until
from tests.integration.merge.lab import CONTRACT

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def wired(rig: Rig, emulator: Emulator, tmp_path: Path) -> tuple[Rig, dict[str, str]]:
    """The rig on a bucket that notifies, and the environment of a service that listens to it."""
    wiring = emulator.wire(f"wired-{os.urandom(6).hex()}")
    contracts = tmp_path / "contracts"
    contracts.mkdir()
    (contracts / "thing.proto").write_text(CONTRACT)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PENSTOCK_", "OTEL_"))},
        **emulator.environment(),
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'shared' / 'generated'}",
        "PENSTOCK_CONTRACTS": str(contracts),
        "PENSTOCK_DATABASE_URL": rig.lab.url,
        "PENSTOCK_LISTEN": "127.0.0.1:0",
        "PENSTOCK_PROBE_LISTEN": "127.0.0.1:0",
        "PENSTOCK_TLS": "off",
        "PENSTOCK_QUEUE_URL": wiring.queue_url,
        "PENSTOCK_BUCKET": wiring.bucket,
        "PENSTOCK_VISIBILITY_TIMEOUT_S": "5",
        "PENSTOCK_DRAIN_S": "1",
    }
    return replace(rig, bucket=wiring.bucket), environment


@asynccontextmanager
async def service(environment: Mapping[str, str], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ingest_service"), env=environment, stdout=sink, stderr=sink, cwd=REPOSITORY
        )
    try:
        yield process
    except TimeoutError as exc:
        said = await asyncio.to_thread(log.read_text)
        raise AssertionError(said[-4000:]) from exc
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["staging", "merging"])
async def test_killed_process_leaves_work_that_the_next_one_does_once(
    wired: tuple[Rig, dict[str, str]], moment: str, tmp_path: Path
) -> None:
    rig, environment = wired
    things = many(100_000)
    await rig.put(things)
    async with AsyncExitStack() as stack:
        if moment == "merging":
            await stack.enter_async_context(rig.locked_dataset())
        async with service(environment, tmp_path / "first.log") as first:
            await until(lambda: _at(rig, moment))
            first.kill()
            await first.wait()
    async with service(environment, tmp_path / "second.log"):
        await until(lambda: _has(rig, LoadState.SUCCEEDED))
        await until(lambda: _queue_is_empty(environment))
    assert await rig.version() == 1
    assert await rig.table() == by_key(things)
    assert [load.state for load in await rig.ledger()] == [LoadState.RUNNING, LoadState.SUCCEEDED]


@pytest.mark.slow
async def test_stopped_process_hands_back_at_once_what_it_cannot_finish(
    wired: tuple[Rig, dict[str, str]], tmp_path: Path
) -> None:
    rig, environment = wired
    environment["PENSTOCK_VISIBILITY_TIMEOUT_S"] = "600"
    # No receive is under way then: the emulator would hand the message to the one that the stop breaks off.
    environment["PENSTOCK_LOAD_CONCURRENCY"] = "1"
    things = many(1_000)
    await rig.put(things)
    async with rig.locked_dataset(), service(environment, tmp_path / "first.log") as first:
        await until(lambda: _at(rig, "merging"))
        first.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await first.wait() == 0
    assert [load.state for load in await rig.ledger()] == [LoadState.ABANDONED]
    async with service(environment, tmp_path / "second.log"):
        await until(lambda: _has(rig, LoadState.SUCCEEDED))
    assert await rig.version() == 1
    assert await rig.table() == by_key(things)


async def test_stopped_process_finishes_what_it_can(wired: tuple[Rig, dict[str, str]], tmp_path: Path) -> None:
    rig, environment = wired
    environment["PENSTOCK_DRAIN_S"] = "30"
    await rig.put(many(1_000))
    async with service(environment, tmp_path / "service.log") as process:
        async with rig.locked_dataset():
            await until(lambda: _at(rig, "merging"))
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    assert [load.state for load in await rig.ledger()] == [LoadState.SUCCEEDED]
    assert await _queue_is_empty(environment)


async def _has(rig: Rig, state: LoadState) -> bool:
    return any(load.state is state for load in await rig.ledger())


async def _at(rig: Rig, moment: str) -> bool:
    condition = {"staging": "query ILIKE 'COPY%' AND state = 'active'", "merging": "wait_event_type = 'Lock'"}[moment]
    connection = await asyncpg.connect(rig.lab.url, timeout=10)
    try:
        statement = f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {condition}"
        return bool(await connection.fetchval(statement))
    finally:
        await connection.close(timeout=10)


async def _queue_is_empty(environment: Mapping[str, str]) -> bool:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    async with open_client("sqs", access_of(environment)) as sqs:
        answer = await sqs.get_queue_attributes(QueueUrl=environment["PENSTOCK_QUEUE_URL"], AttributeNames=names)
    return set(answer["Attributes"].values()) == {"0"}


def access_of(environment: Mapping[str, str]) -> AwsAccess:
    return AwsAccess(
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region=environment["AWS_REGION"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )

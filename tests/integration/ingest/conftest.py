"""A database, a bucket and a loader per test; Postgres and the emulator are shared by a test process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ingest_service.objects import ReadPolicy
from ingest_service.sources import sources_by_name
from tests.integration.consumer.conftest import FAST, access, bucket, emulator, proxy, s3, wiring
from tests.integration.ingest.rig import GatedStore, Rig, ingest_pool
from tests.integration.merge.conftest import lab, lab_template
from tests.integration.merge.lab import Lab

__all__ = ["access", "bucket", "emulator", "lab", "lab_template", "proxy", "s3", "wiring"]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture
async def rig(lab: Lab, s3: Any, bucket: str, executor: ThreadPoolExecutor) -> AsyncIterator[Rig]:
    policy = ReadPolicy(missing_retries_s=(0.01,), resume_backoff=FAST)
    async with asyncio.timeout(100), ingest_pool(lab) as pool:
        yield Rig(
            lab=lab,
            s3=s3,
            bucket=bucket,
            pool=pool,
            store=GatedStore(s3, policy),
            sources=sources_by_name(["things"], [bucket, "no-such-bucket"]),
            executor=executor,
        )

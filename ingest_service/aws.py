"""Opens S3 and SQS clients with the retries and timeouts that the ingest service relies on.

Everything not given is found by botocore itself (AWS_* variables, shared files, instance and pod roles).
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aioboto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoRegionError

from shared.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsAccess:
    """Where AWS is and who we are there; None leaves it to botocore."""

    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)


@asynccontextmanager
async def open_client(
    service: Literal["s3", "sqs"],
    access: AwsAccess,
    *,
    read_timeout_s: float = 30,
    connect_timeout_s: float = 5,
    max_attempts: int = 3,
    max_connections: int = 50,
) -> AsyncIterator[Any]:
    """An aiobotocore client for the service. Raises ConfigError where region or profile cannot be resolved.

    `read_timeout_s` must exceed the long poll of SQS. `max_connections` must exceed what runs at once: a long poll and
    every body being read hold one each, and a heartbeat that waits for a connection loses its message.
    """
    config = Config(
        connect_timeout=connect_timeout_s,
        read_timeout=read_timeout_s,
        retries={"mode": "standard", "total_max_attempts": max_attempts},
        max_pool_connections=max_connections,
        # The reader asks for checksums itself, on whole bodies only: on a range some S3 implementations answer with the
        # checksum of the whole object.
        response_checksum_validation="when_required",
    )
    async with AsyncExitStack() as stack:
        yield await _opened(service, access, config, stack)


@functools.cache
def _session() -> aioboto3.Session:
    """One for all clients: each reads botocore's 3 MB of JSON anew, 0.2 s of CPU a client."""
    return aioboto3.Session()


async def _opened(service: str, access: AwsAccess, config: Config, stack: AsyncExitStack) -> Any:
    client = _session().client(
        service,
        endpoint_url=access.endpoint_url,
        region_name=access.region,
        aws_access_key_id=access.access_key_id,
        aws_secret_access_key=access.secret_access_key,
        config=config,
    )
    try:
        return await stack.enter_async_context(client)
    except NoRegionError as exc:
        raise ConfigError("no AWS region: set AWS_DEFAULT_REGION", reason="AWS_REGION_MISSING") from exc
    except (BotoCoreError, ValueError) as exc:
        raise ConfigError(f"the AWS settings cannot be used: {exc}", reason="AWS_CONFIG_INVALID") from exc

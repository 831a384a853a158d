"""The self-check against a real emulator, and as `python -m ingest_service --check` prints it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from ingest_service.aws import AwsAccess, open_client
from ingest_service.consumer import Queue
from ingest_service.findings import Finding, Weight
from ingest_service.self_check import SelfCheck
from ingest_service.sources import Source, Sources
from shared.local.emulator import Emulator, Wiring
from tests.integration.consumer.flaky_proxy import FlakyProxy, Refusal


@pytest.fixture
def wiring(emulator: Emulator) -> Wiring:
    """A bucket and queue as they should be."""
    return emulator.wire(f"good-{uuid.uuid4().hex[:12]}")


def sources(*buckets: str) -> Sources:
    return Sources(sources=tuple(Source(dataset="d", bucket=bucket, prefix="in/") for bucket in buckets))


async def found(s3: Any, sqs: Any, queue_url: str, *buckets: str, timeout_s: float = 30.0) -> list[Finding]:
    looking = SelfCheck(s3=s3, queue=Queue(sqs, queue_url), sources=sources(*buckets), visibility_timeout_s=60)
    return await looking.run(timeout_s)


async def test_good_setup_has_no_finding_with_and_without_objects(s3: Any, sqs: Any, wiring: Wiring) -> None:
    assert await found(s3, sqs, wiring.queue_url, wiring.bucket) == []
    for body in (b"x", b""):
        await s3.put_object(Bucket=wiring.bucket, Key="in/a.csv", Body=body)
        assert await found(s3, sqs, wiring.queue_url, wiring.bucket) == []


async def test_queue_or_bucket_that_does_not_exist_is_an_error(s3: Any, sqs: Any, wiring: Wiring) -> None:
    nowhere = wiring.queue_url + "-not"
    lines = await found(s3, sqs, nowhere, "no-such-bucket", wiring.bucket)
    assert [finding.weight for finding in lines] == [Weight.ERROR, Weight.ERROR]
    assert "bucket 'no-such-bucket' does not exist" in lines[0].line
    assert f"queue {nowhere} does not exist" in lines[1].line
    assert "correct PENSTOCK_QUEUE_URL" in lines[1].line


async def test_bucket_that_tells_the_queue_nothing_is_named(s3: Any, sqs: Any, wiring: Wiring, bucket: str) -> None:
    (finding,) = await found(s3, sqs, wiring.queue_url, wiring.bucket, bucket)
    assert finding.weight is Weight.WARNING
    assert f"bucket {bucket} does not tell the queue of s3:ObjectCreated:*" in finding.line


async def test_dead_letter_queue_that_forgets_or_is_gone_is_named(s3: Any, sqs: Any, wiring: Wiring) -> None:
    await sqs.set_queue_attributes(QueueUrl=wiring.dead_letter_queue_url, Attributes={"MessageRetentionPeriod": "60"})
    (finding,) = await found(s3, sqs, wiring.queue_url, wiring.bucket)
    assert "keeps messages 60 s from their arrival" in finding.line
    await sqs.delete_queue(QueueUrl=wiring.dead_letter_queue_url)
    (finding,) = await found(s3, sqs, wiring.queue_url, wiring.bucket)
    assert (finding.weight, "does not exist" in finding.line) == (Weight.WARNING, True)


async def test_objects_that_may_not_be_read_are_an_error_and_what_may_not_be_asked_is_none(
    access: AwsAccess, sqs: Any, wiring: Wiring, proxy: FlakyProxy
) -> None:
    through = dataclasses.replace(access, endpoint_url=proxy.endpoint_url)
    async with open_client("s3", through) as s3:
        proxy.refusals = [Refusal(matching="?notification"), Refusal(matching="list-type=2")]
        lines = await found(s3, sqs, wiring.queue_url, wiring.bucket)
        assert [finding.weight for finding in lines] == [Weight.WARNING, Weight.UNKNOWN]
        assert f"allow s3:ListBucket on arn:aws:s3:::{wiring.bucket}" in lines[0].line
        assert f"the notifications of bucket {wiring.bucket} could not be checked" in lines[1].line
        assert "allow s3:GetBucketNotification" in lines[1].line
        proxy.refusals = [Refusal(matching=f"GET /{wiring.bucket}/in/")]
        (finding,) = await found(s3, sqs, wiring.queue_url, wiring.bucket)
        assert finding.weight is Weight.ERROR
        assert "allow s3:GetObject" in finding.line


async def test_one_object_that_may_not_be_read_is_no_error(
    access: AwsAccess, s3: Any, sqs: Any, wiring: Wiring, proxy: FlakyProxy
) -> None:
    """A key of KMS may be in the way of it alone; the permission is told by a name that nobody has."""
    await s3.put_object(Bucket=wiring.bucket, Key="in/a.csv", Body=b"x")
    async with open_client("s3", dataclasses.replace(access, endpoint_url=proxy.endpoint_url)) as through:
        for refused, weight in (("in/a.csv", Weight.WARNING), ("in/.penstock", Weight.ERROR), ("in/", Weight.ERROR)):
            proxy.refusals = [Refusal(matching=f"GET /{wiring.bucket}/{refused}")]
            (finding,) = await found(through, sqs, wiring.queue_url, wiring.bucket)
            assert finding.weight is weight
            assert "allow s3:GetObject" in finding.line


async def test_what_cannot_be_reached_or_does_not_answer_is_unknown(
    access: AwsAccess, wiring: Wiring, proxy: FlakyProxy
) -> None:
    through = dataclasses.replace(access, endpoint_url=proxy.endpoint_url)
    async with (
        open_client("s3", through, max_attempts=1) as s3,
        open_client("sqs", through, max_attempts=1) as sqs,
    ):
        with proxy.holding("?notification"):
            (finding,) = await found(s3, sqs, wiring.queue_url, wiring.bucket, timeout_s=0.5)
            assert "were not checked to the end within 0.5 s" in finding.line
        await proxy.down()
        lines = await found(s3, sqs, wiring.queue_url, wiring.bucket)
    assert {finding.weight for finding in lines} == {Weight.UNKNOWN}


async def check(emulator: Emulator, **settings: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command."""
    environ = {
        **emulator.environment(),
        "PENSTOCK_DATABASE_URL": "postgresql://u:p@nowhere.invalid/db",
        "PENSTOCK_TLS": "off",
        "PATH": os.environ["PATH"],
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ingest_service", "--check"),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_check_prints_sources_and_findings_and_succeeds(
    emulator: Emulator, wiring: Wiring, bucket: str, tmp_path: Path
) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(
        f"sources: [{{dataset: airports, bucket: {wiring.bucket}}},"
        f"{{dataset: airports, bucket: {bucket}, glob: 'a/*'}}]"
    )
    code, output, errors = await check(emulator, PENSTOCK_SOURCES=str(path), PENSTOCK_QUEUE_URL=wiring.queue_url)
    assert (code, errors) == (0, "")
    assert f"source: s3://{bucket}/ glob a/* -> airports\n" in output
    assert f"warning: bucket {bucket} does not tell the queue of" in output
    assert output.count("warning:") == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sources: [{dataset: nope, bucket: lake}]", ":1: sources[0].dataset: no contract has the dataset 'nope'"),
        (None, "cannot be read"),
    ],
)
async def test_check_of_sources_that_do_not_work_says_why_and_fails(
    emulator: Emulator, tmp_path: Path, text: str | None, problem: str
) -> None:
    path = tmp_path / "sources.yaml"
    if text:
        path.write_text(text)
    code, _, errors = await check(emulator, PENSTOCK_SOURCES=str(path), PENSTOCK_QUEUE_URL="http://nowhere.invalid/q")
    assert code == 2
    assert errors.startswith(f"error: {path}")
    assert problem in errors


async def test_check_of_a_queue_that_does_not_exist_fails(emulator: Emulator, wiring: Wiring) -> None:
    nowhere = wiring.queue_url + "-not"
    code, _, errors = await check(emulator, PENSTOCK_BUCKET=wiring.bucket, PENSTOCK_QUEUE_URL=nowhere)
    assert code == 2
    assert errors.startswith(f"error: queue {nowhere} does not exist")

"""The emulator's wiring: what is put into the bucket is told in the queue, and nobody else can reach it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError
from shared.local.emulator import Emulator, Wiring, emulator_program

DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture(scope="module")
def wiring(emulator: Emulator) -> Wiring:
    return emulator.wire("wired", max_receive_count=1, visibility_timeout_s=1)


@pytest.fixture
def s3(emulator: Emulator) -> Iterator[Any]:
    with closing(emulator.client("s3")) as client:
        yield client


@pytest.fixture
def sqs(emulator: Emulator) -> Iterator[Any]:
    with closing(emulator.client("sqs")) as client:
        yield client


def receive(sqs: Any, queue_url: str, wanted: str) -> dict[str, Any]:
    """The first record of an event of that name; other messages are left to become visible again."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        answer = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=1, WaitTimeSeconds=1)
        for message in answer.get("Messages", []):
            records = json.loads(message["Body"]).get("Records", [])
            if records and records[0]["eventName"].startswith(wanted):
                sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
                record: dict[str, Any] = records[0]
                return record
    raise AssertionError(f"no {wanted} in {queue_url}")


def test_put_and_delete_arrive_in_the_queue_with_version_and_sequencer(s3: Any, sqs: Any, emulator: Emulator) -> None:
    wiring = emulator.wire("events")
    put = s3.put_object(Bucket="events", Key="airports/a b.csv", Body=b"icao\n")
    created = receive(sqs, wiring.queue_url, "ObjectCreated")["s3"]
    assert created["bucket"]["name"] == "events"
    assert created["object"]["key"] == "airports/a+b.csv"
    assert created["object"]["versionId"] == put["VersionId"]
    s3.delete_object(Bucket="events", Key="airports/a b.csv")
    removed = receive(sqs, wiring.queue_url, "ObjectRemoved")["s3"]
    assert removed["object"]["sequencer"] > created["object"]["sequencer"]


def test_message_that_nobody_handles_ends_in_the_dead_letter_queue(sqs: Any, wiring: Wiring) -> None:
    sqs.send_message(QueueUrl=wiring.queue_url, MessageBody="not json")
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        sqs.receive_message(QueueUrl=wiring.queue_url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        dead = sqs.receive_message(QueueUrl=wiring.dead_letter_queue_url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        if any(message["Body"] == "not json" for message in dead.get("Messages", [])):
            return
    raise AssertionError("the message never came")


def test_emulator_listens_on_loopback_only(emulator: Emulator) -> None:
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = {line.split()[1] for line in listening if line.split()[3] == "0A"}
    port = f"{emulator.port:04X}"
    assert {address for address in addresses if address.endswith(f":{port}")} == {f"0100007F:{port}"}


def test_stopped_emulator_leaves_no_port(tmp_path: Path) -> None:
    with Emulator(tmp_path) as emulator:
        port = emulator.port
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_setting_that_names_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a program"):
        emulator_program({"PENSTOCK_EMULATOR": str(tmp_path / "nothing")})

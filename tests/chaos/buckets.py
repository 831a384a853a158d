"""Two real buckets, one of them versioned, what is known to lie in them, and their events on the way to the queue.

S3's own notifications arrive in a queue that no process reads. From there they are handed on: late, in any order, more
than once, several in one message.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ingest_service.ledger.records import ObjectVersion
from shared.local.emulator import Emulator, notify, queue_arn
from tests.chaos.steps import Delete, DeleteVersion, Deliver, Put, Repeat
from tests.e2e.running_stack import eventually
from tests.integration.ingest.rig import csv_of
from tests.integration.merge.fold import Address, Content
from tests.integration.merge.lab import Thing

_KEYS = ("a.csv", "b.csv")
_BATCH = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What a delete leaves in a versioned bucket."""

    version_id: str


@dataclass(kw_only=True)
class Buckets:
    """See above. `folder` keeps the objects of one sequence from those of the others.

    `known`: every version that was ever put. `returning`: objects of which something was removed, so that a version
    may come back.
    """

    versioned: str
    plain: str
    outbox_url: str
    s3: Any
    sqs: Any
    folder: str = ""
    known: dict[tuple[Address, tuple[object, ...]], Content] = field(default_factory=dict)
    returning: set[Address] = field(default_factory=set)
    _stacks: dict[Address, list[Content | Marker]] = field(default_factory=dict)
    _caused: int = 0
    _waiting: list[Mapping[str, Any]] = field(default_factory=list)
    _delivered: list[Mapping[str, Any]] = field(default_factory=list)

    def begin(self, folder: str) -> None:
        """Forgets what lies there: the next sequence has a folder of its own."""
        self.folder = folder
        self.known, self.returning, self._stacks = {}, set(), {}
        self._waiting, self._delivered = [], []
        self._caused = 0

    @property
    def present(self) -> dict[Address, Content]:
        """The objects that a reader of the buckets sees now."""
        tops = {address: stack[-1] for address, stack in self._stacks.items() if stack}
        return {address: top for address, top in tops.items() if isinstance(top, Content)}

    def put(self, step: Put) -> None:
        bucket, key = address = self._address(step.place)
        things = [Thing(owner="o", number=number, label=label) for number, label in step.labels.items()]
        self.s3.put_object(Bucket=bucket, Key=key, Body=csv_of(things).encode())
        head = self.s3.head_object(Bucket=bucket, Key=key)
        version = ObjectVersion(
            bucket=bucket,
            key=key,
            version_id=head.get("VersionId"),
            etag=head["ETag"].strip('"'),
            last_modified=head["LastModified"],
        )
        content = Content(version=version, things=things)
        self.known[address, content.identity] = content
        older = self._stacks.get(address, []) if bucket == self.versioned else []
        self._stacks[address] = [*older, content]
        self._caused += 1

    def delete(self, step: Delete) -> None:
        bucket, key = address = self._address(step.place)
        if address not in self.present:
            return
        answer = self.s3.delete_object(Bucket=bucket, Key=key)
        if bucket == self.versioned:
            self._stacks[address].append(Marker(version_id=answer["VersionId"]))
        else:
            del self._stacks[address]
        self._removed(address)

    def delete_version(self, step: DeleteVersion) -> None:
        bucket, key = address = self._address(step.place)
        stack = self._stacks.get(address)
        if not stack:
            return
        gone = stack.pop(-1 - step.back % len(stack))
        version_id = gone.version_id if isinstance(gone, Marker) else gone.version.version_id
        self.s3.delete_object(Bucket=bucket, Key=key, VersionId=version_id)
        self._removed(address)

    def deliver(self, step: Deliver, queue_url: str) -> None:
        """Hands on some of the events that wait."""
        self._collect()
        events = _shuffled(self._waiting, step.shuffle)
        chosen = events[: round(len(events) * step.share)]
        self._waiting = [event for event in events if event not in chosen]
        self._delivered += chosen
        messages = [chosen] if step.together else [[event] for event in chosen]
        self._send(queue_url, [records for records in messages if records for _ in range(step.copies)])

    def repeat(self, step: Repeat, queue_url: str) -> None:
        """Hands on events again that were handed on before."""
        again = _shuffled(self._delivered, step.shuffle)[: step.count]
        self._send(queue_url, [[event] for event in again])

    def _address(self, place: int) -> Address:
        bucket = (self.versioned, self.plain)[place // len(_KEYS)]
        return bucket, f"{self.folder}/{_KEYS[place % len(_KEYS)]}"

    def _removed(self, address: Address) -> None:
        self._caused += 1
        self.returning.add(address)

    def _collect(self) -> None:
        """Every event of what was done so far has come."""
        eventually(lambda: self._receive() == self._caused)

    def _receive(self) -> int:
        """How many events of this sequence came so far. What announces the bucket's notifications is none."""
        if len(self._waiting) + len(self._delivered) < self._caused:
            answer = self.sqs.receive_message(QueueUrl=self.outbox_url, MaxNumberOfMessages=_BATCH, WaitTimeSeconds=1)
            for message in answer.get("Messages", ()):
                self._waiting += json.loads(message["Body"]).get("Records", ())
                self.sqs.delete_message(QueueUrl=self.outbox_url, ReceiptHandle=message["ReceiptHandle"])
        return len(self._waiting) + len(self._delivered)

    def _send(self, queue_url: str, messages: list[list[Mapping[str, Any]]]) -> None:
        for begin in range(0, len(messages), _BATCH):
            bodies = (json.dumps({"Records": records}) for records in messages[begin : begin + _BATCH])
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
            self.sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)


def _shuffled(events: list[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]:
    """In an order that follows from the seed, whatever order they came in."""
    ordered = sorted(events, key=lambda event: event["s3"]["object"]["sequencer"])
    random.Random(seed).shuffle(ordered)
    return ordered


@contextmanager
def open_buckets(emulator: Emulator) -> Iterator[Buckets]:
    """New buckets whose events wait to be handed on."""
    s3, sqs = emulator.client("s3"), emulator.client("sqs")
    try:
        name = f"states-{uuid.uuid4().hex[:12]}"
        versioned = emulator.wire(name)
        s3.create_bucket(Bucket=f"{name}-plain")
        notify(s3, f"{name}-plain", queue_arn(sqs, versioned.queue_url))
        yield Buckets(versioned=name, plain=f"{name}-plain", outbox_url=versioned.queue_url, s3=s3, sqs=sqs)
    finally:
        s3.close()
        sqs.close()

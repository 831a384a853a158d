"""Reads the body of an SQS message into the S3 events it carries. Pure: text in, values out.

Must never guess: a body of no known shape raises `UnparsableBody`, so that it ends in the dead-letter queue and alerts.
"""

from __future__ import annotations

import enum
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

import orjson

_MAX_INT64 = 2**63 - 1


class UnparsableBody(ValueError):
    """The body is not JSON, has no known shape, or lacks what its shape promises."""


class EventKind(enum.Enum):
    """What happened to the object."""

    CREATED = "CREATED"
    REMOVED = "REMOVED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEvent:
    """One object was created or removed.

    `key` is decoded. `sequencer` is upper-case hex and orders events of one (bucket, key) only, see sequencer.py.
    `size_bytes` is what the event claims; the GET is the truth.
    """

    bucket: str
    key: str
    kind: EventKind
    version_id: str | None = None
    sequencer: str | None = None
    size_bytes: int | None = None
    event_name: str
    event_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class S3TestEvent:
    """What S3 sends once when a bucket notification is configured."""

    bucket: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent:
    """A well-formed notification that does not change what an object holds (tagging, restore, replication ...)."""

    event_name: str


Event = ObjectEvent | S3TestEvent | UnknownEvent
Document = Mapping[str, Any]


def parse_body(body: str) -> list[Event]:
    """The events in one SQS message body, in order; never empty. Raises UnparsableBody.

    Shapes: S3 direct (also what SNS raw delivery gives), SNS-wrapped, EventBridge.
    """
    return _read(_json_object(body), _SHAPES)


def _json_object(text: str) -> Document:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise UnparsableBody(f"not JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise UnparsableBody(f"JSON, but a {type(document).__name__} instead of an object")
    return document


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """One envelope: how to tell it, and how to read it."""

    matches: Callable[[Document], bool]
    read: Callable[[Document], list[Event]]


def _read(document: Document, shapes: tuple[_Shape, ...]) -> list[Event]:
    for shape in shapes:
        if shape.matches(document):
            return shape.read(document)
    names = ", ".join(sorted(map(str, document))[:10])
    raise UnparsableBody(f"neither an S3, SNS nor EventBridge notification; its members: {names or 'none'}")


# --- S3 direct -------------------------------------------------------------------------------------------------------


def _read_records(document: Document) -> list[Event]:
    events = [_read_record(record) for record in document["Records"]]
    return events or [UnknownEvent(event_name="no records")]


def _read_record(record: object) -> Event:
    if not isinstance(record, dict) or not isinstance(record.get("eventName"), str):
        raise UnparsableBody("a record without an eventName")
    # Minor versions only add members; a new major version may change the meaning of those we read.
    version = record.get("eventVersion", "2.0")
    if not str(version).startswith("2."):
        raise UnparsableBody(f"eventVersion {version!r}: only 2.x is known")
    # MinIO and Ceph keep the `s3:` that AWS drops.
    name = record["eventName"].removeprefix("s3:")
    kind = _kind_of(name)
    if kind is None:
        return UnknownEvent(event_name=name)
    return _object_event(
        kind,
        name,
        bucket=_member(record, "s3", "bucket", "name"),
        key=_decoded(_member(record, "s3", "object", "key")),
        facts=record["s3"]["object"],
        version_member="versionId",
        time=record.get("eventTime"),
    )


def _kind_of(name: str) -> EventKind | None:
    family = name.partition(":")[0]
    return {
        "ObjectCreated": EventKind.CREATED,
        "ObjectRemoved": EventKind.REMOVED,
        # Deletes by a lifecycle rule are an event family of their own, not ObjectRemoved.
        "LifecycleExpiration": EventKind.REMOVED,
    }.get(family)


def _decoded(key: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as exc:
        raise UnparsableBody(f"the key {key!r} is not URL-encoded UTF-8") from exc


def _read_test_event(document: Document) -> list[Event]:
    return [S3TestEvent(bucket=str(document.get("Bucket", "")))]


# --- SNS and EventBridge ---------------------------------------------------------------------------------------------


def _read_sns(document: Document) -> list[Event]:
    if document["Type"] != "Notification":
        return [UnknownEvent(event_name=f"sns:{document['Type']}")]
    if not isinstance(document.get("Message"), str):
        raise UnparsableBody("an SNS notification without a Message")
    return _read(_json_object(document["Message"]), _INNER_SHAPES)


def _read_eventbridge(document: Document) -> list[Event]:
    name = str(document["detail-type"])
    kind = {"Object Created": EventKind.CREATED, "Object Deleted": EventKind.REMOVED}.get(name)
    if document["source"] != "aws.s3" or kind is None:
        return [UnknownEvent(event_name=f"{document['source']}: {name}")]
    event = _object_event(
        kind,
        name,
        bucket=_member(document, "detail", "bucket", "name"),
        # EventBridge keys are not URL-encoded: decoding one would turn `a+b` into another object.
        key=_member(document, "detail", "object", "key"),
        facts=document["detail"]["object"],
        version_member="version-id",
        time=document.get("time"),
    )
    return [event]


_INNER_SHAPES = (
    _Shape(matches=lambda d: isinstance(d.get("Records"), list), read=_read_records),
    _Shape(matches=lambda d: d.get("Event") == "s3:TestEvent", read=_read_test_event),
    _Shape(matches=lambda d: {"source", "detail-type", "detail"} <= d.keys(), read=_read_eventbridge),
)
_SHAPES = (*_INNER_SHAPES, _Shape(matches=lambda d: {"Type", "TopicArn"} <= d.keys(), read=_read_sns))


# --- members of an object --------------------------------------------------------------------------------------------


def _object_event(
    kind: EventKind, name: str, *, bucket: str, key: str, facts: Document, version_member: str, time: object
) -> ObjectEvent:
    return ObjectEvent(
        bucket=bucket,
        key=_storable(key),
        kind=kind,
        version_id=_text_or_none(facts.get(version_member)),
        sequencer=_sequencer(facts.get("sequencer")),
        size_bytes=_size(facts.get("size")),
        event_name=name,
        event_time=_time(time),
    )


def _member(document: Document, *path: str) -> str:
    value: Any = document
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value:
        raise UnparsableBody(f"{'.'.join(path)} is missing")
    return value


def _storable(key: str) -> str:
    # No ledger row could name it: Postgres text holds no NUL.
    if "\x00" in key:
        raise UnparsableBody("the key holds a NUL character")
    return key


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _sequencer(value: object) -> str | None:
    """Anything but hex, or only zeros, cannot order events and counts as absent."""
    text = (_text_or_none(value) or "").upper()
    return text if text.strip("0") and set(text) <= set(string.hexdigits) else None


def _size(value: object) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INT64
    return value if known and isinstance(value, int) else None


def _time(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment

"""Every notification shape, written after the AWS, MinIO and Ceph documentation."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.events import (
    EventKind,
    ObjectEvent,
    S3TestEvent,
    UnknownEvent,
    UnparsableBody,
    parse_body,
)


def record(name: str = "ObjectCreated:Put", **changes: Any) -> dict[str, Any]:
    """A record as AWS writes it; `changes` replace members of the object."""
    return {
        "eventVersion": changes.pop("eventVersion", "2.1"),
        "eventSource": "aws:s3",
        "awsRegion": "eu-west-1",
        "eventTime": "2024-05-06T07:08:09.123Z",
        "eventName": name,
        "userIdentity": {"principalId": "AWS:EXAMPLE"},
        "requestParameters": {"sourceIPAddress": "192.0.2.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "id2"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "all",
            "bucket": {"name": "lake", "ownerIdentity": {"principalId": "A1"}, "arn": "arn:aws:s3:::lake"},
            "object": {
                "key": "airports/2024/a.csv",
                "size": 1024,
                "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                "sequencer": "0055AED6DCD90281E5",
                **changes,
            },
        },
    }


def body(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


def only(text: str) -> Any:
    (event,) = parse_body(text)
    return event


def eventbridge(detail_type: str = "Object Created", **changes: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": detail_type,
        "source": changes.pop("source", "aws.s3"),
        "account": "111122223333",
        "time": "2021-11-12T00:00:00Z",
        "region": "ca-central-1",
        "resources": ["arn:aws:s3:::lake"],
        "detail": {
            "version": "0",
            "bucket": {"name": "lake"},
            "object": {
                "key": "airports/a+b%20c.csv",
                "size": 5,
                "etag": "b1946ac92492d2347c6235b4d2611184",
                "version-id": "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
                "sequencer": "00617F08299329D189",
                **changes,
            },
            "request-id": "N4N7GDK58NMKJ12R",
            "requester": "123456789012",
            "reason": "PutObject",
        },
    }


def sns(message: str, kind: str = "Notification") -> str:
    envelope = {
        "Type": kind,
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:eu-west-1:123456789012:uploads",
        "Subject": "Amazon S3 Notification",
        "Message": message,
        "Timestamp": "2024-05-06T07:08:09.456Z",
    }
    return json.dumps(envelope)


def test_aws_record_is_read_in_full() -> None:
    assert only(body(record())) == ObjectEvent(
        bucket="lake",
        key="airports/2024/a.csv",
        kind=EventKind.CREATED,
        version_id="096fKKXTRTtl3on89fVO.nfljtsv6qko",
        sequencer="0055AED6DCD90281E5",
        size_bytes=1024,
        event_name="ObjectCreated:Put",
        event_time=datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=UTC),
    )


@pytest.mark.parametrize("version", ["2.0", "2.1", "2.2", "2.3", "2.6", "2.99"])
def test_any_2x_event_version_is_accepted(version: str) -> None:
    assert only(body(record(eventVersion=version))).key == "airports/2024/a.csv"


@pytest.mark.parametrize("version", ["1.0", "3.0", "20.1", 3])
def test_another_major_event_version_is_unparsable(version: Any) -> None:
    with pytest.raises(UnparsableBody, match="eventVersion"):
        parse_body(body(record(eventVersion=version)))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ObjectCreated:Put", EventKind.CREATED),
        ("ObjectCreated:Post", EventKind.CREATED),
        ("ObjectCreated:Copy", EventKind.CREATED),
        ("ObjectCreated:CompleteMultipartUpload", EventKind.CREATED),
        ("s3:ObjectCreated:Put", EventKind.CREATED),
        ("ObjectRemoved:Delete", EventKind.REMOVED),
        ("ObjectRemoved:DeleteMarkerCreated", EventKind.REMOVED),
        ("s3:ObjectRemoved:Delete", EventKind.REMOVED),
        ("LifecycleExpiration:Delete", EventKind.REMOVED),
        ("LifecycleExpiration:DeleteMarkerCreated", EventKind.REMOVED),
    ],
)
def test_event_name_tells_created_from_removed(name: str, kind: EventKind) -> None:
    assert only(body(record(name))).kind is kind


@pytest.mark.parametrize(
    "name", ["ObjectRestore:Completed", "ObjectTagging:Put", "ReducedRedundancyLostObject", "s3:ObjectAccessed:Get"]
)
def test_other_event_families_are_unknown(name: str) -> None:
    assert only(body(record(name))) == UnknownEvent(event_name=name.removeprefix("s3:"))


def test_unknown_event_needs_no_object() -> None:
    bare = {"eventVersion": "2.1", "eventName": "IntelligentTiering"}
    assert only(body(bare)) == UnknownEvent(event_name="IntelligentTiering")


@pytest.mark.parametrize(
    ("encoded", "key"),
    [
        ("airports/a+b.csv", "airports/a b.csv"),
        ("airports/a%2Bb.csv", "airports/a+b.csv"),
        ("airports/a%20b.csv", "airports/a b.csv"),
        ("airports%2Fa.csv", "airports/a.csv"),
        ("airports/%C3%A9%2525.csv", "airports/é%25.csv"),
        ("airports/%F0%9F%9B%AB.csv", "airports/🛫.csv"),
    ],
)
def test_s3_keys_are_url_decoded_once(encoded: str, key: str) -> None:
    assert only(body(record(key=encoded))).key == key


@pytest.mark.parametrize("encoded", ["airports/%ff.csv", "airports/a%00b.csv"])
def test_key_that_cannot_be_stored_is_unparsable(encoded: str) -> None:
    with pytest.raises(UnparsableBody, match="key"):
        parse_body(body(record(key=encoded)))


def test_several_records_keep_their_order() -> None:
    events = parse_body(body(record(key="a"), record("ObjectRestore:Post"), record("ObjectRemoved:Delete", key="b")))
    assert [getattr(event, "key", None) for event in events] == ["a", None, "b"]


def test_moto_record_without_sequencer_and_version() -> None:
    moto = record(key="airports%2Fa.csv", versionId=None)
    del moto["s3"]["object"]["sequencer"]
    event = only(body(moto))
    assert (event.key, event.version_id, event.sequencer) == ("airports/a.csv", None, None)


def test_minio_record_beside_its_own_members() -> None:
    minio = record("s3:ObjectCreated:Put", key="airports%2Fa.csv", versionId="", sequencer="17d0fbe6bc7e0268")
    minio["eventVersion"] = "2.0"
    minio["eventSource"] = "minio:s3"
    minio["eventTime"] = "2024-05-06T07:08:09.123456789Z"
    event = only(json.dumps({"EventName": "s3:ObjectCreated:Put", "Key": "lake/airports/a.csv", "Records": [minio]}))
    assert (event.key, event.version_id, event.sequencer) == ("airports/a.csv", None, "17D0FBE6BC7E0268")
    assert event.event_time == datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


def test_delete_record_without_size_or_etag() -> None:
    deleted = record("ObjectRemoved:Delete")
    deleted["s3"]["object"] = {"key": "airports/a.csv", "sequencer": "00A"}
    event = only(body(deleted))
    assert (event.size_bytes, event.version_id, event.sequencer) == (None, None, "00A")


@pytest.mark.parametrize("sequencer", ["", "0", "0000", "not-hex", None, 7])
def test_useless_sequencer_counts_as_absent(sequencer: Any) -> None:
    assert only(body(record(sequencer=sequencer))).sequencer is None


@pytest.mark.parametrize("size", [-1, "12", None, True, 2**70, 1.5])
def test_implausible_size_counts_as_absent(size: Any) -> None:
    assert only(body(record(size=size))).size_bytes is None


def test_s3_test_event() -> None:
    text = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2014-10-13T15:57:02Z", "Bucket": "b"})
    assert only(text) == S3TestEvent(bucket="b")


def test_sns_wrapped_notification_is_unwrapped() -> None:
    assert only(sns(body(record()))) == only(body(record()))


def test_sns_wrapped_test_event() -> None:
    assert only(sns(json.dumps({"Event": "s3:TestEvent", "Bucket": "b"}))) == S3TestEvent(bucket="b")


def test_sns_subscription_confirmation_is_unknown() -> None:
    assert only(sns("You have chosen to subscribe", "SubscriptionConfirmation")).event_name.startswith("sns:")


def test_sns_inside_sns_is_unparsable() -> None:
    with pytest.raises(UnparsableBody):
        parse_body(sns(sns(body(record()))))


def test_eventbridge_key_is_taken_as_it_is() -> None:
    assert only(json.dumps(eventbridge())) == ObjectEvent(
        bucket="lake",
        key="airports/a+b%20c.csv",
        kind=EventKind.CREATED,
        version_id="IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
        sequencer="00617F08299329D189",
        size_bytes=5,
        event_name="Object Created",
        event_time=datetime(2021, 11, 12, tzinfo=UTC),
    )


def test_eventbridge_delete_is_a_removal() -> None:
    assert only(json.dumps(eventbridge("Object Deleted"))).kind is EventKind.REMOVED


def test_eventbridge_through_sns() -> None:
    assert only(sns(json.dumps(eventbridge()))).key == "airports/a+b%20c.csv"


@pytest.mark.parametrize("other", [eventbridge("Object Tags Added"), eventbridge(source="aws.ec2")])
def test_other_eventbridge_events_are_unknown(other: dict[str, Any]) -> None:
    assert isinstance(only(json.dumps(other)), UnknownEvent)


def test_no_records_is_unknown_rather_than_poison() -> None:
    assert isinstance(only(body()), UnknownEvent)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        "null",
        "{}",
        '{"Records": 1}',
        '{"Records": [1]}',
        '{"Records": [{}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put"}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": "b", "object": {"key": "k"}}}]}',
        '{"Type": "Notification", "TopicArn": "t"}',
        '{"Type": "Notification", "TopicArn": "t", "Message": "hello"}',
        '{"source": "aws.s3", "detail-type": "Object Created", "detail": []}',
        '{"a": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_other_bodies_are_unparsable(text: str) -> None:
    with pytest.raises(UnparsableBody):
        parse_body(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5) | st.just("ObjectCreated:Put"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Records", "eventName", "s3", "object", "bucket", "name", "key", "Type", "TopicArn", "Message"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_parses_or_is_unparsable(document: Any) -> None:
    with contextlib.suppress(UnparsableBody):
        assert parse_body(json.dumps(document))

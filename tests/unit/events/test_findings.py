"""What the self-check says of settings: nothing where they are right, else one line with what to change."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from ingest_service.findings import Weight, coverage_findings, dead_letter_findings, queue_findings
from ingest_service.sources import Source, literal_prefix, literal_suffix

ALL = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"]
ARN = "arn:aws:sqs:eu-central-1:1:events"
GOOD = {
    "RedrivePolicy": json.dumps({"deadLetterTargetArn": ARN, "maxReceiveCount": 25}),
    "MessageRetentionPeriod": "345600",
    "MaximumMessageSize": "262144",
    "DelaySeconds": "0",
}


def test_queue_as_the_readme_asks_for_has_no_finding() -> None:
    assert queue_findings("q", GOOD, 60) == []
    assert dead_letter_findings("q", GOOD, {"MessageRetentionPeriod": "1209600"}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RedrivePolicy": ""}, "queue q has no dead-letter queue"),
        ({"RedrivePolicy": json.dumps({"maxReceiveCount": "5"})}, "after 5 receives, .* set its maxReceiveCount to 20"),
        ({"MessageRetentionPeriod": "60"}, "keeps messages for 60 s: .* set its MessageRetentionPeriod to 345600"),
        ({"MaximumMessageSize": "1024"}, "above 1024 bytes, .* set its MaximumMessageSize to 262144"),
        ({"DelaySeconds": "900"}, "back for 900 s: set its DelaySeconds to 0"),
    ],
)
def test_setting_of_the_queue_that_loses_or_delays_events_is_one_line(change: dict[str, str], words: str) -> None:
    (finding,) = queue_findings("q", GOOD | change, 60)
    assert finding.weight is Weight.WARNING
    assert re.search(words, finding.line)


def test_short_visibility_timeout_names_the_setting() -> None:
    (finding,) = queue_findings("q", GOOD, 5)
    assert finding.line.startswith("PENSTOCK_VISIBILITY_TIMEOUT_S=5: ")


def test_dead_letters_must_be_kept_longer_than_messages() -> None:
    """They keep their age when they are moved: with equal periods they vanish right after."""
    (finding,) = dead_letter_findings("q", GOOD, {"MessageRetentionPeriod": "345600"})
    assert "set its MessageRetentionPeriod above that" in finding.line


def to_queue(events: list[str], arn: str = ARN, **filters: str) -> dict[str, Any]:
    rules = [{"Name": name, "Value": value} for name, value in filters.items()]
    return {"QueueArn": arn, "Events": events, "Filter": {"Key": {"FilterRules": rules}}}


def findings(source: Source, *queues: dict[str, Any], **more: Any) -> list[tuple[Weight, str]]:
    configuration = {"QueueConfigurations": list(queues), **more}
    return [(one.weight, one.line) for one in coverage_findings("lake", [source], configuration, ARN)]


SOURCE = Source(dataset="d", bucket="lake", prefix="in/", suffix=".csv")


@pytest.mark.parametrize(
    "queues",
    [
        [to_queue(ALL)],
        [to_queue(ALL, Prefix="in/", Suffix="csv")],
        [to_queue([event], prefix="in") for event in ALL],
        [
            to_queue([f"s3:ObjectCreated:{kind}" for kind in ("Put", "Post", "Copy", "CompleteMultipartUpload")]),
            to_queue(["s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated", ALL[2]]),
        ],
    ],
)
def test_source_whose_events_all_reach_the_queue_has_no_finding(queues: list[dict[str, Any]]) -> None:
    assert findings(SOURCE, *queues) == []


@pytest.mark.parametrize(
    ("queues", "missing"),
    [
        ([], ", ".join(ALL)),
        ([to_queue(["s3:ObjectCreated:Put", *ALL[1:]])], ALL[0]),
        ([to_queue(ALL[:2])], ALL[2]),
        ([to_queue(ALL, arn="arn:another")], ", ".join(ALL)),
        ([to_queue(ALL, prefix="in/2024/")], ", ".join(ALL)),
        ([to_queue(ALL, suffix=".csv.gz")], ", ".join(ALL)),
    ],
)
def test_events_that_are_not_sent_are_named_with_the_place(queues: list[dict[str, Any]], missing: str) -> None:
    line = f"bucket lake does not tell the queue of {missing} under s3://lake/in/*.csv: add them to its notifications"
    assert findings(SOURCE, *queues) == [(Weight.WARNING, line)]


def test_what_goes_through_sns_or_eventbridge_is_not_judged() -> None:
    topic: dict[str, Any] = {"TopicConfigurations": [{"TopicArn": "t", "Events": ALL}]}
    bridge: dict[str, Any] = {"EventBridgeConfiguration": {}}
    for more in (topic, bridge):
        ((weight, line),) = findings(SOURCE, **more)
        assert weight is Weight.UNKNOWN
        assert "is not checked" in line


@pytest.mark.parametrize(
    ("glob", "prefix", "suffix"),
    [
        ("", "in/", ".csv"),
        ("**/*.csv", "in/", ".csv"),
        ("2024/*/x?.day.csv", "in/2024/", ".day.csv"),
        ("a/**/b.csv", "in/a/", "b.csv"),
        ("[ab]/**", "in/", ".csv"),
        ("a.csv", "in/a.csv", "a.csv"),
    ],
)
def test_filter_of_the_bucket_may_be_as_narrow_as_the_literal_ends_of_a_glob(
    glob: str, prefix: str, suffix: str
) -> None:
    source = Source(dataset="d", bucket="lake", prefix="in/", suffix=".csv", glob=glob)
    assert (literal_prefix(source), literal_suffix(source)) == (prefix, suffix)


def test_of_a_source_of_parts_only_the_events_of_markers_must_reach_the_queue() -> None:
    parts = Source(dataset="d", bucket="lake", prefix="in/", suffix=".csv", glob="day-*/*", parts=True)
    assert findings(parts, to_queue(ALL, prefix="in/", suffix="_SUCCESS")) == []
    ((_, line),) = findings(parts, to_queue(ALL, prefix="in/", suffix=".csv"))
    assert "s3://lake/in/*_SUCCESS" in line

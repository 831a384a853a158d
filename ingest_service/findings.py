"""What the self-check finds in the settings of queue and buckets, a line each that says what to change. Pure."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingest_service.sources import Source, literal_prefix, literal_suffix

# Retries happen within one receive, so what receives are spent on is processes that vanish: evicted, killed.
ENOUGH_RECEIVES = 20
ENOUGH_RETENTION_S = 4 * 24 * 3600
# A key of 1024 bytes, percent-encoded, in an S3 notification inside an SNS envelope.
ENOUGH_MESSAGE_BYTES = 16 * 1024
# Renewed at every third: below this a stall of some seconds gives a message to another process.
ENOUGH_VISIBILITY_S = 30

# docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-event-types-and-destinations.html
_EVENTS: Mapping[str, frozenset[str]] = {
    "s3:ObjectCreated:*": frozenset({"Put", "Post", "Copy", "CompleteMultipartUpload"}),
    "s3:ObjectRemoved:*": frozenset({"Delete", "DeleteMarkerCreated"}),
    "s3:LifecycleExpiration:*": frozenset({"Delete", "DeleteMarkerCreated"}),
}


class Weight(enum.StrEnum):
    """ERROR: the service cannot work. WARNING: something will be lost or late. UNKNOWN: it could not be checked."""

    ERROR = "error"
    WARNING = "warning"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line for whoever runs the service."""

    weight: Weight
    line: str


def warning(line: str) -> Finding:
    """Something will be lost or delayed."""
    return Finding(weight=Weight.WARNING, line=line)


def unknown(line: str) -> Finding:
    """Something could not be looked at."""
    return Finding(weight=Weight.UNKNOWN, line=line)


def error(line: str) -> Finding:
    """The service cannot do its work."""
    return Finding(weight=Weight.ERROR, line=line)


def dead_letter_arn(attributes: Mapping[str, str]) -> str | None:
    """The ARN of the queue's dead-letter queue, of GetQueueAttributes."""
    arn = _redrive(attributes).get("deadLetterTargetArn")
    return str(arn) if arn else None


def queue_findings(name: str, attributes: Mapping[str, str], visibility_timeout_s: int) -> list[Finding]:
    """Of the queue's own attributes (GetQueueAttributes) and of how long messages are asked to be invisible."""
    looks = (_receives, _retention, _message_size, _delay)
    lines = [f"queue {name} {line}" for look in looks if (line := look(attributes))]
    return [warning(line) for line in [*lines, _visibility(visibility_timeout_s)] if line]


def dead_letter_findings(name: str, attributes: Mapping[str, str], dead: Mapping[str, str]) -> list[Finding]:
    """Of the dead-letter queue. On standard queues a message keeps its age when it is moved there
    (docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html)."""
    kept_s, dead_s = (int(each.get("MessageRetentionPeriod", 345_600)) for each in (attributes, dead))
    if dead_s > kept_s:
        return []
    return [
        warning(
            f"the dead-letter queue of {name} keeps messages {dead_s} s from their arrival in {name}, which keeps them "
            f"{kept_s} s: set its MessageRetentionPeriod above that, to 1209600 at best, or they vanish unseen"
        )
    ]


def coverage_findings(
    bucket: str, sources: Iterable[Source], configuration: Mapping[str, Any], queue_arn: str
) -> list[Finding]:
    """Of the bucket's notifications (GetBucketNotificationConfiguration): whether what happens to the objects of its
    sources is told to the queue. What goes through SNS or EventBridge is not followed there."""
    direct = [one for one in configuration.get("QueueConfigurations", ()) if one.get("QueueArn") == queue_arn]
    topics = list(configuration.get("TopicConfigurations", ()))
    bridged = "EventBridgeConfiguration" in configuration
    findings = []
    for prefix, suffix in sorted({(literal_prefix(one), literal_suffix(one)) for one in sources}):
        missing = [name for name in _EVENTS if not _covered(name, prefix, suffix, direct)]
        if not missing:
            continue
        place = f"s3://{bucket}/{prefix}" + (f"*{suffix}" if suffix else "")
        events = ", ".join(missing)
        if bridged or all(_covered(name, prefix, suffix, topics) for name in missing):
            way = "EventBridge" if bridged else "SNS"
            findings.append(
                unknown(f"{events} of {place} go through {way}: whether they reach the queue is not checked")
            )
        else:
            findings.append(
                warning(
                    f"bucket {bucket} does not tell the queue of {events} under {place}: add them to its notifications"
                )
            )
    return findings


def _covered(event: str, prefix: str, suffix: str, configurations: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all of the event's kinds are sent, by one configuration or by several."""
    family = event.removesuffix("*")
    sent = {name for one in configurations if _passes(one, prefix, suffix) for name in one.get("Events", ())}
    return event in sent or _EVENTS[event] <= {name.removeprefix(family) for name in sent}


def _passes(configuration: Mapping[str, Any], prefix: str, suffix: str) -> bool:
    """Whether the filter lets through every key that begins and ends so."""
    rules = configuration.get("Filter", {}).get("Key", {}).get("FilterRules", ())
    wanted = {str(rule["Name"]).lower(): str(rule["Value"]) for rule in rules}
    return prefix.startswith(wanted.get("prefix", "")) and suffix.endswith(wanted.get("suffix", ""))


def _receives(attributes: Mapping[str, str]) -> str:
    redrive = _redrive(attributes)
    if not redrive:
        return "has no dead-letter queue: unreadable messages circulate; give it one with a maxReceiveCount of 25"
    receives = int(redrive.get("maxReceiveCount", 0))
    if receives >= ENOUGH_RECEIVES:
        return ""
    return (
        f"gives a message up after {receives} receives, and every process that is killed at work costs one: "
        f"set its maxReceiveCount to {ENOUGH_RECEIVES} or more"
    )


def _retention(attributes: Mapping[str, str]) -> str:
    kept_s = int(attributes.get("MessageRetentionPeriod", 345_600))
    if kept_s >= ENOUGH_RETENTION_S:
        return ""
    return (
        f"keeps messages for {kept_s} s: events of a longer outage are lost; "
        f"set its MessageRetentionPeriod to {ENOUGH_RETENTION_S} or more"
    )


def _message_size(attributes: Mapping[str, str]) -> str:
    most = int(attributes.get("MaximumMessageSize", 262_144))
    if most >= ENOUGH_MESSAGE_BYTES:
        return ""
    return (
        f"takes no message above {most} bytes, and events of long keys are larger: set its MaximumMessageSize to 262144"
    )


def _delay(attributes: Mapping[str, str]) -> str:
    delay_s = int(attributes.get("DelaySeconds", 0))
    return f"holds every event back for {delay_s} s: set its DelaySeconds to 0" if delay_s else ""


def _visibility(timeout_s: int) -> str:
    if timeout_s >= ENOUGH_VISIBILITY_S:
        return ""
    return (
        f"PENSTOCK_VISIBILITY_TIMEOUT_S={timeout_s}: a process that stalls for some seconds loses its messages to "
        f"another one; set it to {ENOUGH_VISIBILITY_S} or more"
    )


def _redrive(attributes: Mapping[str, str]) -> Mapping[str, Any]:
    policy = attributes.get("RedrivePolicy")
    parsed: Mapping[str, Any] = json.loads(policy) if policy else {}
    return parsed

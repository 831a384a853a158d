"""The S3 and SQS emulator of the local stack (ministack), on 127.0.0.1 and in memory: it starts empty every time.

Runs from a virtual environment of its own, because it pins another botocore than aioboto3 does.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3

from shared.errors import ConfigError
from shared.local.ports import LOOPBACK, free_port
from shared.local.processes import ChildProcess

REGION = "us-east-1"
START_TIMEOUT_S = 30.0
PORT_ATTEMPTS = 5
VISIBILITY_TIMEOUT_S = 60
# A killed process costs a message one receive. The service itself retries within a receive.
MAX_RECEIVE_COUNT = 25
_DEAD_LETTER_RETENTION_S = 14 * 24 * 3600
# Lifecycle deletes are not ObjectRemoved, multipart uploads are not ObjectCreated:Put.
EVENTS = ("s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*")
_CREDENTIALS: Mapping[str, str] = {"AWS_ACCESS_KEY_ID": "penstock", "AWS_SECRET_ACCESS_KEY": "penstock"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """A bucket whose events arrive in a queue, and the queue where messages end that nobody could handle."""

    bucket: str
    queue_url: str
    dead_letter_queue_url: str


def emulator_program(environ: Mapping[str, str] = os.environ) -> Path:
    """The emulator's executable: PENSTOCK_EMULATOR, the one beside this virtual environment, or the one on PATH."""
    if configured := environ.get("PENSTOCK_EMULATOR"):
        if not os.access(configured, os.X_OK):
            raise ConfigError(f"PENSTOCK_EMULATOR={configured} is not a program", reason="NO_EMULATOR")
        return Path(configured).absolute()
    installed = Path(sys.prefix) / "emulator" / "bin" / "ministack"
    if installed.is_file():
        return installed
    if found := shutil.which("ministack", path=environ.get("PATH")):
        return Path(found).absolute()
    raise ConfigError(f"the S3/SQS emulator is not installed in {installed}: run make", reason="NO_EMULATOR")


class Emulator:
    """One emulator process. `directory` takes its log and its scratch files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.port = 0
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process(self) -> ChildProcess:
        """The running process."""
        if self._process is None:
            raise RuntimeError("the emulator is not started")
        return self._process

    @property
    def endpoint_url(self) -> str:
        """For AWS_ENDPOINT_URL."""
        return f"http://{LOOPBACK}:{self.port}"

    def environment(self) -> dict[str, str]:
        """The AWS_* variables with which any SDK talks to this emulator."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            **_CREDENTIALS,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def launch(self) -> None:
        """Starts the process and does not wait for it."""
        self.port = free_port()
        scratch = self.directory / "emulator"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        self._process = ChildProcess(
            "emulator",
            [str(emulator_program())],
            environment=_process_environment(self.port, scratch),
            log_path=self.directory / "logs" / "emulator.log",
            directory=scratch,
            stop_timeout_s=0.0,  # it would wait 3 s for long polls that are open, and has nothing to save
        )
        self._process.start()

    def wait(self) -> None:
        """Returns when it answers; starts it again when another process was faster to take its port."""
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                self.process.wait_until(self.is_healthy, timeout_s=START_TIMEOUT_S)
            except ConfigError:
                if "already in use" not in self.process.log_tail() or attempt == PORT_ATTEMPTS:
                    raise
                self.stop()
                self.launch()
            else:
                return

    def start(self) -> None:
        """launch() and wait()."""
        self.launch()
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Idempotent. What was in the buckets and queues is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def is_healthy(self) -> bool:
        """Whether our process, and not a stranger on its port, answers."""
        if self.process.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/_ministack/health", timeout=2) as response:  # noqa: S310
                return bool(response.status == 200)
        except OSError:
            return False

    def client(self, service: str) -> Any:
        """A boto3 client of that service; the caller closes it."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def wire(
        self,
        bucket: str,
        queue: str | None = None,
        *,
        visibility_timeout_s: int = VISIBILITY_TIMEOUT_S,
        max_receive_count: int = MAX_RECEIVE_COUNT,
    ) -> Wiring:
        """A versioned bucket that notifies a queue with a dead-letter queue. `queue` defaults to `<bucket>-events`."""
        name = queue or f"{bucket}-events"
        with closing(self.client("sqs")) as sqs, closing(self.client("s3")) as s3:
            dead_letter_url = create_queue(
                sqs, f"{name}-dead", {"MessageRetentionPeriod": str(_DEAD_LETTER_RETENTION_S)}
            )
            redrive = {"deadLetterTargetArn": queue_arn(sqs, dead_letter_url), "maxReceiveCount": max_receive_count}
            attributes = {"VisibilityTimeout": str(visibility_timeout_s), "RedrivePolicy": json.dumps(redrive)}
            queue_url = create_queue(sqs, name, attributes)
            create_bucket(s3, bucket, queue_arn(sqs, queue_url))
        return Wiring(bucket=bucket, queue_url=queue_url, dead_letter_queue_url=dead_letter_url)


def create_queue(sqs: Any, name: str, attributes: Mapping[str, str]) -> str:
    """The URL of a queue with these attributes."""
    return str(sqs.create_queue(QueueName=name, Attributes=dict(attributes))["QueueUrl"])


def queue_arn(sqs: Any, queue_url: str) -> str:
    """A queue's ARN."""
    return str(sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])


def create_bucket(s3: Any, bucket: str, notified_arn: str) -> None:
    """A versioned bucket that sends its events to the queue of that ARN."""
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    notify(s3, bucket, notified_arn)


def notify(s3: Any, bucket: str, notified_arn: str) -> None:
    """Has the bucket send its events to the queue of that ARN."""
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": notified_arn, "Events": list(EVENTS)}]},
    )


def _process_environment(port: int, scratch: Path) -> dict[str, str]:
    """Nothing of the caller's: it reads many variables, AWS_* among them. TMPDIR takes its pid file."""
    return {
        "BIND_HOST": LOOPBACK,
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3,sqs,sns,events",
        "LOG_LEVEL": "INFO",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PATH": "/usr/bin:/bin",
        "PYTHONUNBUFFERED": "1",
    }

"""The SQS calls that the consumer makes, with their errors translated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from ingest_service.consumer.model import Message
from shared.errors import FailedPrecondition, NotFound, PenstockError, PermissionDenied, Unavailable

_SQS_ERRORS = (ClientError, BotoCoreError, aiohttp.ClientError, OSError)
# Every way in which SQS says that this receive of the message is over: deleted, expired, or received again elsewhere.
# InvalidParameterValue is also the answer past 12 h.
_LOST = frozenset(
    {
        "AWS.SimpleQueueService.MessageNotInflight",
        "InvalidIdFormat",
        "InvalidParameterValue",
        "MessageNotInflight",
        "ReceiptHandleIsInvalid",
    }
)
MAX_BATCH = 10


class VisibilityLost(FailedPrecondition):
    """The receipt handle is no longer valid: the message is not ours any more."""


class Queue:
    """One SQS queue behind an open aiobotocore client whose read timeout exceeds the long poll."""

    def __init__(self, sqs: Any, url: str) -> None:
        self._sqs = sqs
        self.url = url
        self.name = url.rstrip("/").rpartition("/")[2]

    async def receive(self, limit: int, *, wait_s: int, visibility_timeout_s: int) -> list[Message]:
        """At most `limit` messages, invisible to others for `visibility_timeout_s`."""
        asked_ns = time.time_ns()
        call = self._sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=min(limit, MAX_BATCH),
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=visibility_timeout_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount", "AWSTraceHeader"],
            MessageAttributeNames=["traceparent", "tracestate"],
        )
        response = await self._ask(call, "sqs:ReceiveMessage")
        received_s = asyncio.get_running_loop().time()
        return [_message(one, asked_ns, received_s) for one in response.get("Messages", ())]

    async def set_visibility(self, message: Message, timeout_s: int) -> None:
        """Hides the message for `timeout_s` from now on; 0 shows it at once. Raises VisibilityLost."""
        call = self._sqs.change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=message.receipt_handle, VisibilityTimeout=timeout_s
        )
        await self._ask(call, "sqs:ChangeMessageVisibility")

    async def delete(self, messages: Sequence[Message]) -> list[PenstockError | None]:
        """Deletes up to MAX_BATCH messages; for each None, or why it was not: VisibilityLost, Unavailable. Raises where
        none of them was."""
        entries = [{"Id": str(at), "ReceiptHandle": one.receipt_handle} for at, one in enumerate(messages)]
        call = self._sqs.delete_message_batch(QueueUrl=self.url, Entries=entries)
        answer = await self._ask(call, "sqs:DeleteMessage")
        problems: list[PenstockError | None] = [None] * len(messages)
        for failed in answer.get("Failed", ()):
            code, detail = str(failed.get("Code", "")), str(failed.get("Message", ""))
            problems[int(failed["Id"])] = self._problem(code, detail, "sqs:DeleteMessage")
        return problems

    async def attributes(self) -> Mapping[str, str]:
        """How the queue is set up. Raises NotFound where there is none."""
        call = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])
        attributes: Mapping[str, str] = (await self._ask(call, "sqs:GetQueueAttributes")).get("Attributes", {})
        return attributes

    async def attributes_of(self, arn: str) -> Mapping[str, str]:
        """How another queue, of which we know the ARN only, is set up. Raises NotFound where there is none."""
        *_, account, name = arn.split(":")
        call = self._sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
        answer = await self._ask(call, f"sqs:GetQueueUrl of {name}")
        return await Queue(self._sqs, str(answer["QueueUrl"])).attributes()

    async def _ask(self, call: Awaitable[Any], permission: str) -> Any:
        try:
            return await call
        except _SQS_ERRORS as exc:
            raise self._translate(exc, permission) from exc

    def _translate(self, exc: Exception, permission: str) -> PenstockError:
        if not isinstance(exc, ClientError):
            return Unavailable(f"SQS cannot be reached ({type(exc).__name__}: {exc})", reason="SQS_UNAVAILABLE")
        error = exc.response.get("Error", {})
        return self._problem(str(error.get("Code", "")), str(error.get("Message", "")), permission)

    def _problem(self, code: str, message: str, permission: str) -> PenstockError:
        detail = f"{code}: {message}"
        if code in _LOST:
            return VisibilityLost(f"the message is not ours any more ({detail})", reason="VISIBILITY_LOST")
        if code.endswith(("NonExistentQueue", "QueueDoesNotExist")):
            return NotFound(f"queue {self.url} does not exist ({detail})", reason="QUEUE_NOT_FOUND")
        if "AccessDenied" in code:
            refused = f"{permission} on queue {self.name} was refused ({detail}): allow it, and kms:Decrypt of its key"
            return PermissionDenied(refused, reason="SQS_ACCESS_DENIED", metadata={"permission": permission})
        return Unavailable(f"{permission} on queue {self.name} failed ({detail})", reason="SQS_UNAVAILABLE")


def _message(raw: Mapping[str, Any], asked_ns: int, received_s: float) -> Message:
    attributes = raw.get("Attributes", {})
    headers = {name: str(value.get("StringValue", "")) for name, value in raw.get("MessageAttributes", {}).items()}
    if "AWSTraceHeader" in attributes:
        headers["AWSTraceHeader"] = str(attributes["AWSTraceHeader"])
    return Message(
        id=str(raw["MessageId"]),
        receipt_handle=str(raw["ReceiptHandle"]),
        body=str(raw.get("Body", "")),
        receive_count=int(attributes.get("ApproximateReceiveCount", 1)),
        received_s=received_s,
        asked_ns=asked_ns,
        received_ns=time.time_ns(),
        trace_headers=headers,
    )

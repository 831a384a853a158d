"""Turns what S3 and the network answer into the error tree. One table says which answers are worth another attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from shared.errors import (
    Aborted,
    FailedPrecondition,
    NotFound,
    PenstockError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)


class ObjectGone(NotFound):
    """The object, or the version asked for, is not there: it never was, or it was deleted or replaced."""


class ObjectChanged(Aborted):
    """The object was overwritten since it was looked at: HEAD it again and load the new version."""


# What aiobotocore lets through while a request runs or a body is read. aiohttp's payload errors come untranslated.
S3_ERRORS = (ClientError, BotoCoreError, aiohttp.ClientError, TimeoutError, OSError)

# What may work at the next attempt with nothing changed but time. All else needs someone to act, or another object.
_TRANSIENT = (Unavailable, ResourceExhausted)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later without anyone doing anything.

    ObjectChanged and ObjectGone are not: they call for another look at the object, not for patience.
    """
    return isinstance(error, _TRANSIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was asked of S3, for messages."""

    operation: str
    permission: str
    bucket: str
    key: str = ""

    @property
    def uri(self) -> str:
        """s3://bucket/key"""
        return f"s3://{self.bucket}/{self.key}"


def translate(exc: Exception, call: Call) -> PenstockError:
    """The error to raise `from exc`, which must be one of S3_ERRORS."""
    if isinstance(exc, ClientError):
        return _translate_answer(exc, call)
    if isinstance(exc, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return _bad_credentials(call, str(exc))
    if isinstance(exc, ParamValidationError):
        return _refused(call, f"{exc}".replace("\n", " "))
    return _unavailable(call, f"{type(exc).__name__}: {exc}")


def _translate_answer(exc: ClientError, call: Call) -> PenstockError:
    code = str(exc.response.get("Error", {}).get("Code", ""))
    detail = f"{code}: {exc.response.get('Error', {}).get('Message', '')}"
    if build := _BY_CODE.get(code):
        return build(call, detail)
    if code.startswith("KMS."):
        return _denied(call, detail)
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return _refused(call, detail) if 300 <= status < 500 else _unavailable(call, detail)


def _gone(call: Call, detail: str) -> PenstockError:
    return ObjectGone(f"{call.uri} is not there ({detail})", reason="OBJECT_GONE", metadata={"uri": call.uri})


def _no_bucket(call: Call, detail: str) -> PenstockError:
    return NotFound(f"bucket {call.bucket!r} does not exist ({detail})", reason="BUCKET_NOT_FOUND")


def _changed(call: Call, detail: str) -> PenstockError:
    return ObjectChanged(f"{call.uri} was overwritten meanwhile ({detail})", reason="OBJECT_CHANGED")


def _denied(call: Call, detail: str) -> PenstockError:
    resource = f"arn:aws:s3:::{call.bucket}" + (f"/{call.key}" if call.key else "")
    hint = (
        f"; or the object does not exist and s3:ListBucket on arn:aws:s3:::{call.bucket} is missing, without which S3 "
        "answers 403 instead of 404; or it is encrypted and kms:Decrypt is missing"
    )
    return PermissionDenied(
        f"{call.operation} of {call.uri} was refused ({detail}): allow {call.permission} on {resource}"
        + (hint if call.key and call.operation != "ListObjectsV2" else ""),
        reason="S3_ACCESS_DENIED",
        metadata={"permission": call.permission, "uri": call.uri},
    )


def _archived(call: Call, detail: str) -> PenstockError:
    return FailedPrecondition(f"{call.uri} is archived: restore it first ({detail})", reason="OBJECT_ARCHIVED")


def _refused(call: Call, detail: str) -> PenstockError:
    return FailedPrecondition(f"{call.operation} of {call.uri} was refused ({detail})", reason="S3_REFUSED")


def _bad_credentials(call: Call, detail: str) -> PenstockError:
    # Not the object's fault: failing its load for good would turn an expired token into lost files.
    return Unavailable(
        f"{call.operation} of {call.uri}: the AWS credentials do not work ({detail})", reason="S3_CREDENTIALS"
    )


def _unavailable(call: Call, detail: str) -> PenstockError:
    return Unavailable(f"{call.operation} of {call.uri} failed ({detail})", reason="S3_UNAVAILABLE")


_BY_CODE: Mapping[str, Callable[[Call, str], PenstockError]] = {
    # HEAD has no body, so its code is the bare status. 405 is a delete marker asked for by its version id.
    "404": _gone,
    "405": _gone,
    "NoSuchKey": _gone,
    "NoSuchVersion": _gone,
    "MethodNotAllowed": _gone,
    "NoSuchBucket": _no_bucket,
    "412": _changed,
    "PreconditionFailed": _changed,
    # The pinned version cannot have shrunk: the range ends where another version ended.
    "416": _changed,
    "InvalidRange": _changed,
    "403": _denied,
    "AccessDenied": _denied,
    "AllAccessDisabled": _denied,
    "InvalidObjectState": _archived,
    "ExpiredToken": _bad_credentials,
    "InvalidAccessKeyId": _bad_credentials,
    "InvalidToken": _bad_credentials,
    "RequestTimeTooSkewed": _bad_credentials,
    "SignatureDoesNotMatch": _bad_credentials,
    "TokenRefreshRequired": _bad_credentials,
    "UnrecognizedClientException": _bad_credentials,
    # 4xx by status, yet only a matter of time.
    "429": _unavailable,
    "OperationAborted": _unavailable,
    "RequestTimeout": _unavailable,
    "RequestTimeoutException": _unavailable,
    "Throttling": _unavailable,
    "ThrottlingException": _unavailable,
    "TooManyRequestsException": _unavailable,
}

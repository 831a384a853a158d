"""Which failures end a load for good, and which are tried again: one table. Pure.

A load may only fail for good for what is wrong with its object. What is wrong around it (database, contract roll-out,
S3 being down) must never cost a file: the event stays and is tried again.
"""

from __future__ import annotations

from ingest_service.objects.errors import is_transient
from shared.errors import Aborted, DeadlineExceeded, PenstockError

# FailedPrecondition that an operator mends around the object: migrations not applied yet, a role without its grants.
_ENVIRONMENT = frozenset(
    {
        "CONTRACT_MISMATCH",
        "DATABASE_LOGIN",
        "DATABASE_MISSING",
        "DATABASE_PERMISSION",
        "DATASET_NOT_MIGRATED",
        "SCHEMA_MISMATCH",
    }
)


def is_retryable(error: PenstockError) -> bool:
    """Whether the same load may succeed later with the same object."""
    return is_transient(error) or isinstance(error, (Aborted, DeadlineExceeded)) or error.reason in _ENVIRONMENT

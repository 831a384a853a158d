"""Reads objects and listings from S3, version-pinned, resumed when the connection breaks. Never writes to a bucket."""

from ingest_service.objects.errors import ObjectChanged, ObjectGone, is_transient
from ingest_service.objects.model import ListedObject, ObjectHead, OpenObject, ReadPolicy
from ingest_service.objects.store import ObjectStore

__all__ = [
    "ListedObject",
    "ObjectChanged",
    "ObjectGone",
    "ObjectHead",
    "ObjectStore",
    "OpenObject",
    "ReadPolicy",
    "is_transient",
]

"""Names of objects: s3:// URIs, what a key says of its dataset, and which objects are no data. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from shared.contract.model import DATASET_NAME
from shared.errors import FieldViolation, InvalidRequest

_SCHEME = "s3://"
# S3's own limit on a key, in UTF-8 bytes.
_MAX_KEY_BYTES = 1024
# What Spark, Hadoop and their likes write last into a folder, when everything in it is complete.
MARKER_NAME = "_SUCCESS"


class Role(enum.Enum):
    """What an object is by its name and its source."""

    DATA = "DATA"  # rows, to be loaded by themselves
    HIDDEN = "HIDDEN"  # no data
    PART = "PART"  # rows of a snapshot that comes as several objects
    MARKER = "MARKER"  # says that all parts in its folder and below are there


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ObjectUri:
    """s3://bucket/key. The key is raw: nothing in it is percent-encoded, `?` and `#` are ordinary characters."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.key}"


def parse_uri(text: str, *, field: str = "uri") -> ObjectUri:
    """The object that `text` names. Raises InvalidRequest naming `field`."""
    uri = parse_prefix(text, field=field)
    if not uri.key:
        raise _invalid(field, f"{text!r} names a bucket, not an object: want s3://bucket/key")
    return uri


def parse_prefix(text: str, *, field: str = "prefix") -> ObjectUri:
    """The bucket and key prefix that `text` names; the prefix may be empty. Raises InvalidRequest naming `field`."""
    if not text.startswith(_SCHEME):
        raise _invalid(field, f"{text!r} is not of the form s3://bucket/key")
    bucket, _, key = text.removeprefix(_SCHEME).partition("/")
    if not bucket:
        raise _invalid(field, f"{text!r} names no bucket: want s3://bucket/key")
    if "\x00" in text or len(key.encode("utf-8", "surrogatepass")) > _MAX_KEY_BYTES:
        raise _invalid(field, f"must hold no NUL, and the key at most {_MAX_KEY_BYTES} bytes")
    return ObjectUri(bucket=bucket, key=key)


def dataset_of(key: str) -> str | None:
    """The dataset that the key's first path segment names, or None: objects under `<dataset>/` go to that dataset."""
    name, slash, _ = key.partition("/")
    return name if slash and DATASET_NAME.fullmatch(name) else None


def is_folder_marker(key: str) -> bool:
    """Whether the key is the empty object that consoles create to show a folder."""
    return key.endswith("/")


def folder_of_marker(key: str) -> str | None:
    """The folder, "" or ending in a slash, that the key is the `_SUCCESS` marker of; None where it is none."""
    folder, slash, name = key.rpartition("/")
    return folder + slash if name == MARKER_NAME else None


def is_hidden(key: str, *, under: str = "") -> bool:
    """Whether a file or folder is by its name no data: `_SUCCESS`, `_temporary/`, `.part.crc`.

    As Spark reads folders (InMemoryFileIndex.shouldFilterOutPathName): a name with `=` is a partition, `_year=2024/`.
    `under` is a prefix that somebody gave: names that begin in it are meant.
    """
    names = key.removeprefix(under).split("/")
    whole = names[1:] if under and not under.endswith("/") else names
    return any(
        (name.startswith(".") and name.strip(".")) or (name.startswith("_") and "=" not in name) for name in whole
    )


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=field, description=description)], reason="INVALID_URI")

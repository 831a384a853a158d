"""What a contract says, as plain values: datasets, their columns, and the methods that serve them.

Built from descriptors by `build.py`; read by DDL, decoding, encoding and query planning. No behaviour beyond look-ups.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

DATASET_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
# Which tables and indexes this release makes of a contract; an applied contract says which one made its own.
# 2: the index of `_version` has the key behind it, so that Watch reads the changes of a version page by page.
LAYOUT = 2
DEFAULT_MAX_ROW_BYTES = 1024 * 1024
DEFAULT_MIN_ROWS_PERCENT = 50.0
# A B-tree entry may take 2,704 bytes; one larger value would abort a whole COPY, so rows are rejected before it.
MAX_INDEXED_BYTES = 2600


class Kind(enum.Enum):
    """The type of a column, after wrappers are taken off. The value is the word used in messages and reject rules."""

    BOOL = "bool"
    INT32 = "int32"
    INT64 = "int64"
    UINT32 = "uint32"
    UINT64 = "uint64"
    FLOAT = "float"
    DOUBLE = "double"
    STRING = "string"
    BYTES = "bytes"
    ENUM = "enum"
    TIMESTAMP = "timestamp"
    DURATION = "duration"
    DATE = "date"


PG_TYPES: Mapping[Kind, str] = {
    Kind.BOOL: "boolean",
    Kind.INT32: "integer",
    Kind.INT64: "bigint",
    Kind.UINT32: "bigint",
    Kind.UINT64: "numeric(20)",
    Kind.FLOAT: "real",
    Kind.DOUBLE: "double precision",
    Kind.STRING: 'text COLLATE "C"',
    Kind.BYTES: "bytea",
    Kind.ENUM: "integer",
    Kind.TIMESTAMP: "timestamptz",
    Kind.DURATION: "interval",
    Kind.DATE: "date",
}

KEY_KINDS = frozenset({Kind.STRING, Kind.INT32, Kind.INT64, Kind.UINT32, Kind.UINT64, Kind.ENUM, Kind.BOOL, Kind.DATE})


class FilePolicy(enum.Enum):
    """What a load does to rows that the object does not hold; see contract.proto."""

    MERGE = "MERGE"
    SNAPSHOT = "SNAPSHOT"
    MIRROR = "MIRROR"


class SnapshotOrder(enum.Enum):
    """What makes one object of a SNAPSHOT dataset newer than another; see contract.proto."""

    LAST_MODIFIED = "LAST_MODIFIED"
    KEY = "KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A typed column of the table: a scalar, enum, Timestamp, Duration, Date, wrapper or repeated scalar field.

    `wrapper` is True for google.protobuf.*Value fields. `nullable` is True for optional, wrapper and oneof members and
    for Timestamp, Duration and Date (message fields have presence); repeated columns are NOT NULL (empty array).

    A column of a field inside a message, which `filterable_paths` asks for, is named by its way, `sender.city`. `inner`
    are the field numbers of that way below `number`. Where a message on the way is missing it is NULL, a repeated one
    empty; `implicit` says that nothing else makes it NULL.
    """

    name: str
    number: int
    kind: Kind
    inner: tuple[int, ...] = ()
    implicit: bool = False
    repeated: bool = False
    nullable: bool = False
    wrapper: bool = False
    filterable: bool = False
    sortable: bool = False
    searchable: bool = False

    @property
    def path(self) -> str:
        """The numbers that lead from the record to the field, `11.2`: they tell columns apart, names may change."""
        return ".".join(map(str, (self.number, *self.inner)))

    @property
    def ordered(self) -> bool:
        """Whether the column is to have a B-tree; that of an array would serve no query."""
        return (self.filterable or self.sortable) and not self.repeated

    @property
    def pg_type(self) -> str:
        """The column's Postgres type; arrays are `base[]`."""
        base = PG_TYPES[self.kind]
        if not self.repeated:
            return base
        return 'text[] COLLATE "C"' if self.kind is Kind.STRING else f"{base}[]"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexField:
    """One column of a composite index."""

    name: str
    descending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """A record message and everything that follows from its options.

    `columns` are in field-number order; fields without a column (nested messages, repeated messages, maps) live in
    `_wire` only, but for what `filterable_paths` names. `sources` maps each top-level field's proto name to the file
    column names that feed it, in order of preference: proto name, JSON name, aliases. `fingerprint` is the hex digest
    of `wire`, the canonical description of field numbers, types, labels and nested messages: equal fingerprints decode
    each other's bytes.
    """

    name: str
    message: Descriptor
    message_class: type[Any]
    key: tuple[str, ...]
    file_policy: FilePolicy
    columns: tuple[Column, ...]
    sources: Mapping[str, tuple[str, ...]]
    indexes: tuple[tuple[IndexField, ...], ...]
    max_reject_percent: float
    max_row_bytes: int
    snapshot_order: SnapshotOrder
    min_rows_percent: float
    has_rules: bool
    wire: str
    fingerprint: str

    def column(self, name: str) -> Column:
        """The column of that name; KeyError where the field has none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def way(self, name: str) -> tuple[FieldDescriptor, ...]:
        """The fields that lead from the record to that of a column, itself the last; alone for a top-level one."""
        first, *inner = name.split(".")
        found = [self.message.fields_by_name[first]]
        for part in inner:
            holder = found[-1].message_type
            assert holder is not None, f"{name}: {part} has no message around it"
            found.append(holder.fields_by_name[part])
        return tuple(found)

    @property
    def mirrors(self) -> bool:
        """Whether the table mirrors the bucket, and so has a `__shadow` table."""
        return self.file_policy is FilePolicy.MIRROR

    @property
    def layout(self) -> int:
        """The newest one: see LAYOUT."""
        return LAYOUT

    @property
    def key_columns(self) -> tuple[Column, ...]:
        """The key's columns in keyset order."""
        return tuple(self.column(name) for name in self.key)


class MethodKind(enum.Enum):
    """What a method does, told from its name's prefix."""

    GET = "Get"
    BATCH_GET = "BatchGet"
    LIST = "List"
    STREAM = "Stream"
    COUNT = "Count"
    WATCH = "Watch"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """A bound RPC. `filters` are the request's typed equality filters, by request field name.

    `response_fields` maps the well-known response fields that are present (`next_page_token`, `dataset_version`,
    `resume_token`, `status`) to their descriptors; the records are always field 1.
    """

    name: str
    kind: MethodKind
    input: Descriptor
    input_class: type[Any]
    output: Descriptor
    server_streaming: bool
    filters: Mapping[str, Column]
    request_fields: Mapping[str, FieldDescriptor]
    response_fields: Mapping[str, FieldDescriptor]
    request_has_rules: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Service:
    """A protobuf service that opted in with `serves`."""

    full_name: str
    dataset: Dataset
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContractSet:
    """All datasets and services of one descriptor set, with the private pool that holds their descriptors."""

    pool: DescriptorPool
    descriptors: FileDescriptorSet
    datasets: Mapping[str, Dataset]
    services: tuple[Service, ...]

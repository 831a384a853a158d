"""What a contract was when it was applied: the plain values kept in `penstock.datasets.contract`.

Pure. A Snapshot compares and serialises, needs no descriptor, and holds only what tables and stored bytes depend on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from shared.contract import ddl
from shared.contract.model import Column, ContractSet, Dataset, FilePolicy, IndexField, Kind
from shared.errors import ConfigError

# 2: some column is of a field inside a message, which a version that writes 1 does not know.
FORMATS = (1, 2)
APPLIED_SQL = "SELECT name, fingerprint, contract::text FROM penstock.datasets"
_FLAGS = ("implicit", "repeated", "nullable", "wrapper", "filterable", "sortable", "searchable")
_WAY_OUT = "write its migration with `penstock contract sql` where it is missing, then run `penstock migrate`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One dataset's contract. Fields are named by path: "3" is field 3 of the record, "11.2" is field 2 of field 11.

    `wire` is the description that the fingerprint is made of (shared/contract/wire.py), parsed. `names` and `oneofs`
    map paths to the field's name and to its oneof. `retired` lists the paths of removed fields, whose numbers never
    come back because stored bytes still carry them. `reserved` lists (message path, first, last) number ranges; it
    tells that a removal is meant, and is not kept. `layout`: see model.LAYOUT; the first one went without saying.
    """

    name: str
    fingerprint: str
    message: str
    key: tuple[str, ...]
    file_policy: str
    max_reject_percent: float
    max_row_bytes: int
    columns: tuple[Column, ...]
    indexes: tuple[tuple[IndexField, ...], ...]
    wire: Mapping[str, Any]
    names: Mapping[str, str]
    oneofs: Mapping[str, str]
    retired: tuple[str, ...] = ()
    layout: int = 1
    reserved: tuple[tuple[str, int, int], ...] = field(default=(), compare=False)

    @property
    def mirrors(self) -> bool:
        """Whether the table mirrors the bucket, and so has a `__shadow` table."""
        return self.file_policy == FilePolicy.MIRROR.value


def snapshot(dataset: Dataset) -> Snapshot:
    """The snapshot of a contract's dataset."""
    by_path = dict(_walk(dataset.message, ""))
    return Snapshot(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        message=dataset.message.full_name,
        key=dataset.key,
        file_policy=dataset.file_policy.value,
        max_reject_percent=dataset.max_reject_percent,
        max_row_bytes=dataset.max_row_bytes,
        columns=dataset.columns,
        indexes=dataset.indexes,
        wire=json.loads(dataset.wire),
        names={path: descriptor.name for path, descriptor in by_path.items()},
        oneofs={path: oneof for path, descriptor in by_path.items() if (oneof := _oneof(descriptor))},
        layout=dataset.layout,
        reserved=tuple(_reserved(dataset.message, "")),
    )


def snapshots(contracts: ContractSet) -> dict[str, Snapshot]:
    """The snapshots of all datasets of a contract set, by name."""
    return {name: snapshot(dataset) for name, dataset in sorted(contracts.datasets.items())}


def _walk(message: Descriptor, prefix: str) -> Iterator[tuple[str, FieldDescriptor]]:
    for descriptor in sorted(message.fields, key=lambda descriptor: descriptor.number):
        path = f"{prefix}{descriptor.number}"
        yield path, descriptor
        if descriptor.message_type is not None:
            yield from _walk(descriptor.message_type, f"{path}.")


def _oneof(descriptor: FieldDescriptor) -> str | None:
    """The name of the oneof that the author wrote; proto3 `optional` makes one of its own, with one member."""
    oneof = descriptor.containing_oneof
    synthetic = oneof is not None and len(oneof.fields) == 1
    return None if oneof is None or synthetic else str(oneof.name)


def _reserved(message: Descriptor, path: str) -> Iterator[tuple[str, int, int]]:
    proto = descriptor_pb2.DescriptorProto()
    message.CopyToProto(proto)
    for span in proto.reserved_range:
        yield path, span.start, span.end - 1
    for descriptor in message.fields:
        if descriptor.message_type is not None:
            yield from _reserved(descriptor.message_type, f"{path}{descriptor.number}.")


def to_dict(applied: Snapshot) -> dict[str, Any]:
    """The JSON value of `penstock.datasets.contract`; the name and the fingerprint have columns of their own."""
    value: dict[str, Any] = {
        "format": 2 if any(column.inner for column in applied.columns) else 1,
        "message": applied.message,
        "key": list(applied.key),
        "file_policy": applied.file_policy,
        "max_reject_percent": applied.max_reject_percent,
        "max_row_bytes": applied.max_row_bytes,
        "columns": [_column_dict(column) for column in applied.columns],
        "indexes": [[_index_text(part) for part in index] for index in applied.indexes],
        "wire": dict(applied.wire),
        "names": dict(applied.names),
    }
    optional = {
        "oneofs": dict(applied.oneofs),
        "retired": list(applied.retired),
        "layout": applied.layout if applied.layout > 1 else None,
    }
    return value | {name: part for name, part in optional.items() if part}


def _column_dict(column: Column) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": column.name, "number": column.number, "kind": column.kind.value}
    inner = {"inner": list(column.inner)} if column.inner else {}
    return plain | inner | {flag: True for flag in _FLAGS if getattr(column, flag)}


def _index_text(part: IndexField) -> str:
    return f"{part.name} desc" if part.descending else part.name


def from_dict(name: str, fingerprint: str, value: Mapping[str, Any]) -> Snapshot:
    """The snapshot that `to_dict` wrote. Raises ConfigError for a format of a later version."""
    if value.get("format") not in FORMATS:
        message = f"dataset {name}: the database was migrated by another version of Penstock; run that version"
        raise ConfigError(message, reason="CONTRACT_FORMAT")
    return Snapshot(
        name=name,
        fingerprint=fingerprint,
        message=value["message"],
        key=tuple(value["key"]),
        file_policy=value["file_policy"],
        max_reject_percent=value["max_reject_percent"],
        max_row_bytes=value["max_row_bytes"],
        columns=tuple(_column(column) for column in value["columns"]),
        indexes=tuple(tuple(_index_field(text) for text in index) for index in value["indexes"]),
        wire=value["wire"],
        names=value["names"],
        oneofs=value.get("oneofs", {}),
        retired=tuple(value.get("retired", ())),
        layout=value.get("layout", 1),
    )


def _column(value: Mapping[str, Any]) -> Column:
    return Column(**{**value, "kind": Kind(value["kind"]), "inner": tuple(value.get("inner", ()))})


def _index_field(text: str) -> IndexField:
    return IndexField(name=text.removesuffix(" desc"), descending=text.endswith(" desc"))


def check_applied(rows: Iterable[tuple[str, str, str]], contracts: ContractSet) -> None:
    """Refuses contracts that the database was not migrated for; `rows` are those of APPLIED_SQL.

    Raises ConfigError that names every dataset and what to run. An applied contract may have more indexes than ours:
    so old pods live on while new ones roll out.
    """
    applied = {name: from_dict(name, mark, json.loads(contract)) for name, mark, contract in rows}
    problems = [
        f"dataset {name} {problem}"
        for name, dataset in sorted(contracts.datasets.items())
        if (problem := _mismatch(applied.get(name), dataset))
    ]
    if problems:
        raise ConfigError(f"{'; '.join(problems)}: {_WAY_OUT}", reason="CONTRACT_NOT_APPLIED")


def _mismatch(applied: Snapshot | None, dataset: Dataset) -> str | None:
    if applied is None:
        return "is not in the database"
    if applied.fingerprint != dataset.fingerprint:
        return "differs from the contract that was applied to the database"
    if applied.file_policy != dataset.file_policy.value:
        return f"has file_policy {applied.file_policy} in the database, not {dataset.file_policy.value}"
    present = {index.name for index in ddl.index_statements(applied)}
    missing = [index.name for index in ddl.index_statements(dataset) if index.name not in present]
    return f"lacks index {', '.join(missing)} in the database" if missing else None

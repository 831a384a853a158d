"""What may never change between two contracts of one dataset, because stored rows and bytes would lie.

Pure functions of two snapshots; every refusal says which field, why, and what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from shared.contract.model import Column, FilePolicy
from shared.contract.snapshot import Snapshot

# Both keep their rows in one table alike: a change takes effect with the next load.
_ONE_TABLE = frozenset({FilePolicy.MERGE.value, FilePolicy.SNAPSHOT.value})


def refusals(old: Snapshot, new: Snapshot) -> list[str]:
    """Every change that stored rows do not survive, as `message[.field]: reason`; empty where all are additive.

    The last line says what to do instead.
    """
    problems = [*_table_refusals(old, new), *_wire_refusals(old, new, old.wire, new.wire, "")]
    problems += [*_column_refusals(old, new), *_oneof_refusals(old, new)]
    return [f"{new.message}{text}" for text in [*problems, *([_way_out(new)] if problems else [])]]


def removed(old: Snapshot, new: Snapshot) -> tuple[str, ...]:
    """Paths of the fields that the old contract has and the new one has not."""
    return tuple(path for path in old.names if path not in new.names)


def _way_out(new: Snapshot) -> str:
    name = f'a new dataset name, such as "{new.name}_v2",'
    return f": take the refused changes back, or give the message {name} and load the same files into it"


def _table_refusals(old: Snapshot, new: Snapshot) -> Iterator[str]:
    if old.key != new.key:
        keys = f"({', '.join(old.key)}) to ({', '.join(new.key)})"
        yield f": the key changes from {keys}: stored rows are identified by the old one"
    if old.file_policy != new.file_policy and not {old.file_policy, new.file_policy} <= _ONE_TABLE:
        policies = f"{old.file_policy} to {new.file_policy}"
        yield f": file_policy changes from {policies}: stored rows were placed by the old one"


def _wire_refusals(
    old: Snapshot, new: Snapshot, before: Mapping[str, Any], after: Mapping[str, Any], prefix: str
) -> Iterator[str]:
    """Compares one message's fields; `prefix` is the message's path with a trailing dot, empty for the record."""
    for number, field in before.items():
        path = f"{prefix}{number}"
        if number not in after:
            yield from _removal_refusals(old, new, path, after, prefix)
        elif _shape(field) != _shape(after[number]):
            yield f".{_dotted(new, path)}: type changes from {_words(field)} to {_words(after[number])}"
        else:
            yield from _wire_refusals(old, new, field.get("fields", {}), after[number].get("fields", {}), f"{path}.")
    for number in after.keys() - before.keys():
        if f"{prefix}{number}" in old.retired:
            yield f".{_dotted(new, f'{prefix}{number}')}: number {number} belonged to a removed field; take a new one"


def _removal_refusals(old: Snapshot, new: Snapshot, path: str, after: Mapping[str, Any], prefix: str) -> Iterator[str]:
    name = old.names[path]
    number = int(path.rpartition(".")[2])
    namesake = next((other for other in after if new.names[f"{prefix}{other}"] == name), None)
    if namesake is not None:
        yield f".{_dotted(old, path)}: number changes from {number} to {namesake}: stored bytes carry {number}"
    elif not any(place == prefix and first <= number <= last for place, first, last in new.reserved):
        reserve = f"write `reserved {number};` in its place to drop it"
        yield f".{_dotted(old, path)}: removed; stored bytes carry number {number}: {reserve}"


def _column_refusals(old: Snapshot, new: Snapshot) -> Iterator[str]:
    """What the bytes do not show: names, and messages that turn into columns (wrappers, google.type.Date)."""
    before = {column.path: column for column in old.columns}
    after = {column.path: column for column in new.columns}
    for path in sorted(before.keys() | after.keys(), key=_numbers):
        if path not in old.names or path not in new.names or _shape_at(old, path) != _shape_at(new, path):
            continue  # a new field, a removed one, or one that is refused for its bytes
        was, becomes = before.get(path), after.get(path)
        if "." in path and (was is None or becomes is None):
            continue  # its column was asked for or is no longer, which changes no bytes: diff.py
        if was is None or becomes is None or _column_shape(was) != _column_shape(becomes):
            yield f".{_dotted(new, path)}: type of the column changes from {_type(was)} to {_type(becomes)}"
        elif was.name != becomes.name:
            yield f".{becomes.name}: renamed from {was.name}: running services use the old column"
    yield from _taken_names(before, after)


def _taken_names(before: Mapping[str, Column], after: Mapping[str, Column]) -> Iterator[str]:
    """Names inside messages that went to another field: for a while the table would have two columns of one name."""
    owners = {column.name: path for path, column in before.items() if column.inner}
    for path, column in after.items():
        if owners.get(column.name, path) != path:
            way = "leave it out of filterable_paths, migrate, and name it again"
            yield f".{column.name}: is another field now, {path} and no longer {owners[column.name]}: {way}"


def _oneof_refusals(old: Snapshot, new: Snapshot) -> Iterator[str]:
    """Two stored fields may both be set; joined in a oneof, a reader would lose one of them."""
    kept = [path for path in old.names if path in new.oneofs]
    for one, other in combinations(kept, 2):
        together = _same_oneof(new, one, other)
        if together and not _same_oneof(old, one, other):
            yield f".{_dotted(new, other)}: joins oneof {new.oneofs[other]} with {new.names[one]}; rows may hold both"


def _same_oneof(state: Snapshot, one: str, other: str) -> bool:
    """Whether both paths lie in one message and in one oneof of it."""
    siblings = one.rpartition(".")[0] == other.rpartition(".")[0]
    return siblings and state.oneofs.get(one) is not None and state.oneofs.get(one) == state.oneofs.get(other)


def _shape(field: Mapping[str, Any]) -> tuple[str, str]:
    """What must not change. Packed and unpacked decode alike, so that is no part of it."""
    return field["type"], field["label"]


def _shape_at(state: Snapshot, path: str) -> tuple[str, str]:
    *messages, number = path.split(".")
    inner: Mapping[str, Any] = state.wire
    for message in messages:
        inner = inner[message]["fields"]
    return _shape(inner[number])


def _numbers(path: str) -> list[int]:
    return [int(number) for number in path.split(".")]


def _words(field: Mapping[str, Any]) -> str:
    return f"{field['label']} {field['type']}"


def _column_shape(column: Column) -> tuple[object, ...]:
    return column.kind, column.repeated, column.nullable, column.wrapper


def _type(column: Column | None) -> str:
    if column is None:
        return "none"
    words = ["repeated"] * column.repeated + ["nullable"] * column.nullable + ["wrapped"] * column.wrapper
    return " ".join([*words, column.kind.value])


def _dotted(state: Snapshot, path: str) -> str:
    """`11.2` as `sender.city`."""
    parts = path.split(".")
    return ".".join(state.names[".".join(parts[: depth + 1])] for depth in range(len(parts)))

"""A checked request -> the parameters of its query: page size, filters, token text, consistency demands.

Pure. What a contract may declare and this version does not serve is refused by name, never ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from query_service.conditions import AnyOf, Query, distinct, query
from query_service.filter.check import compile_filter
from query_service.order import parse_order
from query_service.partitions import MOST_PARTITIONS, Partition
from query_service.ranking import check_ranked
from query_service.values import sql_value
from shared.contract.binding import RESERVED_REQUEST_FIELDS
from shared.contract.model import Column, Dataset, Method, MethodKind
from shared.errors import FieldViolation, InvalidRequest, Unimplemented

DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE_SIZE = 1000
EVERYTHING = query()

SERVED: Mapping[MethodKind, frozenset[str]] = {
    MethodKind.GET: frozenset({"read_mask", "at_least_version"}),
    MethodKind.BATCH_GET: frozenset({"read_mask", "at_least_version"}),
    MethodKind.LIST: frozenset(
        {"page_size", "page_token", "filter", "order_by", "read_mask", "at_least_version", "require_same_version"}
    ),
    MethodKind.STREAM: frozenset(
        {"resume_token", "max_rows", "partition", "filter", "order_by", "read_mask", "at_least_version"}
        | {"require_same_version"}
    ),
    MethodKind.COUNT: frozenset({"filter", "at_least_version"}),
}


class Parameters(NamedTuple):
    """What a List or Stream request asks for beside its token; `max_rows` is 0 for all. A tuple for its speed."""

    query: Query
    page_size: int
    max_rows: int
    at_least_version: int
    require_same_version: bool
    partition: Partition | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetParameters:
    """The key of one row, in keyset order."""

    key: tuple[Any, ...]
    at_least_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchParameters:
    """The keys of rows, each in keyset order; as many and in the order as asked for."""

    keys: tuple[tuple[Any, ...], ...]
    at_least_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchParameters:
    """Where a Watch begins: where `token` says, else after the version, which belongs to `epoch`; None: now, any."""

    token: str
    after_version: int | None
    epoch: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CountParameters:
    """What a Count request asks for."""

    query: Query
    at_least_version: int


def get_parameters(method: Method, key_columns: Iterable[Column], message: Message) -> GetParameters:
    """Parameters of a Get; raises InvalidRequest or Unimplemented naming the field."""
    refuse_unserved(method, message)
    key = _key(method.request_fields, key_columns, message)
    return GetParameters(key=key, at_least_version=_not_negative(method, message, "at_least_version"))


def batch_parameters(method: Method, key_columns: Sequence[Column], message: Any) -> BatchParameters:
    """Parameters of a BatchGet; raises InvalidRequest or Unimplemented naming the field.

    What stands for the whole batch belongs on it, not on one of its requests: an answer has one version and one shape.
    """
    refuse_unserved(method, message)
    one: Any = method.request_fields["requests"].message_type  # the contract's rules see to it that it is a message
    fields = one.fields_by_name
    shared = [name for name in RESERVED_REQUEST_FIELDS if name in fields]
    keys = []
    for place, request in enumerate(message.requests):
        prefix = f"requests[{place}]."
        for name in shared:
            if _is_set(fields[name], request):
                raise _invalid(prefix + name, f"set {name} on {method.input.name}, for all requests")
        keys.append(_key(fields, key_columns, request, prefix))
    return BatchParameters(keys=tuple(keys), at_least_version=_not_negative(method, message, "at_least_version"))


def query_parameters(method: Method, dataset: Dataset, message: Message) -> Parameters:
    """Parameters of a List or Stream; raises InvalidRequest or Unimplemented naming the field."""
    refuse_unserved(method, message)
    asked = _query(method, dataset, message)
    if asked.ranked:
        check_ranked(asked, method.kind)
    return Parameters(
        query=asked,
        page_size=min(_not_negative(method, message, "page_size") or DEFAULT_PAGE_SIZE, LARGEST_PAGE_SIZE),
        max_rows=_not_negative(method, message, "max_rows"),
        at_least_version=_not_negative(method, message, "at_least_version"),
        require_same_version=bool(_given_value(method, message, "require_same_version", False)),
        partition=_partition(method, message),
    )


def _partition(method: Method, message: Any) -> Partition | None:
    if not _has(method, message, "partition"):
        return None
    count, index = message.partition.count, message.partition.index
    if not 1 <= count <= MOST_PARTITIONS:
        raise _invalid("partition.count", f"must be 1 to {MOST_PARTITIONS}, is {count}")
    if not 0 <= index < count:
        raise _invalid("partition.index", f"must be 0 to {count - 1}, is {index}")
    if _given_value(method, message, "order_by", ""):
        raise _invalid("order_by", "partitions are ranges of the key, in key order: leave one of both unset")
    return Partition(count=count, index=index)


def watch_parameters(method: Method, message: Any) -> WatchParameters:
    """Parameters of a Watch; raises InvalidRequest naming the field."""
    after = message.after_version if _has(method, message, "after_version") else None
    if after is not None and after < 0:
        raise _invalid("after_version", f"must not be negative, is {after}")
    epoch = str(_given_value(method, message, "epoch", ""))
    try:
        found = UUID(epoch) if epoch else None
    except ValueError as exc:
        raise _invalid("epoch", "is not an epoch, as StreamStatus has it") from exc
    return WatchParameters(token=given_token(method, message), after_version=after, epoch=found)


def _has(method: Method, message: Message, name: str) -> bool:
    return name in method.request_fields and message.HasField(name)


def count_parameters(method: Method, dataset: Dataset, message: Message) -> CountParameters:
    """Parameters of a Count; raises InvalidRequest or Unimplemented naming the field."""
    refuse_unserved(method, message)
    asked = _query(method, dataset, message)
    return CountParameters(query=asked, at_least_version=_not_negative(method, message, "at_least_version"))


def refuse_unserved(method: Method, message: Message) -> None:
    """Raises Unimplemented for a reserved field that is set and that this kind of method does not serve."""
    for field in _unserved(method):
        if _is_set(field, message):
            raise Unimplemented(
                f"{field.name}: not served by {method.name} in this version; leave it unset",
                reason="FIELD_NOT_SERVED",
                metadata={"field": field.name, "method": method.name},
            )


@lru_cache(maxsize=1024)
def _unserved(method: Method) -> tuple[FieldDescriptor, ...]:
    fields, served = method.request_fields, SERVED.get(method.kind, frozenset())
    return tuple(fields[name] for name in fields if name in RESERVED_REQUEST_FIELDS and name not in served)


def _is_set(field: FieldDescriptor, message: Message) -> bool:
    if field.message_type is not None:
        return message.HasField(field.name)
    return bool(getattr(message, field.name) != field.default_value)


def _query(method: Method, dataset: Dataset, message: Message) -> Query:
    """Typed filters and the filter's text, in one tree."""
    stated, order = _text(method, message, "filter"), _text(method, message, "order_by")
    typed = tuple(_typed_filters(method, message))
    if not typed:
        return _stated_query(dataset, stated, order) if stated or order else EVERYTHING
    condition = compile_filter(dataset, stated)
    return query(typed if condition is None else (*typed, condition), parse_order(dataset, order))


@lru_cache(maxsize=1024)
def _stated_query(dataset: Dataset, stated: str, order: str) -> Query:
    condition = compile_filter(dataset, stated)
    return query(() if condition is None else (condition,), parse_order(dataset, order))


def _typed_filters(method: Method, message: Message) -> Iterable[AnyOf]:
    for field, column in _filters(method):
        values = list(_given(field, message))
        if values:
            yield AnyOf(column=column, values=distinct(_convert(field, column, value) for value in values))


@lru_cache(maxsize=1024)
def _filters(method: Method) -> tuple[tuple[FieldDescriptor, Column], ...]:
    return tuple((method.request_fields[name], method.filters[name]) for name in sorted(method.filters))


def _given(field: FieldDescriptor, message: Message) -> Iterable[Any]:
    """The values a filter field holds: a field with presence counts when present, a bare string when not empty."""
    value = getattr(message, field.name)
    if field.is_repeated:
        return list(value)
    applies = message.HasField(field.name) if field.has_presence else bool(value)
    return [value] if applies else []


def _key(
    fields: Mapping[str, FieldDescriptor], columns: Iterable[Column], message: Message, prefix: str = ""
) -> tuple[Any, ...]:
    """The key that a request holds; `prefix` leads to the request in messages."""
    return tuple(_key_value(fields[column.name], column, message, prefix) for column in columns)


def _key_value(field: FieldDescriptor, column: Column, message: Message, prefix: str) -> Any:
    if field.message_type is not None and not message.HasField(field.name):
        raise _invalid(prefix + field.name, "is required")
    return _convert(field, column, getattr(message, field.name), prefix)


def _convert(field: FieldDescriptor, column: Column, value: Any, prefix: str = "") -> Any:
    try:
        return sql_value(column.kind, field, value)
    except ValueError as exc:
        raise _invalid(prefix + field.name, str(exc)) from exc


def given_token(method: Method, message: Message) -> str:
    """The page or resume token as text; a resume_token field may be string or bytes."""
    value = getattr(message, "page_token" if method.kind is MethodKind.LIST else "resume_token")
    # Tokens are ASCII; what is not decodes to characters that no token holds.
    return value if isinstance(value, str) else bytes(value).decode("ascii", "replace")


def _text(method: Method, message: Message, name: str) -> str:
    value = _given_value(method, message, name, "")
    if not isinstance(value, str):  # how protobuf hands over a proto2 string that is no UTF-8
        raise _invalid(name, "is not UTF-8")
    return value


def _not_negative(method: Method, message: Message, name: str) -> int:
    value = int(_given_value(method, message, name, 0))
    if value < 0:
        raise _invalid(name, f"must not be negative, is {value}")
    return value


def _given_value(method: Method, message: Message, name: str, default: Any) -> Any:
    # To ask a message for a field that it lacks raises and catches an AttributeError, also with a default.
    return getattr(message, name) if name in method.request_fields else default


def _invalid(name: str, description: str) -> InvalidRequest:
    return InvalidRequest([FieldViolation(field=name, description=description)])

"""Record messages: the rules they obey, and the Dataset that follows from one. Pure functions of a descriptor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from penstock.contract.v1 import contract_pb2

from shared.contract import fields, paths, wire
from shared.contract.model import (
    DATASET_NAME,
    DEFAULT_MAX_ROW_BYTES,
    DEFAULT_MIN_ROWS_PERCENT,
    KEY_KINDS,
    Column,
    Dataset,
    FilePolicy,
    IndexField,
    Kind,
    SnapshotOrder,
)

# A record must fit one message of the default gRPC limit (4 MiB) with room for the frame and the token.
LARGEST_ROW_BYTES = 3 * 1024 * 1024
# buf.validate gave its field, message and oneof extensions one number.
VALIDATE_EXTENSION = 1159
_POSTGRES_SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
# Limits of Postgres: https://www.postgresql.org/docs/current/limits.html, less _wire, _object and _version.
_MOST_COLUMNS = 1600 - 3
_MOST_INDEX_COLUMNS = 32
_POLICIES = (contract_pb2.FILE_POLICY_MERGE, contract_pb2.FILE_POLICY_SNAPSHOT, contract_pb2.FILE_POLICY_MIRROR)
_BY_KEY = contract_pb2.SNAPSHOT_ORDER_KEY
FORBIDDEN_MESSAGES = frozenset({"google.protobuf.Any"})


def dataset_options(message: Descriptor) -> contract_pb2.DatasetOptions | None:
    """The message's dataset option; None where it has none."""
    options = contract_options(message)
    return options.Extensions[contract_pb2.dataset] if options.HasExtension(contract_pb2.dataset) else None


def contract_options(descriptor: Any) -> Any:
    """A descriptor's options, parsed again with the classes that know Penstock's extensions.

    The private pool's own GetOptions() does not know them and shows nothing.
    """
    private = descriptor.GetOptions()
    return fields.OPTION_CLASSES[type(private).DESCRIPTOR.full_name].FromString(private.SerializeToString())


def has_rules(message: Descriptor, seen: frozenset[str] = frozenset()) -> bool:
    """Whether any buf.validate rule applies to the message or to one nested in it."""
    if message.full_name in seen:
        return False
    seen |= {message.full_name}
    if any(has_own_rules(part) for part in (message, *message.fields, *message.oneofs)):
        return True
    return any(has_rules(field.message_type, seen) for field in message.fields if field.message_type)


def has_own_rules(part: Any) -> bool:
    """Whether a message, field or oneof has a buf.validate option itself; of what is nested in it nothing is said."""
    options: Message = part.GetOptions()
    known = any(field.number == VALIDATE_EXTENSION for field, _ in options.ListFields())
    unknown: Any = UnknownFieldSet(options)  # iterable, which its stub does not say
    return known or any(field.field_number == VALIDATE_EXTENSION for field in unknown)


def dataset(message: Descriptor, message_class: type[Any], options: contract_pb2.DatasetOptions) -> Dataset:
    """The Dataset of a message that `problems` found nothing wrong with."""
    columns = tuple(column for field in _by_number(message) for column in _columns_of(field))
    description = wire.describe(message)
    return Dataset(
        name=options.name,
        message=message,
        message_class=message_class,
        key=tuple(options.key),
        file_policy=FilePolicy[contract_pb2.FilePolicy.Name(options.file_policy).removeprefix("FILE_POLICY_")],
        columns=columns,
        sources={field.name: source_names(field) for field in message.fields},
        indexes=tuple(tuple(_index_field(text) for text in index.fields) for index in options.indexes),
        max_reject_percent=options.max_reject_percent,
        max_row_bytes=options.max_row_bytes or DEFAULT_MAX_ROW_BYTES,
        snapshot_order=SnapshotOrder.KEY if options.snapshot_order == _BY_KEY else SnapshotOrder.LAST_MODIFIED,
        min_rows_percent=(
            options.min_rows_percent if options.HasField("min_rows_percent") else DEFAULT_MIN_ROWS_PERCENT
        ),
        has_rules=has_rules(message),
        wire=description,
        fingerprint=wire.fingerprint(description, tuple(options.key), columns),
    )


def _columns_of(field: FieldDescriptor) -> list[Column]:
    """The column of a top-level field, or those of the fields inside it that its option names; of others there is none.

    In the order of their numbers.
    """
    kind = fields.kind_of(field)
    if kind is not None:
        return [_column(field, kind)]
    inner = [_inner_column(paths.way(field, path)) for path in column_options(field).filterable_paths]
    return sorted(inner, key=lambda column: column.inner)


def _inner_column(way: tuple[FieldDescriptor, ...]) -> Column:
    leaf = way[-1]
    kind = fields.kind_of(leaf)
    assert kind is not None, f"{leaf.full_name}: paths.problems let it pass"
    return Column(
        name=paths.name_of(way),
        number=way[0].number,
        inner=tuple(field.number for field in way[1:]),
        kind=kind,
        repeated=leaf.is_repeated,
        nullable=not leaf.is_repeated,
        implicit=not (leaf.is_repeated or leaf.has_presence),
        wrapper=fields.is_wrapper(leaf),
        filterable=True,
    )


def _column(field: FieldDescriptor, kind: Kind) -> Column:
    options = column_options(field)
    return Column(
        name=field.name,
        number=field.number,
        kind=kind,
        repeated=field.is_repeated,
        nullable=field.has_presence,
        wrapper=fields.is_wrapper(field),
        filterable=options.filterable,
        sortable=options.sortable,
        searchable=options.searchable,
    )


def column_options(field: FieldDescriptor) -> contract_pb2.ColumnOptions:
    """The field's column option, empty where it has none."""
    options: contract_pb2.ColumnOptions = contract_options(field).Extensions[contract_pb2.column]
    return options


def source_names(field: FieldDescriptor) -> tuple[str, ...]:
    """The names a file may carry this field under, in order of preference and without repeats."""
    return tuple(dict.fromkeys((field.name, field.json_name, *column_options(field).source)))


def problems(message: Descriptor, options: contract_pb2.DatasetOptions) -> list[str]:
    """Everything that is wrong with a record message, as `reason` or `.field: reason`."""
    found = [*_option_problems(options), *_shape_problems(message, (message.full_name,), "")]
    if any("recursive" in text for text in found):
        return found  # the descriptions below would not end
    found += [problem for field in message.fields for problem in _field_problems(field)]
    found += _path_problems(message)
    found += _key_problems(message, options)
    found += _source_problems(message)
    found += _index_problems(message, options)
    found += _size_problems(message, options)
    return found


def _option_problems(options: contract_pb2.DatasetOptions) -> Iterator[str]:
    if not DATASET_NAME.fullmatch(options.name) or "__" in options.name:
        yield f"dataset name {options.name!r} must match {DATASET_NAME.pattern} and hold no double underscore"
    if options.file_policy == contract_pb2.FILE_POLICY_UNSPECIFIED:
        yield "file_policy is not set: FILE_POLICY_MERGE, FILE_POLICY_SNAPSHOT or FILE_POLICY_MIRROR"
    elif options.file_policy not in _POLICIES:
        known = contract_pb2.FilePolicy.DESCRIPTOR.values_by_number.get(options.file_policy)
        policy = options.file_policy if known is None else known.name
        yield f"file_policy {policy} is not supported by this version"
    if not 0 <= options.max_reject_percent <= 100:
        yield "max_reject_percent must lie between 0 and 100"
    if options.max_row_bytes > LARGEST_ROW_BYTES:
        yield f"max_row_bytes must be at most {LARGEST_ROW_BYTES}, so that a record fits a gRPC message"
    if not 0 <= options.min_rows_percent <= 100:
        yield "min_rows_percent must lie between 0 and 100"
    if options.snapshot_order not in contract_pb2.SnapshotOrder.values():
        yield f"snapshot_order {options.snapshot_order} is not known to this version"
    if options.file_policy != contract_pb2.FILE_POLICY_SNAPSHOT:
        if options.snapshot_order != contract_pb2.SNAPSHOT_ORDER_UNSPECIFIED:
            yield "snapshot_order is for FILE_POLICY_SNAPSHOT only"
        if options.HasField("min_rows_percent"):
            yield "min_rows_percent is for FILE_POLICY_SNAPSHOT only"


def _shape_problems(message: Descriptor, path: tuple[str, ...], prefix: str) -> Iterator[str]:
    """What no message inside a record may be: recursive, Any, groups, required fields, closed enums."""
    for field in message.fields:
        name = f"{prefix}.{field.name}"
        if field.type == FieldDescriptor.TYPE_GROUP:
            yield f"{name}: groups are not supported"
        elif field.is_required:
            yield f"{name}: required fields are not supported; use a buf.validate rule"
        elif field.enum_type is not None and field.enum_type.is_closed:
            yield f"{name}: closed (proto2) enums are not supported; enums are stored open"
        elif field.message_type is not None:
            nested = field.message_type.full_name
            if nested in FORBIDDEN_MESSAGES:
                yield f"{name}: {nested} is not supported: its content has no fixed type"
            elif nested in path:
                yield f"{name}: recursive message {nested} is not supported"
            else:
                yield from _shape_problems(field.message_type, (*path, nested), name)


def _field_problems(field: FieldDescriptor) -> Iterator[str]:
    if field.name.startswith("_") or len(field.name) > 63:
        yield f".{field.name}: a field name must not begin with an underscore and has at most 63 characters"
    if field.name in _POSTGRES_SYSTEM_COLUMNS:
        yield f".{field.name}: is a system column of every Postgres table; name the field otherwise"
    options = column_options(field)
    kind = fields.kind_of(field)
    wanted = [flag for flag in ("filterable", "sortable", "searchable") if getattr(options, flag)]
    if wanted and kind is None:
        yield f".{field.name}: nested, repeated message and map fields have no column and cannot be {wanted[0]}"
    elif field.is_repeated and (options.sortable or options.searchable):
        yield f".{field.name}: a repeated field can be filterable only"
    elif options.searchable and kind is not Kind.STRING:
        yield f".{field.name}: only string fields can be searchable"


def _path_problems(message: Descriptor) -> Iterator[str]:
    for field in message.fields:
        yield from paths.problems(field, column_options(field).filterable_paths)
        if field.message_type is not None:
            name = f".{field.name}"
            yield from _idle_options(field.message_type, name, "" if field.is_repeated else name)


def _idle_options(message: Descriptor, prefix: str, outer: str) -> Iterator[str]:
    """Column options inside a message, where they do nothing; a record's are for its own dataset.

    `outer` is the top-level field whose filterable_paths may name what is inside; empty where none may.
    """
    if dataset_options(message) is not None:
        return
    for field in message.fields:
        if contract_options(field).HasExtension(contract_pb2.column):
            name = f"{prefix}.{field.name}"
            hint = f"; name the field in filterable_paths, on {outer}" if outer else ""
            yield f"{name}: the column option does nothing inside a message{hint}"
        if field.message_type is not None:
            yield from _idle_options(field.message_type, f"{prefix}.{field.name}", "" if field.is_repeated else outer)


def _key_problems(message: Descriptor, options: contract_pb2.DatasetOptions) -> Iterator[str]:
    if not options.key:
        yield "key is not set: name the field or fields that identify a row"
    if len(set(options.key)) != len(options.key):
        yield "key names a field twice"
    for name in options.key:
        field = message.fields_by_name.get(name)
        kind = fields.kind_of(field) if field is not None else None
        if field is None:
            yield f"key names {name!r}, which is no field of the message"
        elif kind not in KEY_KINDS or field.is_repeated:
            yield f".{name}: a key field is a string, an integer, an enum, a bool or a google.type.Date"
        elif (field.has_presence and kind is not Kind.DATE) or field.containing_oneof:
            yield f".{name}: a key field must not be optional, a wrapper or a oneof member"


def _source_problems(message: Descriptor) -> Iterator[str]:
    owners: dict[str, str] = {}
    for field in message.fields:
        for name in source_names(field):
            owner = owners.setdefault(name, field.name)
            if owner != field.name:
                yield f".{field.name}: source {name!r} already feeds field {owner!r}"


def _index_problems(message: Descriptor, options: contract_pb2.DatasetOptions) -> Iterator[str]:
    for position, index in enumerate(options.indexes):
        if not index.fields:
            yield f"indexes[{position}] names no field"
        for text in index.fields:
            try:
                name = _index_field(text).name
            except ValueError as exc:
                yield f"indexes[{position}]: {exc}"
                continue
            field = _indexed_field(message, name)
            if field is None:
                unnamed = "." in name and name.partition(".")[0] in message.fields_by_name
                why = "is not among the filterable_paths there" if unnamed else "is no field of the message"
                yield f"indexes[{position}] names {name!r}, which {why}"
            elif fields.kind_of(field) is None or field.is_repeated:
                yield f"indexes[{position}] names {name!r}, which has no single-valued column"


def _indexed_field(message: Descriptor, name: str) -> FieldDescriptor | None:
    """The field that an index may name: a top-level one, or one inside it that `filterable_paths` names."""
    head, dot, path = name.partition(".")
    field = message.fields_by_name.get(head)
    if field is None or not dot:
        return field
    named = path in column_options(field).filterable_paths and not paths.problems(field, [path])
    return paths.way(field, path)[-1] if named else None


def _size_problems(message: Descriptor, options: contract_pb2.DatasetOptions) -> Iterator[str]:
    """What Postgres would refuse only when the migration runs."""
    inner = sum(len(column_options(field).filterable_paths) for field in message.fields)
    columns = inner + sum(fields.kind_of(field) is not None for field in message.fields)
    if columns > _MOST_COLUMNS:
        yield f"has {columns} fields with a column; a Postgres table holds {_MOST_COLUMNS} of them: nest some"
    # The table of deleted keys is indexed by version and key.
    if len(options.key) + 1 > _MOST_INDEX_COLUMNS:
        yield f"key names {len(options.key)} fields; at most {_MOST_INDEX_COLUMNS - 1} fit an index"
        return
    for field in message.fields:
        flags = column_options(field)
        if (
            (flags.filterable or flags.sortable or flags.filterable_paths)
            and not field.is_repeated
            and len({field.name, *options.key}) > _MOST_INDEX_COLUMNS
        ):
            yield f".{field.name}: its index would hold the key too, more than {_MOST_INDEX_COLUMNS} columns"
    for position, index in enumerate(options.indexes):
        names = {text.split()[0] for text in index.fields if text.split()}
        if len(names | set(options.key)) > _MOST_INDEX_COLUMNS:
            yield f"indexes[{position}] would hold more than {_MOST_INDEX_COLUMNS} columns, those of the key included"


def _index_field(text: str) -> IndexField:
    """`name`, `name asc` or `name desc`."""
    name, *direction = text.split() or [""]
    if not name or direction not in ([], ["asc"], ["desc"]):
        raise ValueError(f"{text!r} is not of the form 'field' or 'field desc'")
    return IndexField(name=name, descending=direction == ["desc"])


def _by_number(message: Descriptor) -> list[FieldDescriptor]:
    return sorted(message.fields, key=lambda field: field.number)

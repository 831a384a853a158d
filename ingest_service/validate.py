"""buf.validate rules over rows, through protovalidate. The one step of a load that touches rows one by one, where
column_rules.py cannot tell from whole columns that a row keeps them.

Pure but for the compiled rules, which are kept per dataset. Never drops a row: it says what is wrong with which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import protovalidate
import pyarrow as pa
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from ingest_service.column_rules import ColumnRules, column_rules
from ingest_service.rejects import subscript
from shared.contract.model import Dataset

# protovalidate does not release the GIL: this many rows (about 1 ms) may hold up the event loop at a time.
ROWS_PER_CALL = 256
EVALUATION_PREFIX = "error evaluating "


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule that a row breaks: the row's place in the batch, the field's path, the rule's id, and what it asks."""

    row: int
    field: str
    rule: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """A dataset's compiled rules.

    `page_class` holds `repeated Record records = 1`: framed rows, joined, are its bytes, so that one call parses many
    rows and one validates them. `columns` is None where whole columns tell nothing.
    """

    page_class: type[Any]
    validator: protovalidate.Validator
    columns: ColumnRules | None


def violations(dataset: Dataset, typed: pa.RecordBatch, wire: pa.BinaryArray) -> list[Violation]:
    """Every rule that a row breaks, in the order of rows; none where the dataset has no rules.

    `typed` is the batch of columns.typed_batch, `wire` holds its rows framed (see encode.message.frame) without nulls.
    A rule that cannot be evaluated on a row is broken by it.
    """
    if not dataset.has_rules or not len(wire):
        return []
    rules = compile_rules(dataset)
    if rules.columns is None:
        return row_violations(rules, wire)
    doubtful = rules.columns.doubtful(typed)
    if not len(doubtful):
        return []
    found = row_violations(rules, wire.take(doubtful))
    return [replace(violation, row=doubtful[violation.row].as_py()) for violation in found]


def row_violations(rules: Rules, wire: pa.BinaryArray) -> list[Violation]:
    """The same of every framed row, one by one."""
    _, offsets_buffer, data_buffer = wire.buffers()
    offsets, data = memoryview(offsets_buffer).cast("i"), memoryview(data_buffer)
    found: list[Violation] = []
    for first in range(0, len(wire), ROWS_PER_CALL):
        last = min(first + ROWS_PER_CALL, len(wire))
        page = rules.page_class()
        page.MergeFromString(data[offsets[wire.offset + first] : offsets[wire.offset + last]])
        found += _of_page(rules.validator, page, first)
    return found


def _of_page(validator: protovalidate.Validator, page: Any, first: int) -> Iterable[Violation]:
    try:
        found = validator.collect_violations(page)
    except protovalidate.EvaluationError:
        rows = (_of_row(validator, record, first + index) for index, record in enumerate(page.records))
        return [violation for row in rows for violation in row]
    return [_placed(violation.proto, first) for violation in found]


def _placed(found: Any, first: int) -> Violation:
    """A page's violation: the first element of its path is the row's index."""
    row, *path = found.field.elements
    return Violation(row=first + row.subscript.value, field=_path(path), rule=found.rule_id, message=found.message)


def _of_row(validator: protovalidate.Validator, record: Any, row: int) -> Iterator[Violation]:
    try:
        found = [violation.proto for violation in validator.collect_violations(record)]
    except protovalidate.EvaluationError as exc:
        reason = str(exc).removeprefix(EVALUATION_PREFIX)
        yield Violation(row=row, field="", rule=reason.partition(":")[0], message=f"cannot be evaluated: {reason}")
        return
    for one in found:
        elements = one.field.elements if one.field else []
        yield Violation(row=row, field=_path(elements), rule=one.rule_id, message=one.message)


def _path(elements: Sequence[Any]) -> str:
    """`sender.country`, `parcels[2].barcode`, `labels["colour"]`."""
    parts = []
    for element in elements:
        place = "" if element.subscript is None else subscript(element.subscript.value)
        parts.append(f"{element.field_name}{place}")
    return ".".join(parts)


# Kept by the dataset's identity; a validator caches by message name, so two contract sets must never share one.
@lru_cache(maxsize=256)
def compile_rules(dataset: Dataset) -> Rules:
    """The dataset's rules, compiled; call it at start. Rules that cannot work were refused with the contract."""
    page_class = message_factory.GetMessageClass(_page_descriptor(dataset.message))
    validator = protovalidate.Validator()
    validator.collect_violations(page_class())
    return Rules(page_class=page_class, validator=validator, columns=column_rules(dataset))


def _page_descriptor(record: Descriptor) -> Descriptor:
    """`message Page { repeated Record records = 1; }`, in a pool of its own: reflection serves the contracts' pool."""
    pool = DescriptorPool()
    _add_file(pool, record.file, set())
    file = descriptor_pb2.FileDescriptorProto(name="penstock/page.proto", package="penstock.page", syntax="proto3")
    file.dependency.append(record.file.name)
    field = file.message_type.add(name="Page").field.add(name="records", number=1)
    field.label, field.type = field.LABEL_REPEATED, field.TYPE_MESSAGE
    field.type_name = f".{record.full_name}"
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName("penstock.page.Page")


def _add_file(pool: DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add_file(pool, dependency, added)
    pool.AddSerializedFile(file.serialized_pb)

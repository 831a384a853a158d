"""NDJSON: what protobuf's own json_format writes is read back as the same message, and both paths are one."""

from __future__ import annotations

import calendar
import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest_service.decode import DecodeLimits, open_decoder
from shared.contract.fields import is_map
from shared.contract.model import ContractSet, Dataset

CPP = FieldDescriptor
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    CPP.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    CPP.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    CPP.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    CPP.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    CPP.CPPTYPE_DOUBLE: st.floats(),
    CPP.CPPTYPE_FLOAT: st.floats(width=32),
    CPP.CPPTYPE_BOOL: st.booleans(),
    CPP.CPPTYPE_ENUM: st.one_of(st.integers(0, 3), st.integers(-(2**31), 2**31 - 1)),
}


@st.composite
def dates(draw: st.DrawFn) -> dict[str, int]:
    """A real day."""
    year, month = draw(st.integers(1, 9999)), draw(st.integers(1, 12))
    return {"year": year, "month": month, "day": draw(st.integers(1, calendar.monthrange(max(year, 1), month)[1]))}


SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "google.protobuf.Timestamp": st.fixed_dictionaries(
        {"seconds": st.integers(-62135596800, 253402300799), "nanos": st.integers(0, 999_999_999)}
    ),
    "google.protobuf.Duration": st.builds(
        lambda sign, seconds, nanos: {"seconds": sign * seconds, "nanos": sign * nanos},
        st.sampled_from([1, -1]),
        st.integers(0, 315_575_999_999),
        st.integers(0, 999_999_999),
    ),
    "google.type.Date": dates(),
}


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """One value of the field."""
    if field.message_type is not None:
        name = field.message_type.full_name
        return SPECIAL[name] if name in SPECIAL else messages(field.message_type)
    if field.cpp_type == CPP.CPPTYPE_STRING:
        return st.binary(max_size=6) if field.type == CPP.TYPE_BYTES else texts
    return SCALARS[field.cpp_type]


def messages(descriptor: Descriptor, required: tuple[str, ...] = ()) -> st.SearchStrategy[dict[str, Any]]:
    """Fields to set, by name: maps as dicts, messages as dicts of their fields, at most one member of a oneof."""
    every: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        if is_map(field):
            assert field.message_type is not None
            key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            every[field.name] = st.dictionaries(values(key), values(value), max_size=2)
        else:
            every[field.name] = st.lists(values(field), max_size=3) if field.is_repeated else values(field)
    wanted = st.fixed_dictionaries(
        {name: every[name] for name in required},
        optional={name: strategy for name, strategy in every.items() if name not in required},
    )
    return wanted.map(lambda chosen: one_of_each(descriptor, chosen))


def one_of_each(descriptor: Descriptor, chosen: dict[str, Any]) -> dict[str, Any]:
    """The choice without the later members of a oneof."""
    for oneof in descriptor.oneofs:
        for extra in [field.name for field in oneof.fields if field.name in chosen][1:]:
            chosen.pop(extra)
    return chosen


def fill(message: Any, chosen: dict[str, Any]) -> Any:
    """The message with these fields set; the same form that a decoded row has, maps as lists of entries included."""
    for name, value in chosen.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if value is None:
            continue
        if is_map(field):
            entries = value.items() if isinstance(value, dict) else [(one["key"], one["value"]) for one in value]
            for key, element in entries:
                if isinstance(element, dict):
                    fill(getattr(message, name)[key], element)
                else:
                    getattr(message, name)[key] = element
        elif field.is_repeated:
            for element in value:
                if isinstance(element, dict):
                    fill(getattr(message, name).add(), element)
                else:
                    getattr(message, name).append(element)
        elif isinstance(value, dict):
            getattr(message, name).SetInParent()
            fill(getattr(message, name), value)
        else:
            setattr(message, name, value)
    return message


class Shipments:
    """The dataset, no dataclass: hypothesis prints those in full and warns that it did."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset


@pytest.fixture(scope="module")
def shipments(contracts: ContractSet) -> Shipments:
    """The sample dataset that uses every type."""
    return Shipments(contracts.datasets["shipments"])


def decode(dataset: Dataset, data: bytes, *, row_by_row: bool) -> dict[str, Any]:
    """Everything that decoding gives."""
    decoder = open_decoder(dataset, "a.ndjson", None, DecodeLimits())
    (block,) = [*decoder.feed(data), *decoder.finish()]
    done = decoder.decode_block(block, row_by_row=row_by_row)
    return {
        "rows": done.batch.to_pylist(),
        "lines": done.lines.to_pylist(),
        "rejects": list(done.rejects),
        "unknown": sorted(done.unknown_columns),
        "unreadable": done.keys_unreadable,
        "keys": done.rejected_keys.to_pylist(),
    }


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data(), proto_names=st.booleans(), enum_numbers=st.booleans(), ascii_only=st.booleans())
def test_what_protobuf_writes_as_json_is_read_back(
    shipments: Shipments, data: st.DataObject, proto_names: bool, enum_numbers: bool, ascii_only: bool
) -> None:
    dataset = shipments.dataset
    chosen = data.draw(st.lists(messages(dataset.message, dataset.key), min_size=1, max_size=3))
    written = [fill(dataset.message_class(), fields) for fields in chosen]
    lines = []
    for message in written:
        text = json_format.MessageToJson(
            message,
            preserving_proto_field_name=proto_names,
            use_integers_for_enums=enum_numbers,
            ensure_ascii=ascii_only,
            indent=None,
        )
        # Implicit-presence defaults are left out by json_format, and a key must be written out.
        lines.append(json.dumps(json.loads(text) | {name: getattr(message, name) for name in dataset.key}))
    for row_by_row in (False, True):
        got = decode(dataset, "\n".join(lines).encode(), row_by_row=row_by_row)
        assert got["rejects"] == []
        read = [fill(dataset.message_class(), row) for row in got["rows"]]
        assert [one_nan(message) for message in read] == [one_nan(message) for message in written]


def one_nan(message: Any) -> str:
    """The message as text: exact, NaN equals NaN, and the order of map entries does not count."""
    return json.dumps(json_format.MessageToDict(message, always_print_fields_with_no_presence=True), sort_keys=True)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.sampled_from(
        ["NaN", "1", "-0", "2024-02-29", "2024-01-01T00:00:00Z", "1.5s", "SHIPMENT_STATE_BOOKED", "_-8", "\0"]
    ),
)
names = st.sampled_from(["city", "lines", "year", "month", "day", "a", "1", "barcode", "route", "labels", "weightG"])
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_both_paths_take_the_same_json_with_the_same_result(shipments: Shipments, data: st.DataObject) -> None:
    dataset = shipments.dataset
    fields = [name for field in dataset.message.fields for name in dataset.sources[field.name]]
    touched = data.draw(st.lists(st.sampled_from([*fields, "zz"]), min_size=1, max_size=4, unique=True))
    kinds = {name: data.draw(st.sampled_from(["same", "any"])) for name in touched}
    same = {name: data.draw(trees) for name in touched}
    rows = [
        {"carrier": "C", "number": number}
        | {name: same[name] if kinds[name] == "same" else data.draw(trees) for name in touched}
        for number in range(data.draw(st.integers(1, 4)))
    ]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    assert repr(decode(dataset, text, row_by_row=False)) == repr(decode(dataset, text, row_by_row=True))

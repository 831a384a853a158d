"""One value's text: whatever the columnar cast takes, the value parser takes with the same result."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.descriptor import EnumDescriptor
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.decode.model import BadValue
from ingest_service.decode.scalars import text_parser
from ingest_service.decode.text_columns import cast_texts
from shared.contract.model import ContractSet, Kind

SEEDS: dict[Kind, list[str]] = {
    Kind.BOOL: ["true", "FALSE", "t", "0"],
    Kind.INT32: ["-2147483648", "2147483648", "+5", "007", "0x1F", "1.0"],
    Kind.INT64: ["9223372036854775807", "-9223372036854775809"],
    Kind.UINT32: ["4294967295", "-1", "-0"],
    Kind.UINT64: ["18446744073709551615", "18446744073709551616"],
    Kind.FLOAT: ["1.5e10", "-.5", "5.", "NaN", "-Infinity", "3.4028235e38", "3.4028236e38", "nan(ab)", "1e400"],
    Kind.DOUBLE: ["1.7976931348623157e308", "1.7976931348623159e308", "5e-324", "inf", "+nan", "0x1p3"],
    Kind.STRING: ["abc", "a\0b"],
    Kind.BYTES: ["aGVsbG8=", "_-8"],
    Kind.ENUM: ["SHIPMENT_STATE_BOOKED", "3", "-7", "99999999999"],
    Kind.TIMESTAMP: [
        "2024-01-31T10:20:30.123456789+05:30",
        "2024-02-29 10:20Z",
        "0001-01-01",
        "9999-12-31T23:59:59-0100",
        "1969-12-31T23:59:59.5Z",
        "2020-01-01T05+01:00",
        "1600-01-01 00:00:00.123456789",
    ],
    Kind.DURATION: ["1.5s", "-0.000000001s", "315576000000s", "-315576000000.0s"],
    Kind.DATE: ["2024-02-29", "0000-01-01", "9999-12-31"],
}


@st.composite
def near(draw: st.DrawFn, seed: str) -> str:
    """The seed with up to two characters put in, taken out or replaced."""
    text = list(seed)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        text[place : place + draw(st.integers(0, 1))] = draw(st.text("0123456789-+:.TZtzeEsxXnif ٣\n", max_size=1))
    return "".join(text)


@pytest.fixture(scope="module")
def enum(contracts: ContractSet) -> EnumDescriptor:
    """An enum of the sample contract."""
    found = contracts.datasets["shipments"].message.fields_by_name["state"].enum_type
    assert found is not None
    return found


@pytest.mark.parametrize("kind", SEEDS, ids=lambda kind: kind.value)
@given(data=st.data())
def test_the_columnar_cast_takes_nothing_that_the_parser_refuses(
    enum: EnumDescriptor, kind: Kind, data: st.DataObject
) -> None:
    text = data.draw(st.sampled_from(SEEDS[kind]).flatmap(near))
    column = cast_texts(pa.array([text, None]), kind, enum)
    parsed: Any
    try:
        parsed = text_parser(kind, enum)(text)
    except BadValue as bad:
        parsed = bad
    if column is not None:
        assert repr(column.to_pylist()) == repr([parsed, None])

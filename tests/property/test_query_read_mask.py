"""Whatever the records and the mask: what is cut from stored bytes is what clearing the other fields leaves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from query_service.masks import read_mask
from shared.contract.fields import is_map
from shared.contract.model import ContractSet, Dataset, Method
from tests.integration.query.lab import frame

TEXTS = ["", "x", "é\U00010000", "long " * 50]
NUMBERS = [0, 1, 3, 127, 2**31 - 1]


def shipments(contracts: ContractSet) -> tuple[Dataset, Method, Any]:
    service = next(one for one in contracts.services if one.dataset.name == "shipments")
    method = next(method for method in service.methods if "read_mask" in method.request_fields)
    return service.dataset, method, GetMessageClass(method.output)


def fill(message: Any, chance: random.Random) -> Any:
    """Sets a random half of the fields, those with presence also to their defaults."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.5:
            continue
        if is_map(field):
            fill_map(getattr(message, field.name), field.message_type, chance)
        elif field.message_type is not None:
            for _ in range(chance.randrange(3) if field.is_repeated else 1):
                part = getattr(message, field.name)
                fill(part.add() if field.is_repeated else part, chance)
                if not field.is_repeated:
                    part.SetInParent()
        elif field.is_repeated:
            getattr(message, field.name).extend(scalar(field, chance) for _ in range(chance.randrange(4)))
        else:
            setattr(message, field.name, scalar(field, chance))
    return message


def fill_map(entries: Any, entry: Descriptor, chance: random.Random) -> None:
    key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
    for _ in range(chance.randrange(3)):
        if value.message_type is None:
            entries[scalar(key, chance)] = scalar(value, chance)
        else:
            fill(entries[scalar(key, chance)], chance)


def scalar(field: FieldDescriptor, chance: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.choice(TEXTS).encode()
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return float(chance.choice(NUMBERS[:4]))
    return chance.random() < 0.5 if field.type == FieldDescriptor.TYPE_BOOL else chance.choice(NUMBERS)


def paths(message: Descriptor, prefix: str = "") -> Iterator[str]:
    """Every path that a mask may name."""
    for field in message.fields:
        yield prefix + field.name
        if field.message_type is not None and not field.is_repeated:
            yield f"{prefix}{field.name}.*"
            yield from paths(field.message_type, f"{prefix}{field.name}.")


def keep(message: Any, wanted: list[str]) -> Any:
    """Clears what no path names."""
    for field, _ in message.ListFields():
        inner = [path.removeprefix(f"{field.name}.") for path in wanted if path.startswith(f"{field.name}.")]
        if field.name in wanted or "*" in inner:
            continue
        if inner:
            keep(getattr(message, field.name), inner)
        else:
            message.ClearField(field.name)
    return message


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 5), data=st.data())
def test_a_masked_page_has_the_named_fields_as_they_are_and_no_others(
    contracts: ContractSet, seed: int, count: int, data: st.DataObject
) -> None:
    dataset, method, response_class = shipments(contracts)
    chance = random.Random(seed)
    records = [fill(dataset.message_class(), chance) for _ in range(count)]
    wanted = data.draw(st.lists(st.sampled_from(list(paths(dataset.message))), min_size=1, max_size=6))
    mask = read_mask(method, dataset, method.input_class(read_mask={"paths": wanted}))
    assert mask is not None
    page = mask.page(b"".join(frame(record.SerializeToString(deterministic=True)) for record in records))
    single = [mask.record(record.SerializeToString()) for record in records]
    expected = [keep(record, wanted) for record in records]
    assert list(response_class.FromString(page).shipments) == expected
    assert [dataset.message_class.FromString(cut) for cut in single] == expected

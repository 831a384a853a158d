"""JSON arrays: whatever json writes is cut into the rows that json reads, however the bytes arrive."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ingest_service.decode.json_array import ArraySplitter
from ingest_service.decode.model import DecodeLimits

texts = st.text(st.one_of(st.sampled_from('[]{}",:\\\n é\0'), st.characters(exclude_categories=["Cs"])), max_size=6)
trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=20,
)


@given(
    rows=st.lists(trees, max_size=8),
    around=st.dictionaries(texts, trees, max_size=3),
    path=st.lists(texts, max_size=2),
    layout=st.sampled_from([(None, (",", ":")), (None, (", ", ": ")), (0, None), (2, None)]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 40),
    block_bytes=st.sampled_from([1, 30, 1 << 20]),
)
def test_elements_are_those_that_json_reads(
    rows: list[Any],
    around: dict[str, Any],
    path: list[str],
    layout: Any,
    ascii_only: bool,
    chunk: int,
    block_bytes: int,
) -> None:
    document: Any = rows
    for name in reversed(path):
        document = {key: value for key, value in around.items() if key != name} | {name: document} | {name + "x": 1}
    data = json.dumps(document, indent=layout[0], separators=layout[1], ensure_ascii=ascii_only).encode()
    splitter = ArraySplitter(path, DecodeLimits(block_bytes=block_bytes), 1)
    blocks = [block for start in range(0, len(data), chunk) for block in splitter.feed(data[start : start + chunk])]
    blocks += splitter.finish()
    elements = [text for block in blocks for text in block.data.split(b"\n")[:-1]]
    assert [json.loads(text) for text in elements] == rows
    assert [block.first_line for block in blocks] == [
        1 + sum(len(before.lines or ()) for before in blocks[:index]) for index in range(len(blocks))
    ]
    found = [line for block in blocks for line in block.lines or ()]
    lines = data.split(b"\n")
    assert len(found) == len(rows)
    assert found == sorted(found)
    assert all(element.split(b"\r")[0] in lines[line - 1] for line, element in zip(found, elements, strict=True))

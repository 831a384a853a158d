"""Order of S3 events of one key, as AWS defines it."""

from __future__ import annotations

import pytest

from ingest_service.sequencer import compare


@pytest.mark.parametrize(
    ("left", "right", "order"),
    [
        ("0055AED6DCD90281E5", "0055AED6DCD90281E6", -1),
        ("0055AED6DCD90281E5", "0055AED6DCD90281E5", 0),
        ("01", "0055AED6DCD90281E5", 1),
        ("0A", "0A00", 0),
        ("0A", "0A01", -1),
        ("0B", "0A01", 1),
        ("0a", "0A", 0),
        ("", "0", 0),
    ],
)
def test_shorter_sequencer_is_padded_with_zeros_on_the_right(left: str, right: str, order: int) -> None:
    assert compare(left, right) == order
    assert compare(right, left) == -order

"""Keys as SQL gives them, set on messages. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from query_service.values import set_value
from shared.contract.model import Dataset


def set_key(dataset: Dataset, message: Any, key: Sequence[Any]) -> None:
    """Sets the key fields of a message that has them, from their values in SQL, in keyset order."""
    for column, value in zip(dataset.key_columns, key, strict=True):
        set_value(column.kind, message, column.name, value)

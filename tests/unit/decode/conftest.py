"""One call from the bytes of an object to everything that decoding gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ingest_service.decode import DecodeLimits, Dialect, open_decoder
from ingest_service.rejects import Reject
from shared.contract.model import ContractSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A whole object, decoded; `rows` without absent fields."""

    rows: list[dict[str, Any]]
    lines: list[int]
    raw: list[bytes]
    rejects: list[Reject]
    rows_read: int
    unknown: set[str]
    keys_unreadable: int
    rejected_keys: list[dict[str, Any]]
    largest_block: int

    @property
    def faults(self) -> list[tuple[int, str, str]]:
        """Line, field and rule of each reject."""
        return [(reject.line, reject.field, reject.rule) for reject in self.rejects]


Decode = Callable[..., Decoded]


@pytest.fixture
def decode(contracts: ContractSet) -> Decode:
    """decode(dataset, key, data, chunk=..., encoding=..., row_by_row=..., dialect=..., **limits)."""

    def run(
        dataset: str,
        key: str,
        data: bytes,
        *,
        chunk: int = 1 << 20,
        encoding: str | None = None,
        row_by_row: bool = False,
        dialect: Dialect | None = None,
        **limits: int,
    ) -> Decoded:
        decoder = open_decoder(contracts.datasets[dataset], key, encoding, DecodeLimits(**limits), dialect or Dialect())
        blocks = [block for start in range(0, len(data), chunk) for block in decoder.feed(data[start : start + chunk])]
        blocks += decoder.finish()
        assert [block.ordinal for block in blocks] == list(range(len(blocks)))
        done = [decoder.decode_block(block, row_by_row=row_by_row) for block in blocks]
        return Decoded(
            rows=[{k: v for k, v in row.items() if v is not None} for part in done for row in part.batch.to_pylist()],
            lines=[line for part in done for line in part.lines.to_pylist()],
            raw=[part.raw(row) for part in done for row in range(part.batch.num_rows)],
            rejects=[reject for part in done for reject in part.rejects],
            rows_read=sum(part.rows_read for part in done),
            unknown={name for part in done for name in part.unknown_columns},
            keys_unreadable=sum(part.keys_unreadable for part in done),
            rejected_keys=[key for part in done for key in part.rejected_keys.to_pylist()],
            largest_block=max((len(block.data) for block in blocks), default=0),
        )

    return run

"""Files of airports whose rows are known in advance, and the rows as the table has to hold them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
from pyarrow import parquet

from shared.contract.model import Dataset

DATASET = "airports"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Name and stored bytes by key.
Rows: TypeAlias = "Mapping[str, tuple[str, bytes]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A CSV file: names by number of the airport, and so many rows at its end that break a rule of the contract."""

    names: Mapping[int, str]
    bad_rows: int = 0

    def body(self) -> bytes:
        """The file's bytes."""
        good = (f"{code(number)},{name},NO,1.5,{number % 90}\n" for number, name in self.names.items())
        bad = (f"not a code {number},There,NO,1.5,2\n" for number in range(self.bad_rows))
        return "".join(["icao,name,country,lat,lon\n", *good, *bad]).encode()

    def parquet(self) -> bytes:
        """The same as Parquet, nothing in it shortened: as long as the CSV, so that it is read in many ranges."""
        count = len(self.names)
        columns = {
            "icao": [code(number) for number in self.names],
            "name": list(self.names.values()),
            "country": ["NO"] * count,
            "lat": [1.5] * count,
            "lon": [number % 90 for number in self.names],
        }
        whole = io.BytesIO()
        parquet.write_table(pa.table(columns), whole, row_group_size=20_000, use_dictionary=False, compression="none")
        return whole.getvalue()

    def rows(self, dataset: Dataset) -> dict[str, tuple[str, bytes]]:
        """What the table holds of it."""
        return {code(number): (name, _framed(dataset, number, name)) for number, name in self.names.items()}


def code(number: int) -> str:
    """A key: four characters, in the order of the numbers."""
    text = ""
    for _ in range(4):
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text


def named(numbers: Iterable[int], name: str) -> dict[int, str]:
    """All of these airports by that name, made so long that nothing fits into a buffer."""
    return dict.fromkeys(numbers, name.ljust(60, "."))


def _framed(dataset: Dataset, number: int, name: str) -> bytes:
    """The record as field 1 of a response."""
    message: Any = dataset.message_class(
        icao=code(number), name=name, country="NO", latitude=1.5, longitude=float(number % 90)
    )
    body: bytes = message.SerializeToString(deterministic=True)
    assert len(body) < 128
    return b"\x0a" + bytes([len(body)]) + body

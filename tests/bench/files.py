"""The benchmark's rows, the same in every run, and the files that hold them. Knows no database and no service."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pyarrow import csv, parquet

COLUMNS = (
    "id",
    "customer",
    "product",
    "quantity",
    "price",
    "currency",
    "country",
    "express",
    "update_time",
    "note",
)
# Rows of one file differ by this many classes; revising one class changes 1 % of the rows.
CLASSES = 100
# Row after row another customer: those of one lie this many rows apart.
CUSTOMERS = 20_011
_HEADER = ",".join(COLUMNS) + "\n"
_FIRST_SECOND = 1_760_000_000
_CURRENCIES = ("EUR", "USD", "NOK", "JPY", "KES")
_COUNTRIES = ("IS", "NO", "PT", "KE", "JP", "DE", "US")
_WORDS = ("leave", "with", "the", "neighbour", "ring", "twice", "fragile", "keep", "dry", "call", "before", "gift")
_WRITE_ROWS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsFile:
    """A file of distinct rows on disk."""

    path: Path
    rows: int

    @property
    def size_bytes(self) -> int:
        """As it lies on disk."""
        return self.path.stat().st_size


def order_id(number: int) -> str:
    """The key; sorts as the number does."""
    return f"O{number:011d}"


def customer_number(number: int) -> int:
    """Whose order row `number` is, from 0 and below CUSTOMERS."""
    return number * 7919 % CUSTOMERS


def customer(which: int) -> str:
    """The customer's name; sorts as the number does."""
    return f"customer-{which:05d}"


def update_second(number: int) -> int:
    """The row's update_time, in Unix seconds; no two of 31 M rows have the same."""
    return _FIRST_SECOND + number * 37 % 31_536_000


def values(number: int, revision: int = 0) -> tuple[str, ...]:
    """Row `number` in text form, in the order of COLUMNS; another revision differs in two columns."""
    moment = datetime.fromtimestamp(update_second(number), UTC)
    words = " ".join(_WORDS[(number >> shift) % len(_WORDS)] for shift in range(0, 16, 2))
    return (
        order_id(number),
        customer(customer_number(number)),
        f"product-{number * 104_729 % 5_003:04d}",
        str(1 + number % 97),
        f"{(number * 31 % 100_000 + 1 + revision) / 100:.2f}",
        _CURRENCIES[number % len(_CURRENCIES)],
        _COUNTRIES[number % len(_COUNTRIES)],
        "true" if number % 5 == 0 else "false",
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        f"{words} {revision}",
    )


def shuffled(rows: int) -> Sequence[int]:
    """The numbers below `rows` in an order that is no index's, as exports come; the same one every time."""
    numbers = list(range(rows))
    random.Random(rows).shuffle(numbers)
    return numbers


def revised(numbers: Iterable[int], classes: int) -> Iterator[tuple[int, int]]:
    """Row numbers with their revisions: those of the first `classes` of CLASSES classes are at revision 1."""
    return ((number, int(number % CLASSES < classes)) for number in numbers)


def csv_lines(rows: Iterable[tuple[int, int]]) -> Iterator[str]:
    """A header and one line for each (number, revision)."""
    yield _HEADER
    for number, revision in rows:
        yield ",".join(values(number, revision)) + "\n"


def csv_bytes(numbers: Iterable[int], revision: int = 0) -> bytes:
    """A small CSV file."""
    return "".join(csv_lines((number, revision) for number in numbers)).encode()


def write_csv(path: Path, numbers: Sequence[int], classes: int = 0) -> RowsFile:
    """A CSV of these rows in this order, the first `classes` classes revised."""
    with path.open("w", encoding="utf-8", buffering=1 << 20) as file:
        file.writelines(csv_lines(revised(numbers, classes)))
    return RowsFile(path=path, rows=len(numbers))


def write_ndjson_gzip(path: Path, numbers: Sequence[int]) -> RowsFile:
    """The same rows as gzip-compressed NDJSON."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for begin in range(0, len(numbers), _WRITE_ROWS):
            lines = (json.dumps(json_row(number)) for number in numbers[begin : begin + _WRITE_ROWS])
            file.write(("\n".join(lines) + "\n").encode())
    return RowsFile(path=path, rows=len(numbers))


def write_parquet(path: Path, source: RowsFile, *, row_groups: int) -> RowsFile:
    """The rows of a CSV as uncompressed Parquet, in so many row groups."""
    table = csv.read_csv(source.path)
    parquet.write_table(table, path, row_group_size=-(-source.rows // row_groups), compression="none")
    return RowsFile(path=path, rows=source.rows)


def json_row(number: int) -> dict[str, object]:
    """Row `number` as JSON has it."""
    row: dict[str, object] = dict(zip(COLUMNS, values(number), strict=True))
    row["quantity"] = 1 + number % 97
    row["price"] = float(str(row["price"]))
    row["express"] = number % 5 == 0
    return row

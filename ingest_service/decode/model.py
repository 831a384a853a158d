"""The values that pass through decoding: limits, blocks of whole rows, decoded blocks. No behaviour beyond checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from ingest_service.rejects import Reject
from shared.errors import PenstockError

MIB = 1024 * 1024
# Places of one object where the rows of several are in one order: more than an object may have bytes
# (max_decompressed_bytes), and few enough for as many objects as parts may be listed (ReadPolicy.max_listed).
PLACES = 1 << 44


class MalformedObject(PenstockError):
    """The object as a whole cannot be read; trying again gives the same. `reason` says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What bounds memory and work, whatever an object holds.

    `block_rows` is about how many rows a block holds however short they are: a bad row costs microseconds, and half a
    million of them would keep a thread for seconds. `max_row_bytes` is of the raw row; a longer one is rejected.
    `max_ratio` (decompressed to compressed) applies once `ratio_grace_bytes` are out: small files of equal rows may be
    very dense, and bombs are as dense as can be (deflate reaches 1032).
    """

    block_bytes: int = 1 * MIB
    block_rows: int = 64 * 1024
    max_row_bytes: int = 16 * MIB
    max_decompressed_bytes: int = 1024 * 1024 * MIB
    max_ratio: int = 500
    ratio_grace_bytes: int = 1024 * MIB
    max_columns: int = 10_000
    max_unknown_columns: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Whole rows of an object, every row ended; `first_line` is the physical line where `data` begins, from 1.

    `rejects` are rows that could not even be cut out (overlong, broken quotes): in `data` they are blank lines, so that
    line numbers stay true. `lines`: where each row of `data` begins, where that is not told by counting; the rows are
    then numbered from `first_line`, also in `rejects`.
    """

    ordinal: int
    first_line: int
    data: bytes
    rejects: tuple[Reject, ...] = ()
    lines: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """Rows of a block that were read and are not wanted: how many, and `keys` and `order` of those good ones that stand
    behind the first wanted row of the object. A wanted row whose key is among them is not the object's last word."""

    rows: int
    keys: pa.RecordBatch
    order: pa.Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedBlock:
    """The good rows of a block in the record's canonical Arrow form, in file order, and the rejected ones.

    `lines[i]` is the physical line where row i of `batch` begins, `raw(i)` its bytes without the line end. `order`
    grows from row to row of the object; it is `lines` where no two rows begin on one line, but for `first_place`, which
    is added where rows of several objects must be told apart. `rows_read == batch.num_rows + len(rejects)`.
    `rejected_keys` holds the key fields of those rejected rows whose key is readable; `keys_unreadable` counts the
    others. `part`: as of Reject. `passed_over`: where only some rows are wanted, the others, which nothing else here
    counts.
    """

    batch: pa.RecordBatch
    lines: pa.Int64Array
    order: pa.Int64Array
    raw: Callable[[int], bytes]
    rejects: Sequence[Reject]
    rows_read: int
    unknown_columns: frozenset[str]
    rejected_keys: pa.RecordBatch
    keys_unreadable: int
    part: str = ""
    first_place: int = 0
    passed_over: PassedOver | None = None

    def of_object(self, number: int) -> DecodedBlock:
        """The block as that of one object among several that are read into one order: from number * PLACES on. Raises
        ValueError where it has more places than one object may."""
        if len(self.order) and self.order[-1].as_py() >= PLACES:
            raise ValueError(f"an object whose rows reach place {self.order[-1]} cannot be told from the next one")
        first = number * PLACES
        return replace(self, order=pc.add(self.order, pa.scalar(first, pa.int64())), first_place=first)


class BadValue(Exception):
    """One value cannot be taken; `path` grows from the inside out while it passes nested fields."""

    def __init__(self, rule: str, message: str, path: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.path = path

    def inside(self, name: str) -> BadValue:
        """The same, seen from the message that holds the field (`name`) or from the list (`[3]`)."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        return BadValue(self.rule, self.message, f"{name}{joint}{self.path}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnResult:
    """A field's values for all rows of a block, null where the row's value is in `errors`."""

    values: pa.Array
    errors: Mapping[int, BadValue]

"""A row that cannot be loaded, and why. Pure: decode, encode and validate make them, the ledger stores them."""

from __future__ import annotations

from dataclasses import dataclass

RAW_LIMIT_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One rejected row.

    `line` is the physical line of the decompressed object where the row begins, from 1. `field` is the dotted proto
    path (`sender.country`), or the file's column name where no field is at fault, or "" for the row as a whole. `rule`
    is a stable word: `type.<kind>`, `range.<kind>`, `csv.columns`, `csv.quote`, `json.syntax`, `json.object`, `utf8`,
    `text.nul`, `row.size`, `index.size`, `key.missing`, or the id of a buf.validate rule. `raw` is the row's first
    `RAW_LIMIT_BYTES` bytes as they stood in the object, without its line end.
    """

    line: int
    field: str
    rule: str
    message: str
    raw: bytes

    def __post_init__(self) -> None:
        """Truncates `raw`, so that no maker of rejects can forget to."""
        if len(self.raw) > RAW_LIMIT_BYTES:
            object.__setattr__(self, "raw", self.raw[:RAW_LIMIT_BYTES])

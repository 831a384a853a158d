"""A row that cannot be loaded, and why. Pure: decode, encode and validate make them, the ledger stores them."""

from __future__ import annotations

import json
from dataclasses import dataclass

RAW_LIMIT_BYTES = 4096
FIELD_LIMIT = 1000
MESSAGE_LIMIT = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """One rejected row.

    `line` is the physical line of the decompressed object where the row begins, from 1. `field` is the dotted proto
    path (`sender.country`), or the file's column name where no field is at fault, or "" for the row as a whole. `rule`
    is a stable word: `type.<kind>`, `range.<kind>`, `csv.columns`, `csv.quote`, `json.syntax`, `json.object`, `utf8`,
    `text.nul`, `row.size`, `index.size`, `key.missing`, or the id of a buf.validate rule. `raw` is the row's first
    `RAW_LIMIT_BYTES` bytes as they stood in the object, without its line end. `field` and `message` may quote the row
    and are cut short likewise. `part`: the key of the object that the row is in, where a load reads several. `place`:
    as `order` of DecodedBlock before `first_place` is added; the row is found again by it. Where not given, `line`.
    """

    line: int
    field: str
    rule: str
    message: str
    raw: bytes
    part: str = ""
    place: int = 0

    def __post_init__(self) -> None:
        """Truncates what comes from the row, so that no maker of rejects can forget to."""
        if not self.place:
            object.__setattr__(self, "place", self.line)
        for name, limit in (("raw", RAW_LIMIT_BYTES), ("field", FIELD_LIMIT), ("message", MESSAGE_LIMIT)):
            value = getattr(self, name)
            if len(value) > limit:
                object.__setattr__(self, name, value[:limit])


def subscript(key: str | int | bool) -> str:
    """The element of a list or map in a field's path: `[3]`, `["colour"]`, `[true]`."""
    return f"[{json.dumps(key, ensure_ascii=False)}]"

"""The bytes of a row by its line number, for rejects. Looks for nothing until it is asked."""

from __future__ import annotations

import re

from ingest_service.decode.model import Block


class RawRows:
    """Rows of a block by the physical line where they begin; `row` matches one row, `line_end` ends a physical line."""

    def __init__(self, block: Block, row: re.Pattern[bytes], line_end: re.Pattern[bytes]) -> None:
        self._block = block
        self._row = row
        self._line_end = line_end
        self._starts: list[int] | None = None

    def __call__(self, line: int) -> bytes:
        """The row that begins at this line of the object, without its line end."""
        data = self._block.data
        if self._starts is None:  # threads may both do this; both come to the same list
            self._starts = [0, *(match.end() for match in self._line_end.finditer(data))]
        match = self._row.match(data, self._starts[line - self._block.first_line])
        return match.group().rstrip(b"\r\n") if match else b""


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are UTF-8."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

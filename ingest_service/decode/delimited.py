"""One block of CSV or TSV to columns: Arrow reads it as texts, whole columns are cast, and only a column that does not
cast as a whole is read value by value. Never takes part in cutting rows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import pyarrow as pa
from pyarrow import csv

from ingest_service.decode.cells import cell_column
from ingest_service.decode.dialect import Dialect
from ingest_service.decode.header import Layout
from ingest_service.decode.model import Block, ColumnResult, DecodedBlock
from ingest_service.decode.raw import RawRows, is_utf8
from ingest_service.decode.record import Record, RecordField, RowSource, assemble
from ingest_service.decode.rows import Grammar, fields_of, line_ends, row_spans
from ingest_service.decode.spellings import spellings
from ingest_service.decode.splitter import ANY_LINE_END, BLANK_LINE
from ingest_service.rejects import Reject


class DelimitedReader:
    """Decodes the blocks of one object whose layout is known. Without state: blocks may be decoded in parallel."""

    def __init__(self, record: Record, layout: Layout, rows: Grammar, dialect: Dialect) -> None:
        self._record = record
        self._layout = layout
        self._rows = rows
        self._nulls = ["", *dialect.null_tokens]
        self._spellings = spellings(dialect)

    def decode(self, block: Block, *, row_by_row: bool = False) -> DecodedBlock:
        """The block's rows; with `row_by_row` no column takes the columnar path (tests compare the two)."""
        data, rejects = block.data, list(block.rejects)
        if not is_utf8(data):
            data = self._without_broken_text(block, rejects)
        table, odd_rows = self._read(data)
        lines = self._lines(data, block.first_line, table.num_rows + len(odd_rows))
        raw_at = RawRows(block, self._rows.row, ANY_LINE_END)
        if odd_rows:
            rejects += self._odd_rejects(odd_rows, lines, raw_at)
            lines = lines.filter(pa.array([row not in odd_rows for row in range(len(lines))]))
        has_nul = b"\0" in data
        columns = [self._column(field, table, has_nul=has_nul, row_by_row=row_by_row) for field in self._record.fields]
        source = RowSource(lines=lines, raw_at=raw_at)
        return assemble(self._record, columns, source, rejects, self._layout.unknown)

    def _read(self, data: bytes) -> tuple[pa.Table, Mapping[int, int]]:
        """The mapped columns as texts (null = empty or a null token, without quotes), and the rows with another number
        of columns: their place among all rows, from 0, and that number."""
        odd: dict[int, int] = {}

        def note(row: csv.InvalidRow) -> str:
            odd[row.number - 1] = row.actual_columns
            return "skip"

        wanted = {str(index): pa.string() for index in sorted(self._layout.indexes.values())}
        if data[:1] in (b"", b"\r", b"\n") and not data.strip(b"\r\n"):
            return pa.table({name: pa.array([], pa.string()) for name in wanted}), odd
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(
                use_threads=False,
                block_size=len(data) + 1,
                column_names=[str(index) for index in range(len(self._layout.names))],
            ),
            csv.ParseOptions(
                delimiter=self._rows.delimiter.decode(),
                quote_char=self._rows.quote.decode() or False,
                newlines_in_values=self._rows.quoting is not None,
                invalid_row_handler=note,
            ),
            csv.ConvertOptions(
                check_utf8=False,  # done once for the whole block
                column_types=wanted,
                include_columns=list(wanted),
                null_values=self._nulls,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        return table, odd

    def _column(self, field: RecordField, table: pa.Table, *, has_nul: bool, row_by_row: bool) -> ColumnResult:
        index = self._layout.indexes.get(field.name)
        if index is None:
            return ColumnResult(values=pa.nulls(table.num_rows, field.arrow_type), errors={})
        texts = pa.concat_arrays(table.column(str(index)).chunks or [pa.array([], pa.string())])
        spelling = self._spellings.get(field.kind) if field.kind else None
        return cell_column(field, texts, spelling, has_nul=has_nul, row_by_row=row_by_row)

    def _lines(self, data: bytes, first_line: int, rows: int) -> pa.Int64Array:
        if rows == line_ends(data):  # no blank lines, no line ends within quotes
            return pa.arange(first_line, first_line + rows)
        starts = [start for start, _ in row_spans(data, self._rows)]
        steps = (line_ends(data[start:end]) for start, end in zip([0, *starts], starts, strict=False))
        return pa.array([first_line + count for count in accumulate(steps)], pa.int64())

    def _odd_rejects(self, odd: Mapping[int, int], lines: pa.Int64Array, raw_at: RawRows) -> list[Reject]:
        expected = len(self._layout.names)
        rejects = []
        for row, found in odd.items():
            line = lines[row].as_py()
            message = f"the row has {found} columns where the header has {expected}"
            rejects.append(Reject(line=line, field="", rule="csv.columns", message=message, raw=raw_at(line)))
        return rejects

    def _without_broken_text(self, block: Block, rejects: list[Reject]) -> bytes:
        """The data with every row that is not UTF-8 rejected and turned into blank lines."""
        kept: list[bytes] = []
        data, line, position, copied = block.data, block.first_line, 0, 0
        for start, end in row_spans(data, self._rows):
            line += line_ends(data[position:start])
            position = start
            row = data[start:end]
            if not is_utf8(row):
                kept += (data[copied:start], BLANK_LINE * line_ends(row))
                copied = end
                rejects.append(self._utf8_reject(row, line))
        return b"".join((*kept, data[copied:]))

    def _utf8_reject(self, row: bytes, line: int) -> Reject:
        raw = row.rstrip(b"\r\n")
        cells = fields_of(raw, self._rows)
        index = next((index for index, cell in enumerate(cells) if not is_utf8(cell)), 0)
        name = self._layout.field_at(index) if index < len(self._layout.names) else ""
        return Reject(line=line, field=name, rule="utf8", message="the text is not UTF-8", raw=raw)

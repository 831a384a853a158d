"""Record batches as Postgres binary COPY: header once, tuples of each batch, trailer once. Batches may be converted in
parallel. The stream's columns are the batch's, in its order. Never names a table; never sees a connection.
Source: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

from __future__ import annotations

import pgpq
import pyarrow as pa

# Signature, no flags, no header extension.
HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
# A tuple of -1 fields.
TRAILER = b"\xff\xff"


def header() -> bytes:
    """What a binary COPY stream begins with."""
    return HEADER


def tuples(batch: pa.RecordBatch) -> bytes:
    """The batch's rows; to be sent after `header()`, any number of times, and before `TRAILER`."""
    encoder = pgpq.ArrowToPostgresBinaryEncoder(batch.schema)
    # pgpq writes a whole stream and keeps rows back until it is finished; the stream's header and trailer are not ours.
    encoder.write_header()
    begun: bytes = encoder.write_batch(batch)
    rest: bytes = encoder.finish()
    return begun + rest[: -len(TRAILER)]

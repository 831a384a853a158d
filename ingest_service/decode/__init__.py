"""From the bytes of an object to canonical Arrow batches and rejected rows. Sans I/O; never touches a driver."""

from ingest_service.decode.decoder import Decoder, format_of, open_decoder, open_parquet
from ingest_service.decode.dialect import Dialect
from ingest_service.decode.model import PLACES, Block, DecodedBlock, DecodeLimits, MalformedObject, PassedOver
from ingest_service.decode.parquet import ParquetDecoder, RowBatch

__all__ = [
    "PLACES",
    "open_decoder",
    "open_parquet",
    "format_of",
    "Decoder",
    "ParquetDecoder",
    "Dialect",
    "Block",
    "RowBatch",
    "PassedOver",
    "DecodedBlock",
    "DecodeLimits",
    "MalformedObject",
]

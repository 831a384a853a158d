"""From the bytes of an object to canonical Arrow batches and rejected rows. Sans I/O; never touches a driver."""

from ingest_service.decode.decoder import Decoder, open_decoder
from ingest_service.decode.dialect import Dialect
from ingest_service.decode.model import Block, DecodedBlock, DecodeLimits, MalformedObject

__all__ = ["open_decoder", "Decoder", "Dialect", "Block", "DecodedBlock", "DecodeLimits", "MalformedObject"]

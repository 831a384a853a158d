"""Every reason that a load can end with, whether it is tried again by itself, and what to do: one table. Pure.

A load may only fail for good for what is wrong with its object. What is wrong around it (database, contract roll-out,
S3 being down) must never cost a file: the event stays and is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ingest_service.ledger.records import Load, LoadState, LoadTrigger
from ingest_service.objects.errors import is_transient
from shared.errors import Aborted, DeadlineExceeded, PenstockError


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a reason says. `again`: the same object is tried again without anyone asking."""

    state: LoadState
    again: bool
    what: str
    do: str


def _failed(what: str, do: str) -> Meaning:
    return Meaning(state=LoadState.FAILED, again=False, what=what, do=do)


def _passing(what: str, do: str = "wait") -> Meaning:
    return Meaning(state=LoadState.FAILED, again=True, what=what, do=do)


def _nothing(state: LoadState, what: str, do: str = "nothing", *, again: bool = False) -> Meaning:
    return Meaning(state=state, again=again, what=what, do=do)


_MEND = "mend the file and upload it again"
_MIGRATE = "run `penstock migrate` with the contracts that the service has"
_DATABASE = "look at the database; loads go on by themselves when it answers"

MEANINGS: Mapping[str, Meaning] = {
    # The object.
    "BAD_HEADER": _failed("the header line is empty, not UTF-8 or cannot be split", _MEND),
    "CORRUPT_BZIP2": _failed("the bzip2 data is damaged", _MEND),
    "CORRUPT_GZIP": _failed("the gzip data is damaged", _MEND),
    "CORRUPT_PARQUET": _failed("the Parquet file is damaged, or what is named so is none", _MEND),
    "CORRUPT_SNAPPY": _failed("the snappy data is damaged", _MEND),
    "CORRUPT_ZSTD": _failed("the zstd data is damaged", _MEND),
    "DECOMPRESSED_TOO_LARGE": _failed("the object decompresses to more than is allowed", "split the file"),
    "DUPLICATE_COLUMN": _failed("two columns of the file are the same field", "rename or remove one"),
    "ENCRYPTED_PARQUET": _failed("the Parquet file is encrypted", "write it without encryption"),
    "MALFORMED_JSON": _failed("what should be one JSON array is none", _MEND),
    "MISSING_JSON_PATH": _failed("the file has no array under the source's `json_path`", "correct the sources file"),
    "MISSING_KEY_COLUMN": _failed("the file has no column for a key field", "add it, or name it in `column.source`"),
    "OBJECT_REPLACED": _failed(
        "the object is another version now than the one whose rejects are wanted",
        "Populate its URI; or mend what ExportRejects gives",
    ),
    "PARQUET_TOO_LARGE": _failed(
        "a page, or the footer, of the Parquet file is too large to be held in memory",
        "write it with smaller pages or fewer rows a row group",
    ),
    "REJECTS_MOVED": _failed(
        "the sources file has the object read otherwise than when its rows were rejected",
        "undo that, or Populate its URI with `force`",
    ),
    "TOO_MANY_COLUMNS": _failed("the header has more columns than any record", "check the delimiter"),
    "TOO_MANY_REJECTS": _failed(
        "more bad rows than `max_reject_percent` allows",
        "see ExportRejects; mend the rows, or allow more in the contract",
    ),
    "TRUNCATED_BZIP2": _failed("the bzip2 data ends too early", "upload the whole file"),
    "TRUNCATED_GZIP": _failed("the gzip data ends too early", "upload the whole file"),
    "TRUNCATED_JSON": _failed("the JSON array ends too early", "upload the whole file"),
    "TRUNCATED_SNAPPY": _failed("the snappy data ends too early", "upload the whole file"),
    "TRUNCATED_ZSTD": _failed("the zstd data ends too early", "upload the whole file"),
    "SNAPSHOT_TOO_SMALL": _failed(
        "the snapshot has fewer rows than `min_rows_percent` of the dataset",
        "upload the whole dump; if the loss is meant, lower it in the contract, then RetryLoad",
    ),
    "UNSUPPORTED_ENCODING": _failed(
        "its Content-Encoding is not known", "upload it plain, or as one of the formats under Files"
    ),
    "UNSUPPORTED_FORMAT": _failed("neither name nor bytes tell a format that can be read", "see Files for the formats"),
    # S3.
    "BUCKET_NOT_FOUND": _failed("the bucket does not exist", "correct the sources, then RetryLoad"),
    "OBJECT_ARCHIVED": _failed("the object is in an archive storage class", "restore it, then RetryLoad"),
    "OBJECT_GONE": _failed(
        "the object is not there (for an event: SUPERSEDED)", "nothing when it was deleted; else upload it"
    ),
    "PREFIX_TOO_LARGE": _failed("the folder of a marker has too many objects", "write fewer and larger parts"),
    "S3_ACCESS_DENIED": _failed("S3 refuses to read the object", "grant what the message names, then RetryLoad"),
    "S3_REFUSED": _failed("S3 refuses the request", "see the message, then RetryLoad"),
    "OBJECT_CHANGED": _passing("the object was overwritten while it was read"),
    "OBJECT_KEEPS_CHANGING": _passing(
        "the object, or a part of the snapshot, was overwritten again and again", "write it once, under a new key"
    ),
    "S3_CHECKSUM_MISMATCH": _passing("the bytes arrived damaged"),
    "S3_CREDENTIALS": _passing("the AWS credentials do not work", "renew them; loads go on by themselves"),
    "S3_UNAVAILABLE": _passing("S3 does not answer, or with an error"),
    # The database, and the contract in it.
    "CONTRACT_MISMATCH": _passing("the database has another contract of the dataset", _MIGRATE),
    "DATASET_NOT_MIGRATED": _passing("the database does not have the dataset", _MIGRATE),
    "SCHEMA_MISMATCH": _passing("the database lacks a table or column", _MIGRATE),
    "DATABASE_PERMISSION": _passing("the database user lacks a permission", _MIGRATE),
    "DATABASE_LOGIN": _passing("the database refuses the login", "correct PENSTOCK_DATABASE_URL"),
    "DATABASE_MISSING": _passing("the database does not exist", "correct PENSTOCK_DATABASE_URL"),
    "DATABASE_FULL": _passing("the database's disk is full", "make room; loads go on by themselves"),
    "COMMIT_UNKNOWN": _passing("the connection was lost during COMMIT; the next attempt finds out"),
    "DATABASE_BUSY": _passing("the database is short of connections or memory", _DATABASE),
    "DATABASE_IO": _passing("the database met an I/O error", _DATABASE),
    "DATABASE_READ_ONLY": _passing("the database takes no writes, as during a failover", _DATABASE),
    "DATABASE_RESTARTING": _passing("the database is stopping or starting", _DATABASE),
    "DATABASE_TIMEOUT": _passing("the database did not answer in time", _DATABASE),
    "DATABASE_UNREACHABLE": _passing("the database cannot be reached", _DATABASE),
    "DEADLOCK": _passing("a concurrent change won"),
    "LOCK_TIMEOUT": _passing("another transaction held a lock for too long", "look for long transactions"),
    "REPLICA_CONFLICT": _passing("a replica answered: loads need the primary", "correct PENSTOCK_DATABASE_URL"),
    "SERIALIZATION_FAILURE": _passing("a concurrent change won"),
    "STATEMENT_TIMEOUT": _passing("a statement was ended by a time limit", _DATABASE),
    "TRANSACTION_TIMEOUT": _passing("a transaction was ended by a time limit", _DATABASE),
    # The service.
    "INTERNAL": _passing(
        "a bug", "send the log of the trace id; after a few attempts the dead-letter queue has the event"
    ),
    "LOAD_NOT_RUNNING": _passing("another process ended the load"),
    "OBJECT_NOT_LOADED": _failed("Unload of an object that was never loaded", "check the URI"),
    "OWNER_VANISHED": _nothing(LoadState.ABANDONED, "the process that ran the load died", again=True),
    "SHUTDOWN": _nothing(LoadState.ABANDONED, "the process stopped in the middle of the load", again=True),
    # No failures.
    "CANCELLED": _nothing(
        LoadState.CANCELLED, "CancelLoad, or the caller of an Unload went away", "RetryLoad loads it"
    ),
    "FOLDER_MARKER": _nothing(LoadState.SKIPPED, "the object only marks a folder"),
    "HIDDEN_OBJECT": _nothing(LoadState.SKIPPED, "its name begins with `_` or `.`", "nothing, or Populate its URI"),
    "NEWER_SNAPSHOT_APPLIED": _nothing(
        LoadState.SUPERSEDED, "a newer snapshot is loaded", "nothing; to go back, Unload the newer one first"
    ),
    "NEWER_VERSION_APPLIED": _nothing(LoadState.SUPERSEDED, "a newer version of the object is loaded"),
    "OBJECT_REMOVED": _nothing(LoadState.SUPERSEDED, "the object was removed or unloaded later"),
    "PART_OF_SNAPSHOT": _nothing(
        LoadState.SKIPPED, "it is loaded with the other parts when the `_SUCCESS` of their folder comes"
    ),
    "REJECTS_ALREADY_APPLIED": _nothing(
        LoadState.ALREADY_APPLIED,
        "a later load of the object took what the named one left out",
        "nothing; what that one left out has its id",
    ),
    "VALIDATE_ONLY": _nothing(LoadState.VALIDATED, "only validation was asked for"),
    "VERSION_ALREADY_APPLIED": _nothing(
        LoadState.ALREADY_APPLIED, "this very version is loaded", "nothing, or Populate with `force`"
    ),
}


def is_retryable(error: PenstockError) -> bool:
    """Whether the same load may succeed later with the same object."""
    meaning = MEANINGS.get(error.reason)
    # An error without a load's reason comes from beside the load; its class says enough.
    return meaning.again if meaning else is_transient(error) or isinstance(error, (Aborted, DeadlineExceeded))


def is_settled(load: Load) -> bool:
    """Whether nothing more comes of the load: it has ended, and its object is not tried again without anyone asking."""
    if load.state is LoadState.RUNNING:
        return False
    if load.trigger is LoadTrigger.UNLOAD:  # by whoever called it, or nobody
        return True
    if load.state is LoadState.ABANDONED:
        return False
    if load.reason == "INTERNAL" and load.trigger is not LoadTrigger.EVENT:  # a Populate gives up at a bug
        return True
    meaning = MEANINGS.get(load.reason)
    return load.state is not LoadState.FAILED or meaning is None or not meaning.again


def reasons_table() -> str:
    """The table as the README has it, in Markdown."""
    rows = [
        f"| `{reason}` | {meaning.state} | {'yes' if meaning.again else 'no'} | {meaning.what} | {meaning.do} |"
        for reason, meaning in MEANINGS.items()
    ]
    return "\n".join(["| reason | state | tried again | what it says | what to do |", "|---|---|---|---|---|", *rows])

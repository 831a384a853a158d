"""Driver errors become the error tree, once, by class and SQLSTATE. Never hides what it does not know.

SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import asyncpg

from shared.errors import DeadlineExceeded, FailedPrecondition, PenstockError, Unavailable

Build = Callable[[str], PenstockError]

# What asyncpg raises, for `except`: to be translated, or to be taken for "the database does not answer".
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class _Translated:
    """Without state, and no generator: it stands around every statement of a query."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, DRIVER_ERRORS) and (better := translate(exc)) is not exc:
            raise better from exc


_TRANSLATED = _Translated()


def translated() -> AbstractContextManager[None]:
    """Around statements: known driver errors leave as PenstockError `from` the original, all others as they are."""
    return _TRANSLATED


def translate(exc: Exception) -> Exception:
    """The PenstockError that says what `exc` means to a caller, or `exc` itself when it is a bug or not the driver's.

    `raise translate(exc) from exc` is what to do with it. A TimeoutError means that a connection or an answer did not
    come in time.
    """
    if isinstance(exc, asyncpg.PostgresError):
        return _by_sqlstate(exc)
    if isinstance(exc, asyncpg.InternalClientError):
        return _by_internal(exc)
    if isinstance(exc, asyncpg.InterfaceError):
        return _by_interface(exc)
    if isinstance(exc, TimeoutError):
        return _unavailable("DATABASE_TIMEOUT", 1.0)("the database did not answer in time")
    if isinstance(exc, OSError):
        return _unavailable("DATABASE_UNREACHABLE", 1.0)("the database cannot be reached")
    return exc


def _by_sqlstate(exc: asyncpg.PostgresError) -> Exception:
    state = exc.sqlstate or ""
    if state in {"40001", "57014"} and "conflict with recovery" in str(exc):
        return _unavailable("REPLICA_CONFLICT", 0.1)("a replica had to give way to replication; ask again")
    known = _BY_STATE.get(state) or _BY_CLASS.get(state[:2])
    if known is None:
        return exc
    build, message = known
    return build(message)


def _by_interface(exc: asyncpg.InterfaceError) -> Exception:
    # asyncpg has one class for misuse and for a connection that went away; the text is all that tells them apart.
    text = str(exc)
    if "connection is closed" in text or "pool is clos" in text or "has been released back" in text:
        return _unavailable("DATABASE_UNREACHABLE", 1.0)("the connection to the database was lost")
    return exc


def _by_internal(exc: asyncpg.InternalClientError) -> Exception:
    # A FATAL that arrives between two statements (the server stops, a backend is terminated) leaves asyncpg (0.31) in a
    # state that the next statement meets as this. Two statements at once on one connection are an InterfaceError.
    if "cannot switch to state" in str(exc):
        return _unavailable("DATABASE_UNREACHABLE", 1.0)("the connection to the database was lost")
    return exc


def _unavailable(reason: str, retry_after_s: float) -> Build:
    return lambda message: Unavailable(message, reason=reason, retry_after_s=retry_after_s)


def _refused(reason: str) -> Build:
    return lambda message: FailedPrecondition(message, reason=reason)


def _deadline(message: str) -> PenstockError:
    return DeadlineExceeded(message, reason="STATEMENT_TIMEOUT")


_SCHEMA = (_refused("SCHEMA_MISMATCH"), "the database lacks a table or column of the contract: run `penstock migrate`")

_BY_STATE: Mapping[str, tuple[Build, str]] = {
    "25006": (_unavailable("DATABASE_READ_ONLY", 1.0), "the database takes no writes now: it may be failing over"),
    "25P03": (_unavailable("TRANSACTION_TIMEOUT", 1.0), "the transaction was idle for too long and was ended"),
    "25P04": (_unavailable("TRANSACTION_TIMEOUT", 1.0), "the transaction took too long and was ended"),
    "28000": (_refused("DATABASE_LOGIN"), "the database refuses this user: check PENSTOCK_DATABASE_URL"),
    "28P01": (_refused("DATABASE_LOGIN"), "the database refuses the password: check PENSTOCK_DATABASE_URL"),
    "3D000": (_refused("DATABASE_MISSING"), "the database does not exist: check PENSTOCK_DATABASE_URL"),
    "3F000": _SCHEMA,
    "40001": (_unavailable("SERIALIZATION_FAILURE", 0.1), "a concurrent change won; ask again"),
    "40P01": (_unavailable("DEADLOCK", 0.1), "a concurrent change won; ask again"),
    "42501": (_refused("DATABASE_PERMISSION"), "the database user lacks a permission: run `penstock migrate`"),
    "42703": _SCHEMA,
    "42P01": _SCHEMA,
    "53100": (_unavailable("DATABASE_FULL", 30.0), "the database's disk is full"),
    "53300": (_unavailable("DATABASE_BUSY", 1.0), "the database has no connection left"),
    "55P03": (_unavailable("LOCK_TIMEOUT", 1.0), "another transaction held a lock for too long"),
    "57014": (_deadline, "the statement was ended by its time limit"),
}

_BY_CLASS: Mapping[str, tuple[Build, str]] = {
    "08": (_unavailable("DATABASE_UNREACHABLE", 1.0), "the connection to the database was lost"),
    "53": (_unavailable("DATABASE_BUSY", 1.0), "the database is short of resources"),
    "57": (_unavailable("DATABASE_RESTARTING", 1.0), "the database is stopping or starting"),
    "58": (_unavailable("DATABASE_IO", 5.0), "the database met an I/O error"),
}

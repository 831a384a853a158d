"""One table says what every reason of a load means: complete, true to the code, and printed in the README."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest_service.failures import MEANINGS, is_retryable, is_settled, reasons_table
from ingest_service.ledger.records import LoadState, LoadTrigger, ObjectVersion
from shared import errors
from shared.errors import Aborted, DeadlineExceeded, NotFound, PenstockError, ResourceExhausted, Unavailable
from tests.unit.ledger_loads import load_of
from tests.unit.raised_reasons import REPOSITORY, raised_in, source_files

A_CSV = ObjectVersion(bucket="lab", key="a.csv")


# What a load runs through. Everything else only answers callers.
ON_A_LOADS_WAY = (
    "decode",
    "objects",
    "merge",
    "ledger",
    "blocks.py",
    "columns.py",
    "left_out.py",
    "load.py",
    "parts.py",
    "pipeline.py",
    "unload.py",
    "verdict.py",
)
PATHS = [
    *(path for name in ON_A_LOADS_WAY for path in source_files(REPOSITORY / "ingest_service" / name)),
    REPOSITORY / "shared/postgres/errors.py",
]
ONLY_CALLERS_MEET = {"LOAD_ENDED", "LOAD_NOT_FOUND", "REQUEST_ID_REUSED", "RESUME_TOKEN_INVALID"}
PASSING = (Unavailable, ResourceExhausted, Aborted, DeadlineExceeded)
RAISED = sorted(set(raised_in(PATHS)))


def test_every_reason_that_a_load_can_end_with_is_in_the_table() -> None:
    found = {reason for reason, _, _ in RAISED} - ONLY_CALLERS_MEET
    assert len(found) > 40, "the scan finds the reasons"
    assert sorted(found - MEANINGS.keys()) == [], "say in failures.py what they mean and what to do"
    assert sorted(MEANINGS.keys() - found) == [], "nothing ends with these any more"


@pytest.mark.parametrize(("reason", "callee", "path"), RAISED)
def test_table_agrees_with_the_class_of_the_error_that_has_the_reason(reason: str, callee: str, path: Path) -> None:
    """Else the S3 reader or the consumer would try again what the table calls final, or the other way round."""
    kind = getattr(errors, callee, None)
    if kind is None or reason in ONLY_CALLERS_MEET:
        return
    assert MEANINGS[reason].again or not issubclass(kind, PASSING), f"{path} raises it as {callee}"


def test_table_decides_by_reason_and_the_class_only_where_the_reason_is_not_a_loads() -> None:
    assert is_retryable(NotFound("", reason="DATASET_NOT_MIGRATED"))
    assert not is_retryable(NotFound("", reason="OBJECT_GONE"))
    assert is_retryable(Unavailable("", reason="SQS_UNAVAILABLE"))
    assert not is_retryable(PenstockError("", reason="SOMETHING_ELSE"))


@pytest.mark.parametrize(
    ("trigger", "state", "reason", "settled"),
    [
        (LoadTrigger.EVENT, LoadState.RUNNING, "", False),
        (LoadTrigger.EVENT, LoadState.FAILED, "INTERNAL", False),
        (LoadTrigger.EVENT, LoadState.FAILED, "S3_UNAVAILABLE", False),
        (LoadTrigger.EVENT, LoadState.FAILED, "TOO_MANY_REJECTS", True),
        (LoadTrigger.POPULATE, LoadState.FAILED, "INTERNAL", True),
        (LoadTrigger.RETRY, LoadState.FAILED, "INTERNAL", True),
        (LoadTrigger.POPULATE, LoadState.FAILED, "S3_UNAVAILABLE", False),
        (LoadTrigger.POPULATE, LoadState.ABANDONED, "SHUTDOWN", False),
        (LoadTrigger.UNLOAD, LoadState.RUNNING, "", False),
        (LoadTrigger.UNLOAD, LoadState.FAILED, "DATABASE_BUSY", True),
        (LoadTrigger.UNLOAD, LoadState.ABANDONED, "OWNER_VANISHED", True),
    ],
)
def test_load_is_settled_when_no_attempt_follows_by_itself(
    trigger: LoadTrigger, state: LoadState, reason: str, settled: bool
) -> None:
    assert is_settled(load_of(A_CSV, trigger=trigger, state=state, reason=reason)) is settled


def test_reasons_that_are_tried_again_leave_nothing_to_do_but_outside_of_the_file() -> None:
    for reason, meaning in MEANINGS.items():
        assert meaning.what, reason
        assert meaning.do, reason
        assert "upload" not in meaning.do or not meaning.again, reason
        assert not meaning.again or meaning.state in (LoadState.FAILED, LoadState.ABANDONED), reason


def test_readme_has_the_table_of_reasons() -> None:
    """To bring it up to date: .venv/bin/python -c 'from ingest_service.failures import *; print(reasons_table())'"""
    text = (REPOSITORY / "README.md").read_text()
    _, _, after = text.partition("<!-- reasons: from ingest_service/failures.py -->\n")
    block, end, _ = after.partition("\n<!-- end of reasons -->")
    assert end
    assert block == reasons_table()

"""Populate of the rejects of a load: what it asks for, and why it may not be had. Pure.

Says no before any work: what stands here of a load that has ended never changes again.
"""

from __future__ import annotations

from penstock.ingest.v1 import ingest_pb2

from ingest_service.ledger.records import LeftOut, Load, LoadState
from shared.contract.model import Dataset, FilePolicy
from shared.errors import FailedPrecondition, FieldViolation, InvalidRequest

_OF_THE_LOAD = ("uri", "prefix", "dataset", "force")


def check_selectors(message: ingest_pb2.PopulateRequest) -> None:
    """Raises InvalidRequest for fields that have no place beside rejects_of."""
    problem = "leave it out: rejects_of names the object, its version and the dataset, and loads no row twice"
    violations = [FieldViolation(field=name, description=problem) for name in _OF_THE_LOAD if getattr(message, name)]
    if violations:
        raise InvalidRequest(violations)


def rejects_request(message: ingest_pb2.PopulateRequest, left_out: LeftOut) -> ingest_pb2.PopulateRequest:
    """The request in the form in which it is stored. Raises FailedPrecondition where there is nothing to be had."""
    load = left_out.load
    _require_loaded(load)
    if not load.read.rows_rejected:
        raise _refused(load, "NO_REJECTS", "rejected no row")
    if len(left_out.places) != load.read.rows_rejected:
        kept = f"rejected {load.read.rows_rejected} rows, and the places of {len(left_out.places)} are kept"
        problem = f"{kept}: load the whole object, Populate its uri with force"
        raise _refused(load, "REJECTS_NOT_KEPT", problem)
    return ingest_pb2.PopulateRequest(
        uri=load.object.uri,
        dataset=load.dataset,
        validate_only=message.validate_only,
        rejects_of=str(load.id),
    )


def require_merge(dataset: Dataset) -> None:
    """Raises FailedPrecondition where an object is the whole truth: some of its rows alone would replace all others."""
    if dataset.file_policy is not FilePolicy.MERGE:
        raise FailedPrecondition(
            f"dataset {dataset.name} has FILE_POLICY_{dataset.file_policy.value}: load the whole object, Populate "
            "its uri with force",
            reason="WHOLE_OBJECTS_ONLY",
            metadata={"dataset": dataset.name},
        )


def _require_loaded(load: Load) -> None:
    if load.state is LoadState.RUNNING:
        raise _refused(load, "LOAD_RUNNING", "is in work: wait for its end")
    if load.state is not LoadState.SUCCEEDED:
        problem = f"has ended as {load.state} and loaded nothing: mend the object, or RetryLoad"
        raise _refused(load, "LOAD_LOADED_NOTHING", problem)


def _refused(load: Load, reason: str, problem: str) -> FailedPrecondition:
    return FailedPrecondition(f"load {load.id} {problem}", reason=reason, metadata={"load_id": str(load.id)})

"""Reconciles of a rig: what the tests of them share."""

from __future__ import annotations

from typing import Any

from ingest_service.reconcile.comparison import GapKind
from ingest_service.reconcile.reconciler import Reconciler, Report, Scope, Step
from ingest_service.removal import Removals
from tests.integration.ingest.rig import Rig


def reconciler(rig: Rig, **changes: Any) -> Reconciler:
    parts: dict[str, Any] = {
        "pool": rig.pool,
        "store": rig.store,
        "loader": rig.loader(),
        "sources": rig.sources,
        "datasets": {"things": rig.lab.dataset},
    } | changes
    parts["removals"] = Removals(pool=rig.pool, store=rig.store, loader=parts["loader"], owner="here")
    return Reconciler(**parts)


def scope_of(rig: Rig, **changes: Any) -> Scope:
    """All of the dataset, in the rig's own bucket."""
    parts: dict[str, Any] = {"datasets": ("things",), "within": rig.within} | changes
    return Scope(**parts)


async def reconcile(rig: Rig, **changes: Any) -> tuple[Report, list[Step]]:
    """One run, and its steps."""
    scope = scope_of(rig, **changes)
    report = Report.of(scope)
    steps = [step async for step in reconciler(rig).run(scope, report) if step is not None]
    return report, steps


def found(report: Report) -> dict[GapKind, int]:
    """The gaps of the dataset, by kind."""
    return {kind: count for kind, count in report.tallies["things"].found.items() if count}


def kinds(steps: list[Step]) -> list[tuple[GapKind, str]]:
    """What was told, in order: kind and name of the object."""
    return [(step.gap.kind, step.gap.uri.key.rpartition("/")[2]) for step in steps]

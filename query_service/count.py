"""Count: exact where few rows have to be looked at, else the planner's estimate, and the answer says which.

Never labels a count with a version that it does not belong to; an estimate belongs to none in particular.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from query_service.binds import resolve
from query_service.consistency import remaining_s, wait_for_version
from query_service.endpoint import Endpoint
from query_service.parameters import CountParameters, count_parameters
from query_service.rows import missing_dataset

# Along an index 100,000 entries take about 15 ms, and 100 ms where their rows have to be fetched.
MOST_COUNTED = 100_000
# Every load keeps the number of rows, in the transaction that changes them.
ALL_SQL = "SELECT epoch, version, row_count FROM penstock.datasets WHERE name = $1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many rows, at which version, and whether that is an estimate."""

    rows: int
    version: int
    estimated: bool = False


class CountHandler:
    """Answers a Count."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def handle(self, message: Message, context: Any) -> bytes:
        """The encoded response."""
        endpoint = self._endpoint
        endpoint.check(message)
        wanted = count_parameters(endpoint.method, endpoint.dataset, message)
        timeout_s = remaining_s(context, endpoint.database.limits.query_timeout_s)
        await wait_for_version(endpoint.database, endpoint.dataset, wanted.at_least_version, timeout_s)
        counted = await (self._some(wanted, timeout_s) if wanted.query.conditions else self._all(wanted, timeout_s))
        response = endpoint.output_class(count=counted.rows, estimated=counted.estimated)
        if "dataset_version" in endpoint.method.response_fields:
            response.dataset_version = counted.version
        encoded: bytes = response.SerializeToString()
        return encoded

    async def _all(self, wanted: CountParameters, timeout_s: float) -> Counted:
        row = await self._fetch(ALL_SQL, (self._endpoint.dataset.name,), wanted, timeout_s)
        return Counted(rows=row["row_count"], version=row["version"])

    async def _some(self, wanted: CountParameters, timeout_s: float) -> Counted:
        """Looks at one row more than it may count: what that tells is exact, or that there are too many."""
        query = wanted.query
        plan = self._endpoint.planner.count(query)
        bound = (self._endpoint.dataset.name, MOST_COUNTED + 1, *resolve(plan.exact_slots, query, ()))
        row = await self._fetch(plan.exact, bound, wanted, timeout_s)
        if row["examined"] <= MOST_COUNTED:
            return Counted(rows=row["matched"], version=row["version"])
        explained = await self._fetch(plan.estimate, resolve(plan.estimate_slots, query, ()), wanted, timeout_s)
        estimate = json.loads(explained[0])[0]["Plan"]["Plan Rows"]
        return Counted(rows=max(row["matched"], estimate), version=row["version"], estimated=True)

    async def _fetch(self, sql: str, bound: Any, wanted: CountParameters, timeout_s: float) -> Any:
        endpoint, at_least = self._endpoint, wanted.at_least_version
        row = await endpoint.database.fetch_row(endpoint.dataset, sql, bound, timeout_s, at_least=at_least)
        if row is None:
            raise missing_dataset(endpoint.dataset)
        return row

"""BatchGet: many rows by their keys in one statement, in the order asked for, answered with their stored bytes.

Never answers a part without saying so: a missing row is named, and rows that fit no message are refused as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from query_service.consistency import remaining_s, wait_for_version
from query_service.endpoint import Endpoint
from query_service.keys import set_key
from query_service.pages import PAGE_BYTES
from query_service.parameters import batch_parameters
from query_service.plan import batch_sql
from query_service.rows import missing_dataset
from shared.errors import MOST_NAMED, NotFound, ResourceExhausted

Key = tuple[Any, ...]


class BatchGetHandler:
    """Answers a BatchGet (AIP-231)."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._sql = batch_sql(endpoint.dataset)

    async def handle(self, message: Message, context: Any) -> bytes:
        """The rows, a key that is asked for twice twice, then the keys without row and the dataset's version.

        Raises NotFound where rows are missing and the response has no field for their keys, ResourceExhausted where the
        rows are more than a message may hold.
        """
        endpoint = self._endpoint
        dataset, database = endpoint.dataset, endpoint.database
        endpoint.check(message)
        wanted = batch_parameters(endpoint.method, dataset.key_columns, message)
        mask = endpoint.mask(message)
        timeout_s = remaining_s(context, database.limits.query_timeout_s)
        await wait_for_version(database, dataset, wanted.at_least_version, timeout_s)
        columns = [[key[place] for key in wanted.keys] for place in range(len(dataset.key))]
        arguments, at_least = (dataset.name, PAGE_BYTES, *columns), wanted.at_least_version
        row = await database.fetch_row(dataset, self._sql, arguments, timeout_s, at_least=at_least)
        if row is None:
            raise missing_dataset(dataset)
        if row["size"] > PAGE_BYTES:
            raise _too_large(row["size"], row["fitting"], len(wanted.keys))
        trailer = self._trailer(row, [wanted.keys[place - 1] for place in row["missing"]])
        return bytes(row["data"] if mask is None else mask.page(row["data"])) + trailer

    def _trailer(self, row: Any, missing: Sequence[Key]) -> bytes:
        fields = self._endpoint.method.response_fields
        trailer = self._endpoint.output_class()
        if missing and "missing" not in fields:
            raise _not_found(self._endpoint, missing)
        for key in missing:
            set_key(self._endpoint.dataset, trailer.missing.add(), key)
        if "dataset_version" in fields:
            trailer.dataset_version = row["version"]
        encoded: bytes = trailer.SerializeToString()
        return encoded


def _not_found(endpoint: Endpoint, missing: Sequence[Key]) -> NotFound:
    """Names as many keys as a message has room for."""
    dataset = endpoint.dataset
    names = ["(" + ", ".join(f"{n}={v}" for n, v in zip(dataset.key, key, strict=True)) + ")" for key in missing]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return NotFound(
        f"{dataset.name} holds no rows with {', '.join(names[:MOST_NAMED])}{more}: ask again without them, or declare "
        f"`repeated` keys as `missing` in {endpoint.method.output.name} to get the others",
        reason="ROWS_NOT_FOUND",
        metadata={"dataset": dataset.name, "missing": str(len(names)), "keys": ", ".join(names[:MOST_NAMED])},
    )


def _too_large(size_bytes: int, fitting: int, asked: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"the {asked} rows have {size_bytes} bytes, and a response holds {PAGE_BYTES}: ask for the first {fitting}, "
        "then for the others",
        reason="RESPONSE_TOO_LARGE",
        metadata={"size_bytes": str(size_bytes), "fitting_requests": str(fitting)},
    )

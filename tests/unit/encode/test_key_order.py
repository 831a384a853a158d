"""Rows in key order are told as such, and only they: what is taken for sorted is never sorted."""

from __future__ import annotations

import datetime as dt
import itertools

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_service.columns import ARROW_TYPES
from ingest_service.key_order import joined, key_run
from shared.contract.build import load_contracts
from shared.contract.model import Dataset

CONTRACT = """
syntax = "proto3";
package order.v1;
import "google/type/date.proto";
import "penstock/contract/v1/contract.proto";
message Visit {
  option (penstock.contract.v1.dataset) = {
    name: "visits" key: ["day", "who", "nth", "paid"] file_policy: FILE_POLICY_MERGE };
  google.type.Date day = 1;
  string who = 2;
  uint64 nth = 3;
  bool paid = 4;
}
"""
FIRST = dt.date(2024, 2, 28)
KEYS = st.tuples(
    st.dates(FIRST, FIRST + dt.timedelta(days=1)),
    st.sampled_from(["", "a", "A", "é", "\ufffd", "\U00010000"]),
    st.sampled_from([0, 1, 2**63, 2**64 - 1]),
    st.booleans(),
)


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("contracts")
    (folder / "visit.proto").write_text(CONTRACT)
    return load_contracts(folder).datasets["visits"]


def _batch(dataset: Dataset, keys: list[tuple[dt.date, str, int, bool]]) -> pa.RecordBatch:
    columns = dataset.key_columns
    arrays = [pa.array([key[n] for key in keys], ARROW_TYPES[column.kind]) for n, column in enumerate(columns)]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


@given(keys=st.lists(KEYS, max_size=8), ordered=st.booleans(), cut=st.integers(0, 8))
def test_run_of_two_batches_rises_exactly_when_all_keys_do(
    visits: Dataset, keys: list[tuple[dt.date, str, int, bool]], ordered: bool, cut: int
) -> None:
    # As Postgres orders text COLLATE "C": by its UTF-8 bytes.
    by_bytes = [(day, who.encode(), nth, paid) for day, who, nth, paid in keys]
    if ordered:
        keys = [key for _, key in sorted(zip(by_bytes, keys, strict=True))]
        by_bytes.sort()
    run = joined(key_run(visits, _batch(visits, keys[:cut])), key_run(visits, _batch(visits, keys[cut:])))
    assert (run is None) == (not keys)
    if run is not None:
        assert run.rising == all(before < after for before, after in itertools.pairwise(by_bytes))
        assert (run.first, run.last) == (keys[0], keys[-1])
        assert run.distinct <= (len(set(keys)) == len(keys)), "a key that comes twice is never overlooked"


@given(keys=st.lists(KEYS, max_size=8))
def test_keys_of_one_batch_are_distinct_exactly_when_none_comes_twice(
    visits: Dataset, keys: list[tuple[dt.date, str, int, bool]]
) -> None:
    run = key_run(visits, _batch(visits, keys))
    assert run is None or run.distinct == (len(set(keys)) == len(keys))

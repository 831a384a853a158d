"""Names and statements of a dataset's tables."""

from __future__ import annotations

import pytest

from shared.contract import ddl
from shared.contract.model import Column, ContractSet, IndexField, Kind
from shared.contract.snapshot import Snapshot, snapshot


def table(**changes: object) -> Snapshot:
    columns = (
        Column(name="id", number=1, kind=Kind.STRING),
        Column(name="part", number=2, kind=Kind.INT32, filterable=True),
        Column(name="label", number=3, kind=Kind.STRING, filterable=True, sortable=True, searchable=True),
    )
    values: dict[str, object] = {
        "name": "items",
        "fingerprint": "0",
        "message": "shop.v1.Item",
        "key": ("id", "part"),
        "file_policy": "MERGE",
        "max_reject_percent": 0.0,
        "max_row_bytes": 1,
        "columns": columns,
        "indexes": (),
        "wire": {},
        "names": {},
        "oneofs": {},
    }
    return Snapshot(**(values | changes))  # type: ignore[arg-type]


def definitions(dataset: ddl.Table) -> list[str]:
    return [index.target.partition(" USING ")[2] for index in ddl.index_statements(dataset)]


@pytest.mark.parametrize("name", ['a"b', "select", "Größe", "x" * 63, "a;--"])
def test_any_identifier_is_quoted(name: str) -> None:
    assert ddl.quote_ident(name) == '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "a\0b"])
def test_an_identifier_that_postgres_would_change_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no Postgres identifier"):
        ddl.quote_ident(name)


def test_filterable_and_sortable_share_one_index_with_the_key_as_tie_breaker() -> None:
    assert definitions(table()) == [
        'btree ("part", "id")',
        'btree ("label", "id", "part")',
        'gin ("label" gin_trgm_ops)',
        'btree ("_version")',
        'btree ("_object")',
    ]


def test_the_primary_key_serves_its_own_first_column() -> None:
    column = Column(name="id", number=1, kind=Kind.STRING, filterable=True, sortable=True)
    assert definitions(table(columns=(column,), key=("id",))) == ['btree ("_version")', 'btree ("_object")']


def test_a_declared_index_that_a_flag_makes_too_is_made_once() -> None:
    index = (IndexField(name="part"), IndexField(name="id"))
    assert definitions(table(indexes=(index,))) == definitions(table())


def test_a_descending_index_keeps_its_direction() -> None:
    index = (IndexField(name="label", descending=True),)
    assert 'btree ("label" DESC, "id", "part")' in definitions(table(indexes=(index,)))


def test_index_names_fit_and_differ_for_the_longest_names() -> None:
    long = "f" * 63
    columns = tuple(
        Column(name=name, number=number, kind=Kind.STRING, searchable=True, sortable=True)
        for number, name in enumerate(("id", long, "f" * 62 + "g", "f" * 62), 1)
    )
    dataset = table(name="d" * 48, key=("id",), columns=columns)
    names = [index.name for index in ddl.index_statements(dataset)]
    assert len(set(names)) == len(names) == 9
    assert all(len(name.encode()) <= 63 for name in names)


def test_index_names_of_two_datasets_never_meet() -> None:
    """Index names are unique in the schema: dataset a with field b_c against dataset a_b with field c."""
    one = table(name="a", key=("id",), columns=(Column(name="b_c", number=2, kind=Kind.BOOL, filterable=True),))
    other = table(name="a_b", key=("id",), columns=(Column(name="c", number=2, kind=Kind.BOOL, filterable=True),))
    names = [{index.name for index in ddl.index_statements(dataset)} for dataset in (one, other)]
    assert not names[0] & names[1]


def test_names_of_indexes_are_stable_between_a_contract_and_its_snapshot(contracts: ContractSet) -> None:
    for dataset in contracts.datasets.values():
        assert ddl.index_statements(dataset) == ddl.index_statements(snapshot(dataset))

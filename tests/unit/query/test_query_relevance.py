"""Which queries may be ranked: those of a List with a search that every row meets, from the best on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from query_service.conditions import RELEVANCE, Query
from query_service.order import parse_order
from query_service.parameters import query_parameters
from query_service.plan import Planner
from query_service.ranking import pack, unpack
from shared.contract.build import load_contracts
from shared.contract.model import ContractSet, IndexField
from shared.errors import InvalidRequest
from tests.integration.query import books


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> ContractSet:
    folder: Path = tmp_path_factory.mktemp("relevance")
    (folder / "book.proto").write_text(books.CONTRACT)
    return load_contracts(folder)


def asked(contracts: ContractSet, name: str, **fields: Any) -> Query:
    (service,) = contracts.services
    method = next(method for method in service.methods if method.name == name)
    return query_parameters(method, service.dataset, method.input_class(**fields)).query


@pytest.mark.parametrize(
    ("text", "order", "said"),
    [
        ("", "relevance desc", "needs a search"),
        ("genre = x", "relevance desc", "needs a search"),
        ("NOT title:oak", "relevance desc", "needs a search"),
        ("title:oak OR genre = x", "relevance desc", "needs a search"),
        ("(title:oak AND blurb:pine) OR title:ash", "relevance desc", "needs a search"),
        ("title:*", "relevance desc", "needs a search"),
        ('title:"---"', "relevance desc", "three letters or digits in a row"),
        ('title:"a_b c1"', "relevance desc", "three letters or digits in a row"),
        ('title:oak OR blurb:"???"', "relevance desc", "three letters or digits in a row"),
        ('title:oak AND blurb:"???"', "relevance desc", "three letters or digits in a row"),
        ("title:oak", "relevance", "write 'relevance desc'"),
        ("title:oak", "relevance asc", "write 'relevance desc'"),
        ("title:oak", "relevance desc, genre", "nothing but the key"),
        ("title:oak", "genre, relevance desc", "stands first"),
        ("title:oak", "relevance desc, number", "nothing but the key"),
        ("title:oak", "relevance desc, shelf desc", "nothing but the key"),
        ("title:oak", "relevance desc, shelf, number, genre", "nothing but the key"),
        ("title:oak", "relevance desc, relevance desc", "names a field twice"),
        ("title:oak", "Relevance desc", "and, for a search, 'relevance desc'"),
        ("title:oak", "~relevance desc", "is not sortable"),
    ],
)
def test_an_order_by_relevance_that_cannot_be_is_refused(
    contracts: ContractSet, text: str, order: str, said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(contracts, "ListBooks", filter=text, order_by=order)
    assert caught.value.reason == "ORDER_INVALID"
    assert [violation.field for violation in caught.value.violations] == ["order_by"]
    assert said in str(caught.value)


def test_a_stream_has_no_ranks(contracts: ContractSet) -> None:
    with pytest.raises(InvalidRequest, match="is an order of List"):
        asked(contracts, "StreamBooks", filter="title:oak", order_by="relevance desc")


@pytest.mark.parametrize("order", ["relevance desc", "relevance desc, shelf", " relevance  desc ,shelf asc, number"])
@pytest.mark.parametrize("text", ["title:oak", "oak", "title:oak OR blurb:pine", "genre = x AND (NOT genre = y oak)"])
def test_the_key_breaks_ties_whether_it_is_said_or_not(contracts: ContractSet, text: str, order: str) -> None:
    found = asked(contracts, "ListBooks", filter=text, order_by=order)
    assert found.order == (RELEVANCE,)
    key = (IndexField(name="shelf"), IndexField(name="number"))
    assert Planner(contracts.datasets["books"]).position(found) == key


def test_without_a_field_to_search_there_is_no_relevance(tmp_path: Path) -> None:
    (tmp_path / "book.proto").write_text(
        books.CONTRACT.replace("[(penstock.contract.v1.column).searchable = true]", "")
    )
    (dataset,) = load_contracts(tmp_path).datasets.values()
    with pytest.raises(InvalidRequest, match=r"'relevance' is not sortable; allowed are genre, number, shelf$"):
        parse_order(dataset, "relevance desc")


def test_a_position_keeps_every_bit_of_a_relevance() -> None:
    for relevance in (0.0, 1.0, 2.0, 0.10000000149011612, 2**-149):
        assert unpack(pack(relevance, b"key")) == (relevance, b"key")
    with pytest.raises(ValueError, match="is no position"):
        unpack(b"abc")

"""Tokens say where a query goes on, and refuse everything that is not theirs."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import uuid
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query_service.conditions import AnyOf, query
from query_service.tokens import Position, TokenKind, TokenScope, decode_token, encode_token, token_scope
from shared.contract.model import ContractSet
from shared.errors import InvalidRequest

EPOCH = uuid.UUID(int=7)
POSITION = Position(epoch=EPOCH, version=3, key=b"\x0a\x01A")


def scope(
    contracts: ContractSet, *filters: AnyOf, kind: TokenKind = TokenKind.PAGE, method: str = "a.B/C"
) -> TokenScope:
    return token_scope(kind, method, contracts.datasets["airports"], query(filters).identity)


def refused(wanted: TokenScope, text: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode_token(wanted, text)
    return caught.value


@given(
    epoch=st.uuids(),
    version=st.integers(0, 2**63 - 1),
    key=st.none() | st.binary(max_size=3000),
    kind=st.sampled_from(TokenKind),
)
def test_a_token_comes_back_as_it_went(epoch: uuid.UUID, version: int, key: bytes | None, kind: TokenKind) -> None:
    position = Position(epoch=epoch, version=version, key=key)
    wanted = TokenScope(kind=kind, digest=b"12345678")
    text = encode_token(wanted, position)
    assert text.isascii()
    assert set(text) & set("+/= ") == set()
    assert decode_token(wanted, text) == position


@given(text=st.text(max_size=200))
def test_no_text_is_a_token_by_chance(text: str) -> None:
    assert refused(TokenScope(kind=TokenKind.PAGE, digest=b"12345678"), text).reason == "PAGE_TOKEN_INVALID"


@given(cut=st.integers(0, 60), bit=st.integers(0, 400))
def test_a_damaged_token_is_refused(cut: int, bit: int) -> None:
    wanted = TokenScope(kind=TokenKind.RESUME, digest=b"12345678")
    text = encode_token(wanted, POSITION)
    assert refused(wanted, text[: min(cut, len(text) - 1)]).reason == "RESUME_TOKEN_INVALID"
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    assert refused(wanted, base64.urlsafe_b64encode(raw).decode()).violations[0].field == "resume_token"


def test_an_empty_key_is_not_the_beginning() -> None:
    wanted = TokenScope(kind=TokenKind.PAGE, digest=b"12345678")
    first = encode_token(wanted, POSITION._replace(key=None))
    assert decode_token(wanted, first).key is None
    assert decode_token(wanted, encode_token(wanted, POSITION._replace(key=b""))).key == b""


def test_a_token_of_another_query_is_told_from_a_damaged_one(contracts: ContractSet) -> None:
    country = contracts.datasets["airports"].column("country")
    mine = scope(contracts, AnyOf(column=country, values=("DE",)))
    others = [
        scope(contracts),
        scope(contracts, AnyOf(column=country, values=("DE", "FR"))),
        scope(contracts, AnyOf(column=country, values=("DE",)), method="a.B/D"),
        scope(contracts, AnyOf(column=country, values=("DE",)), kind=TokenKind.RESUME),
    ]
    text = encode_token(mine, POSITION)
    for other in others:
        assert "another method, filter, order or contract" in str(refused(other, text))


def test_a_token_of_another_contract_is_refused(contracts: ContractSet) -> None:
    airports = contracts.datasets["airports"]
    changed = dataclasses.replace(airports, fingerprint="other")
    text = encode_token(token_scope(TokenKind.PAGE, "m", airports, []), POSITION)
    assert refused(token_scope(TokenKind.PAGE, "m", changed, []), text).reason == "PAGE_TOKEN_INVALID"


def test_a_scope_is_the_same_in_every_process(contracts: ContractSet) -> None:
    values = (1, Decimal(2), "é", b"\0", 1.5, dt.date(2024, 5, 1), dt.timedelta(1), dt.datetime(1, 1, 1, tzinfo=dt.UTC))
    airports = dataclasses.replace(contracts.datasets["airports"], fingerprint="fixed")
    filters = [AnyOf(column=airports.column("iata"), values=values)]
    # A token made by one release must be read by the next: change _FORMAT when this changes.
    assert token_scope(TokenKind.PAGE, "a.B/C", airports, query(filters).identity).digest.hex() == "760cfc8cb771b4af"

"""Random and mutated filters, orders and tokens: answered or refused, never a crash, never an SQL error, no injection.

FUZZ_INPUTS sets how many; `make bench-fuzz` takes 100,000.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from query_service.conditions import query
from query_service.filter.check import compile_filter
from query_service.order import parse_order
from query_service.plan import Planner
from query_service.ranking import pack
from query_service.tokens import Position, TokenKind, decode_token, encode_token, token_scope
from shared.errors import InvalidRequest
from shared.local.postgres import EmbeddedPostgres
from tests.conftest import new_database
from tests.integration.query import wares
from tests.integration.query.lab import Client, Lab, migrated_lab, serving

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1500"))
SERVICE = "wares.v1.WareService"
# No statement may hold it: it stands in values, names and strings that are mutated.
MARK = "zq9x"
SEEDS = [
    f'color = "{MARK}" AND price > 1.5',
    f"(color = {MARK} OR color = red) -hot = true brand:* NOT made > 2024-05-01T00:00:00Z",
    f'title:"{MARK}" OR tags:{MARK} AND brand = "{MARK}*"',
    f'title:"Old {MARK}" title:oak price > 0',
    "oak -hot = true",
    f"{MARK} OR units = 18446744073709551615 lead <= 1.5s best != 2024-02-29",
    f'digest = "AP8=" rank = RANK_LOW weight = NaN shelf >= "{MARK}" number < -3',
    "sizes:1.5 OR batch = 7 OR (NOT (price:* AND (color:* OR -rank = 2)))",
]
RANKED = ["relevance desc"] * 5 + ["relevance desc, shelf"]
SCRAPS = [
    *"()=<>!:*-\\\"', \t\n;$%\0é\u2028\U0001f600",
    *(" AND ", " OR ", " NOT ", "!=", ">=", "--", "/*", "*/", "$1", "%s", "::text", "';DROP TABLE data.wares;--", MARK),
    *("1e999", "-0", "9" * 30, "NaN", "2024-13-45", "9999-12-31T23:59:59.999999999-23:59", "0001-01-01", "'" * 3),
    *("(" * 30, ")" * 30, "\\*", "\\", "a.b.c", "color", "price", "_wire", "ctid", "null", "true", "x" * 300),
]


def mutated(chance: random.Random, text: str) -> str:
    """The text with a few pieces removed, doubled, moved or put in."""
    for _ in range(chance.randint(0, 4)):
        first, second = sorted(chance.randint(0, len(text)) for _ in range(2))
        second = min(second, first + chance.choice([1, 3, 20]))
        match chance.randint(0, 3):
            case 0:
                text = text[:first] + text[second:]
            case 1:
                text = text[:second] + text[first:second] + text[second:]
            case 2:
                text = text[:first] + chance.choice(SCRAPS) + text[first:]
            case _:
                other = chance.choice(SEEDS)
                text = text[:first] + other[chance.randint(0, len(other)) :]
    return text


def filters(chance: random.Random) -> Iterator[str]:
    while True:
        if chance.random() < 0.2:
            yield "".join(chance.choice(SCRAPS) for _ in range(chance.randint(1, 12)))
        else:
            yield mutated(chance, chance.choice(SEEDS))


def orders(chance: random.Random) -> Iterator[str]:
    while True:
        order = chance.choice([*wares.ORDERS, *RANKED])
        yield mutated(chance, order) if order and chance.random() < 0.2 else order


def token(chance: random.Random, lab: Lab, text: str, order: str) -> str:
    """None, noise, or a forged one: of this query's scope and with a true checksum, its position damaged."""
    if chance.random() < 0.4:
        return ""
    try:
        condition = compile_filter(lab.dataset, text)
        asked = query([] if condition is None else [condition], parse_order(lab.dataset, order))
        position = Planner(lab.dataset).position(asked)
    except InvalidRequest:
        return "".join(chance.choice("AQgw_-9") for _ in range(chance.randint(1, 90)))
    ties = [f"{field.name} {field.descending}" for field in position] if order else []
    scope = token_scope(TokenKind.PAGE, f"{SERVICE}/ListWares", lab.dataset, (*asked.identity, *ties))
    row = {name: chance.choice(values) for name, values in wares.VALUES.items()}
    key = bytearray(wares.record(lab, row).SerializeToString())
    for _ in range(chance.choice([0, 0, 1, 3])):
        key[chance.randrange(len(key))] = chance.randrange(256)
    packed = pack(chance.choice([-1.0, 0.5, 2.0, float("nan")]), bytes(key)) if asked.ranked else bytes(key)
    packed = packed[: chance.choice([3, *[len(packed)] * 9])]
    forged = encode_token(scope, Position(epoch=epoch(chance), version=1, key=packed))
    assert decode_token(scope, forged).key == packed
    return forged if chance.random() < 0.8 else mutated(chance, forged).replace("\0", "")


def epoch(chance: random.Random) -> uuid.UUID:
    return uuid.UUID(int=chance.getrandbits(128))


@pytest.fixture(scope="module")
def lab(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with (
        migrated_lab(postgres, tmp_path_factory.mktemp("fuzz"), wares.CONTRACT, "wares") as template,
        new_database(postgres, template.database) as url,
    ):
        yield Lab(url=url, contracts=template.contracts, name="wares")


def rows(lab: Lab) -> list[Any]:
    chance = random.Random(3)
    return [
        wares.record(lab, {name: chance.choice(values) for name, values in wares.VALUES.items()} | {"number": number})
        for number in range(60)
    ]


def test_no_statement_holds_text_of_the_caller(lab: Lab) -> None:
    chance = random.Random(11)
    planner, accepted = Planner(lab.dataset), 0
    names = {"data", "wares", "_wire", "C", *(column.name for column in lab.dataset.columns)}
    for text, order in zip(filters(chance), orders(chance), strict=False):
        try:
            condition = compile_filter(lab.dataset, text)
            asked = query([] if condition is None else [condition], parse_order(lab.dataset, order))
            plan = planner.plan(asked)
        except InvalidRequest:
            continue
        counted = planner.count(query([condition])) if condition is not None else None
        for sql in (plan.page, plan.sizes, *((counted.exact, counted.estimate) if counted else ())):
            assert MARK not in sql
            assert set(re.findall(r'"([^"]*)"', sql)) <= names
        accepted += 1
        if accepted >= INPUTS // 3:
            return


async def test_every_input_is_answered_or_refused(lab: Lab) -> None:
    await lab.insert(rows(lab), version=1)
    chance = random.Random(os.environ.get("FUZZ_SEED", "17"))
    texts, ordered, codes = filters(chance), orders(chance), dict[Any, int]()
    async with serving(lab) as client:
        for _ in range(0, INPUTS, 25):
            batch = [(next(texts), next(ordered)) for _ in range(25)]
            asked = [
                {"filter": text, "order_by": order, "page_token": token(chance, lab, text, order)}
                for text, order in batch
            ]
            for code in await asyncio.gather(*(outcome(client, fields) for fields in asked)):
                codes[code] = codes.get(code, 0) + 1
        async with lab.session() as session:
            assert await session.fetchval("SELECT count(*) FROM data.wares") == 60
    assert codes[grpc.StatusCode.OK] > INPUTS // 20, codes
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] > INPUTS // 20, codes


async def outcome(client: Client, fields: dict[str, Any]) -> grpc.StatusCode:
    code = grpc.StatusCode.OK
    try:
        await client.call("ListWares", page_size=5, **fields)
    except grpc.aio.AioRpcError as exc:
        code = exc.code()
    assert code in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}, (fields, code)
    return code

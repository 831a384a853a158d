"""Requests that can never work: each is answered with status, reason and field, and the service goes on."""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple
from uuid import UUID

import grpc
import pytest

from query_service.tokens import Position, TokenKind, encode_token, token_scope
from shared.local.certificates import CertificateFiles
from tests.integration.bad_input.served import refusal, serving_mtls
from tests.integration.query.lab import Client, Lab, readings
from tests.integration.rpc.conftest import Dial

INVALID = grpc.StatusCode.INVALID_ARGUMENT
LIST, STREAM, GET = "ListReadings", "StreamReadings", "GetReading"
FIELD = {LIST: "page_token", STREAM: "resume_token"}
REASON = {LIST: "PAGE_TOKEN_INVALID", STREAM: "RESUME_TOKEN_INVALID"}


@pytest.fixture
async def client(lab: Lab, server_files: CertificateFiles, dial: Dial) -> AsyncIterator[Client]:
    """A caller whom everything works for, over a dataset of ten rows; it still works when the test is over."""
    await lab.insert(readings(lab, 10))
    async with serving_mtls(lab, server_files) as server, dial(server.port) as channel:
        client = Client(lab=lab, channel=channel, server=server)
        yield client
        assert len((await client.call(LIST)).readings) == 10


async def good_token(client: Client, method: str, **fields: Any) -> str:
    """A token that the service itself has given out."""
    if method == LIST:
        return str((await client.call(LIST, page_size=2, **fields)).next_page_token)
    return bytes((await client.stream(max_rows=2, **fields))[-1].resume_token).decode()


def with_token(client: Client, method: str, token: str, **fields: Any) -> Any:
    value = token.encode() if method == STREAM else token
    return client.lab.request(method, **{FIELD[method]: value}, **fields)


def forged(body: bytes) -> str:
    """With a checksum that is right."""
    return base64.urlsafe_b64encode(body + zlib.crc32(body).to_bytes(4, "big")).rstrip(b"=").decode()


def unpacked(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))


DAMAGED: dict[str, Callable[[str], str]] = {
    "garbage": lambda token: "garbage!",
    "base64 of something else": lambda token: base64.b64encode(b"select 1" * 10).decode(),
    "no ASCII": lambda token: "é" * 40,
    "NUL": lambda token: "\0" * 40,
    "one character short": lambda token: token[:-1],
    "half": lambda token: token[: len(token) // 2],
    "one character": lambda token: token[:1],
    "one character changed": lambda token: token[:9] + ("A" if token[9] != "A" else "B") + token[10:],
    "a character too many": lambda token: token + "A",
    "twice": lambda token: token + token,
    "with a line end": lambda token: token + "\n",
    "in standard base64": lambda token: base64.b64encode(unpacked(token) + b"\xff").decode(),
    "huge": lambda token: token * 10_000,
    "of another release": lambda token: forged(b"\x02" + unpacked(token)[1:-4]),
    "forged without a key": lambda token: forged(unpacked(token)[:33] + b"\x01"),
    "forged with a key that is none": lambda token: forged(unpacked(token)[:33] + b"\x01" + b"\xff" * 30),
}


@pytest.mark.parametrize("method", [LIST, STREAM])
async def test_damaged_token_is_refused_by_its_field(client: Client, method: str) -> None:
    token = await good_token(client, method)
    for name, damage in DAMAGED.items():
        answer = await refusal(client, method, with_token(client, method, damage(token)))
        assert answer[:3] == (INVALID, REASON[method], FIELD[method]), name
        assert answer.message.startswith(f"{FIELD[method]}: "), name


@pytest.mark.parametrize("method", [LIST, STREAM])
async def test_token_of_another_query_is_refused(client: Client, method: str) -> None:
    label = ["l1"] if method == LIST else "l1"
    other = LIST if method == STREAM else STREAM
    foreign = [
        with_token(client, method, await good_token(client, method), label=label),
        with_token(client, method, await good_token(client, method, label=label)),
        with_token(client, method, await good_token(client, other)),
    ]
    for request in foreign:
        answer = await refusal(client, method, request)
        assert answer[:3] == (INVALID, REASON[method], FIELD[method])
        assert "belongs to another method, filter, order or contract" in answer.message


@pytest.mark.parametrize("method", [LIST, STREAM])
async def test_token_of_another_contract_is_refused(client: Client, method: str) -> None:
    """As a caller holds one who slept through a change of the contract."""
    kind = TokenKind.PAGE if method == LIST else TokenKind.RESUME
    dataset = dataclasses.replace(client.lab.dataset, fingerprint="of-yesterday")
    scope = token_scope(kind, f"{client.lab.service.full_name}/{method}", dataset, [])
    token = encode_token(scope, Position(epoch=UUID(int=1), version=1, key=b""))
    answer = await refusal(client, method, with_token(client, method, token))
    assert answer[:3] == (INVALID, REASON[method], FIELD[method])
    assert "contract" in answer.message


class Bad(NamedTuple):
    """Fields of a request, and what refuses it."""

    method: str
    fields: dict[str, Any]
    code: grpc.StatusCode
    reason: str
    field: str
    message: str


DAY = {"year": 2024, "month": 5, "day": 1}
REQUESTS = [
    Bad(LIST, {"page_size": -1}, INVALID, "INVALID_REQUEST", "page_size", "page_size: must not be negative, is -1"),
    Bad(LIST, {"page_size": -(2**31)}, INVALID, "INVALID_REQUEST", "page_size", "must not be negative"),
    Bad(LIST, {"at_least_version": -1}, INVALID, "INVALID_REQUEST", "at_least_version", "must not be negative"),
    Bad(
        GET,
        {"day": DAY, "at_least_version": -1},
        INVALID,
        "INVALID_REQUEST",
        "at_least_version",
        "must not be negative",
    ),
    Bad(STREAM, {"max_rows": -1}, INVALID, "INVALID_REQUEST", "max_rows", "must not be negative, is -1"),
    Bad(LIST, {"label": ["x"] * 129}, INVALID, "INVALID_REQUEST", "label", "holds 129 values; at most 128"),
    Bad(LIST, {"label": ["x" * 41]}, INVALID, "VALIDATION_FAILED", "label[0]", "(string.max_len)"),
    Bad(LIST, {"label": ["a\0b"]}, INVALID, "INVALID_REQUEST", "label", "NUL"),
    Bad(GET, {"site": "A"}, INVALID, "INVALID_REQUEST", "day", "day: is required"),
    Bad(GET, {"site": "A", "day": {"year": 2023, "month": 2, "day": 30}}, INVALID, "INVALID_REQUEST", "day", "day"),
    Bad(GET, {"site": "a\0b", "day": DAY}, INVALID, "INVALID_REQUEST", "site", "NUL"),
    Bad(LIST, {"due": [{"year": 10000, "month": 1, "day": 1}]}, INVALID, "INVALID_REQUEST", "due", "due"),
    Bad(LIST, {"at": {"seconds": 2**62}}, INVALID, "INVALID_REQUEST", "at", "at"),
    Bad(LIST, {"span": {"seconds": 2**62}}, INVALID, "INVALID_REQUEST", "span", "span"),
    Bad(
        LIST, {"filter": "a = 1"}, INVALID, "FILTER_FIELD", "filter", "column 1, at a: lab.v1.Reading has no such field"
    ),
    Bad(LIST, {"at_least_version": 2**63 - 1}, grpc.StatusCode.UNAVAILABLE, "VERSION_NOT_REACHED", "", "version"),
]


async def test_field_that_can_never_work_is_named(client: Client) -> None:
    for case in REQUESTS:
        answer = await refusal(client, case.method, client.lab.request(case.method, **case.fields))
        assert answer[:3] == case[2:5], case
        assert case.message in answer.message, case


BYTES = [
    (LIST, b"\xff\xff", "MALFORMED_REQUEST", ""),
    (STREAM, b"\xff\xff", "MALFORMED_REQUEST", ""),
    (GET, b"\x0a\x7fcut short", "MALFORMED_REQUEST", ""),
    (LIST, b"\x12\x02\xff\xfe", "MALFORMED_REQUEST", ""),  # text that is no UTF-8
    (LIST, b"\x0b", "MALFORMED_REQUEST", ""),  # a group without its end
    (LIST, b"\xf8\x07\x01", "UNKNOWN_FIELD", "127"),
    (STREAM, b"\xf8\x07\x01\xf0\x06\x01", "UNKNOWN_FIELD", "110,127"),
    (GET, b"\xf8\x07\x01", "UNKNOWN_FIELD", "127"),
    (LIST, b"\x0a\x01x", "UNKNOWN_FIELD", "1"),  # page_size as text
]


async def test_bytes_that_are_no_request_of_this_method_are_refused(client: Client) -> None:
    for method, body, reason, field in BYTES:
        assert (await refusal(client, method, body))[:3] == (INVALID, reason, field), body


async def test_page_size_beyond_the_largest_is_coerced(client: Client) -> None:
    await client.lab.insert(readings(client.lab, 1005)[10:])
    for page_size, rows in ((0, 50), (1001, 1000), (2**31 - 1, 1000)):
        assert len((await client.call(LIST, page_size=page_size)).readings) == rows
    await client.lab.execute("DELETE FROM data.readings WHERE serial >= 10")


async def test_request_over_the_receive_limit_is_refused_unread(client: Client) -> None:
    request = client.lab.request(LIST, page_token="x" * (5 * 1024 * 1024))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call(LIST, request)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in str(caught.value.details())


async def test_method_and_service_that_nobody_serves_are_unimplemented(client: Client) -> None:
    for path in ("/lab.v1.ReadingService/Invented", "/no.v1.Service/List", "/lab.v1.ReadingService/"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.channel.unary_unary(path, None, None)(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

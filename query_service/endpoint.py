"""One bound method with everything its handler needs. Holds no state of a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from protovalidate import Validator

from query_service.conditions import Query
from query_service.database import Database
from query_service.masks import Mask, read_mask
from query_service.paging import Paging
from query_service.plan import Planner
from query_service.request import check_request
from query_service.search import Searches
from query_service.tokens import Position, TokenKind, TokenScope, decode_token, encode_token, token_scope
from shared.contract.model import Dataset, Method


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Endpoint:
    """A method of a service over its dataset."""

    service: str
    dataset: Dataset
    method: Method
    output_class: type[Any]
    planner: Planner
    searches: Searches
    database: Database
    validator: Validator

    def check(self, message: Message) -> None:
        """Raises InvalidRequest for a request that breaks its own rules or holds what the contract does not know."""
        check_request(self.method, message, self.validator)

    def mask(self, message: Message) -> Mask | None:
        """The fields that are wanted; None for all. Raises InvalidRequest."""
        return read_mask(self.method, self.dataset, message)

    def scope(self, kind: TokenKind, query: Query, *more: str) -> TokenScope:
        """What a token of this query is good for, and of what `more` tells of it; raises InvalidRequest for an order
        that no index has."""
        identity = (*query.identity, *more)
        if query.order:  # which way the key breaks ties is the index's choice, and another index may choose otherwise
            identity = (*identity, *(f"{field.name} {field.descending}" for field in self.planner.position(query)))
        return token_scope(kind, f"{self.service}/{self.method.name}", self.dataset, identity)

    def paging(self, query: Query) -> Paging:
        """The query's pages; raises InvalidRequest for an order that no index has."""
        return Paging(self.planner, self.searches, query)

    def position(self, scope: TokenScope, text: str) -> Position | None:
        """The position a token names; None without one."""
        return decode_token(scope, text) if text else None

    def put_token(self, response: Any, scope: TokenScope, position: Position) -> None:
        """Sets the response's resume_token, which may be a string or bytes field."""
        token = encode_token(scope, position)
        binary = self.method.response_fields["resume_token"].type == FieldDescriptor.TYPE_BYTES
        response.resume_token = token.encode() if binary else token

"""What a request may not hold is refused before anything costly is done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from protovalidate import Validator

from query_service.endpoint import Endpoint
from query_service.pages import ListHandler
from query_service.parameters import query_parameters
from query_service.plan import Planner
from query_service.request import LARGEST_ANY_OF, check_request
from query_service.search import Searches
from shared.contract.build import load_contracts
from shared.contract.model import Method
from shared.errors import InvalidRequest

CONTRACT = """
syntax = "proto3";
package t.v1;
import "buf/validate/validate.proto";
import "google/protobuf/timestamp.proto";
import "penstock/contract/v1/contract.proto";
message Thing {
  option (penstock.contract.v1.dataset) = { name: "things" key: "id" file_policy: FILE_POLICY_MERGE };
  string id = 1;
  string color = 2 [(penstock.contract.v1.column).filterable = true];
  google.protobuf.Timestamp made = 3 [(penstock.contract.v1.column).filterable = true];
}
message ListThingsRequest {
  int32 page_size = 1;
  string page_token = 2;
  repeated string color = 3 [(buf.validate.field).repeated.items.cel = {
    id: "color.number" message: "too small" expression: "int(this) > 2"
  }];
  google.protobuf.Timestamp made = 4;
}
message ListThingsResponse { repeated Thing things = 1; string next_page_token = 2; }
service ThingService {
  option (penstock.contract.v1.serves) = "t.v1.Thing";
  rpc ListThings(ListThingsRequest) returns (ListThingsResponse);
}
"""


PROTO2_API = """
syntax = "proto2";
package t.v2;
import "penstock/contract/v1/contract.proto";
import "thing.proto";
message ListThingsRequest {
  optional int32 page_size = 1;
  optional string page_token = 2;
  repeated string color = 3;
  optional string filter = 4;
}
message ListThingsResponse { repeated t.v1.Thing things = 1; optional string next_page_token = 2; }
service ThingService {
  option (penstock.contract.v1.serves) = "t.v1.Thing";
  rpc ListThings(ListThingsRequest) returns (ListThingsResponse);
}
"""


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> Method:
    folder: Path = tmp_path_factory.mktemp("request")
    (folder / "thing.proto").write_text(CONTRACT)
    return load_contracts(folder).services[0].methods[0]


def refusal(method: Method, encoded: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        check_request(method, method.input_class.FromString(encoded), Validator())
    return caught.value


def test_of_many_unknown_fields_the_first_are_named(method: Method) -> None:
    found = refusal(method, b"".join(bytes([0x80 | n << 3 & 0x78, n >> 4 | 0x08, 0]) for n in range(200)))
    assert (found.reason, len(found.violations)) == ("UNKNOWN_FIELD", 20)


def test_a_field_that_is_unknown_inside_a_known_one_is_named_by_its_path(method: Method) -> None:
    found = refusal(method, b"\x22\x04\x08\x01\x48\x01")  # made: {seconds: 1, and a field 9}
    assert (found.reason, [violation.field for violation in found.violations]) == ("UNKNOWN_FIELD", ["made.9"])
    assert "google.protobuf.Timestamp" in found.violations[0].description


def test_too_many_values_are_refused_before_the_rules_are_tried_on_each(method: Method) -> None:
    found = refusal(method, b"\x1a\x011" * (LARGEST_ANY_OF + 1))
    assert [violation.field for violation in found.violations] == ["color"]
    assert "129 values" in found.message


def test_a_value_that_a_rule_cannot_be_evaluated_on_is_the_callers_mistake(method: Method) -> None:
    found = refusal(method, b"\x1a\x01x")
    assert found.reason == "VALIDATION_FAILED"
    assert "cannot be evaluated" in found.message
    assert refusal(method, b"\x1a\x012").violations[0].field == "color[0]"


def test_what_is_unknown_is_found_wherever_it_is_and_nowhere_else(method: Method) -> None:
    known = method.input_class(page_size=1, color=["3"], made={"seconds": 1}).SerializeToString()
    check_request(method, method.input_class.FromString(known), Validator())
    for unknown in (b"\x48\x01", b"\x22\x02\x48\x01"):
        assert refusal(method, known + unknown).reason == "UNKNOWN_FIELD"


def list_handler(folder: Path) -> tuple[ListHandler, Method]:
    """The contract's List, for requests that are refused before any database is asked."""
    (service,) = load_contracts(folder).services
    (method,) = service.methods
    planner = Planner(service.dataset)
    nothing: Any = None
    endpoint = Endpoint(
        service=service.full_name,
        dataset=service.dataset,
        method=method,
        output_class=nothing,
        planner=planner,
        searches=Searches(planner),
        database=nothing,
        validator=Validator(),
    )
    return ListHandler(endpoint), method


async def reason_of(handler: ListHandler, request: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        await handler.handle(request, None)
    return caught.value.reason


async def test_rules_about_the_token_are_held_against_every_page(tmp_path: Path) -> None:
    rules = """
  option (buf.validate.message).cel = {
    id: "token.size" message: "a token goes with a size" expression: "this.page_token == '' || this.page_size > 0"
  };
  int32 page_size = 1;
  string page_token = 2 [(buf.validate.field).string.max_len = 9];"""
    (tmp_path / "thing.proto").write_text(CONTRACT.replace("\n  int32 page_size = 1;\n  string page_token = 2;", rules))
    handler, method = list_handler(tmp_path)
    wanted: list[tuple[dict[str, Any], str]] = [
        ({"page_token": "x" * 10, "page_size": 1}, "VALIDATION_FAILED"),
        ({"page_token": "x"}, "VALIDATION_FAILED"),
        ({"page_token": "x", "page_size": 1}, "PAGE_TOKEN_INVALID"),
    ]
    for fields, reason in [*wanted, *wanted]:
        assert await reason_of(handler, method.input_class(**fields)) == reason


def test_a_proto2_string_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thing.proto").write_text(CONTRACT.partition("message ListThingsRequest")[0])
    (tmp_path / "api.proto").write_text(PROTO2_API)
    (service,) = load_contracts(tmp_path).services
    (method,) = service.methods
    for field, tag in (("color", b"\x1a"), ("filter", b"\x22")):
        with pytest.raises(InvalidRequest, match=f"{field}: is not UTF-8"):
            query_parameters(method, service.dataset, method.input_class.FromString(tag + b"\x02\xff\xfe"))


async def test_a_proto2_field_may_be_required_and_missing(tmp_path: Path) -> None:
    """Python's protobuf parses such a message, and refuses to write it."""
    (tmp_path / "thing.proto").write_text(CONTRACT.partition("message ListThingsRequest")[0])
    required = PROTO2_API.replace("optional int32 page_size", "required int32 page_size")
    (tmp_path / "api.proto").write_text(required.replace("optional string page_token", "required string page_token"))
    handler, method = list_handler(tmp_path)
    for encoded in (b"\x12\x01x", b"\x08\x01\x12\x01x"):
        assert await reason_of(handler, method.input_class.FromString(encoded)) == "PAGE_TOKEN_INVALID"

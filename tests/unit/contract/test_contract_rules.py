"""Every rule a contract may break is refused with file, message, field and reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from shared.contract.build import build_contracts, load_contracts
from shared.contract.compile import compile_folder
from shared.contract.model import FilePolicy, Kind, MethodKind
from shared.errors import ContractError

HEADER = """
syntax = "proto3";
package t.v1;
import "buf/validate/validate.proto";
import "google/protobuf/any.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/type/date.proto";
import "penstock/contract/v1/contract.proto";
import "penstock/query/v1/query.proto";
"""
OPTION = 'option (penstock.contract.v1.dataset) = { name: "things" key: "id" file_policy: FILE_POLICY_MERGE };'
RECORD = (
    """
message Thing {
  %s
  string id = 1;
  string color = 2 [(penstock.contract.v1.column).filterable = true];
  int32 size = 3 [(penstock.contract.v1.column).filterable = true];
  string note = 4;
}
"""
    % OPTION
)
LIST = """
message ListThingsRequest { int32 page_size = 1; string page_token = 2; %s }
message ListThingsResponse { repeated Thing things = 1; string next_page_token = 2; %s }
service ThingService {
  option (penstock.contract.v1.serves) = "t.v1.Thing";
  rpc ListThings(ListThingsRequest) returns (ListThingsResponse);
}
"""
GET = """
message GetThingRequest { %s }
service ThingService {
  option (penstock.contract.v1.serves) = "t.v1.Thing";
  rpc GetThing(GetThingRequest) returns (%s);
}
"""
STREAM = """
message StreamThingsRequest { %s }
message StreamThingsResponse { %s }
service ThingService {
  option (penstock.contract.v1.serves) = "t.v1.Thing";
  rpc StreamThings(StreamThingsRequest) returns (%s StreamThingsResponse);
}
"""
BATCH = """
message GetThingRequest { %s }
message BatchGetThingsRequest { %s }
message BatchGetThingsResponse { repeated Thing things = 1; %s }
service ThingService {
  option (penstock.contract.v1.serves) = "t.v1.Thing";
  rpc BatchGetThings(BatchGetThingsRequest) returns (BatchGetThingsResponse);
}
"""
WATCH = """
message WatchThingsRequest { %s }
message WatchThingsResponse { repeated Thing things = 1; %s }
service ThingService {
  option (penstock.contract.v1.serves) = "t.v1.Thing";
  rpc WatchThings(WatchThingsRequest) returns (stream WatchThingsResponse);
}
"""
FROM = "bytes resume_token = 1;"
CHANGED = "repeated Thing deleted = 2; bytes resume_token = 3;"
KEYS = "repeated GetThingRequest requests = 1;"
STREAM_RESPONSE = "repeated Thing things = 1; bytes resume_token = 2; penstock.query.v1.StreamStatus status = 3;"


def record(fields: str, option: str = OPTION) -> str:
    return "message Thing { %s string id = 1; %s }" % (option, fields)


def inside(fields: str, paths: str, label: str = "") -> str:
    """A record with a message N in field `n`, whose paths are filterable."""
    option = f"[(penstock.contract.v1.column) = {{ filterable_paths: [{paths}] }}]"
    return record("message N { string a = 1; %s } %s N n = 2 %s;" % (fields, label, option))


def option(text: str) -> str:
    return "option (penstock.contract.v1.dataset) = { %s };" % text


def write(folder: Path, body: str) -> Path:
    (folder / "thing.proto").write_text(HEADER + body)
    return folder


def problems(folder: Path, body: str) -> tuple[str, ...]:
    with pytest.raises(ContractError) as caught:
        load_contracts(write(folder, body))
    return caught.value.problems


REFUSED_RECORDS = [
    (record("", option('key: "id" file_policy: FILE_POLICY_MERGE')), "t.v1.Thing: dataset name '' must match"),
    (record("", option('name: "Things" key: "id" file_policy: FILE_POLICY_MERGE')), "dataset name 'Things' must match"),
    (record("", option('name: "a__b" key: "id" file_policy: FILE_POLICY_MERGE')), "no double underscore"),
    (record("", option('name: "things" key: "id"')), "file_policy is not set"),
    (
        record("", option('name: "things" key: "id" file_policy: FILE_POLICY_MIRROR min_rows_percent: 0')),
        "SNAPSHOT only",
    ),
    (
        record(
            "", option('name: "things" key: "id" file_policy: FILE_POLICY_MERGE snapshot_order: SNAPSHOT_ORDER_KEY')
        ),
        "snapshot_order is for FILE_POLICY_SNAPSHOT only",
    ),
    (
        record("", option('name: "things" key: "id" file_policy: FILE_POLICY_MERGE min_rows_percent: 0')),
        "min_rows_percent is for FILE_POLICY_SNAPSHOT only",
    ),
    (
        record("", option('name: "things" key: "id" file_policy: FILE_POLICY_SNAPSHOT min_rows_percent: 101')),
        "min_rows_percent must lie between 0 and 100",
    ),
    (record("", option('name: "things" file_policy: FILE_POLICY_MERGE')), "key is not set"),
    (record("", option('name: "things" key: "no" file_policy: FILE_POLICY_MERGE')), "key names 'no'"),
    (record("", option('name: "things" key: ["id", "id"] file_policy: FILE_POLICY_MERGE')), "key names a field twice"),
    (record("", OPTION[:-3] + " max_reject_percent: 101 };"), "max_reject_percent must lie"),
    (record("", OPTION[:-3] + " max_row_bytes: 99999999 };"), "max_row_bytes must be at most"),
    (record("", OPTION[:-3] + " indexes: { } };"), "indexes[0] names no field"),
    (record("", OPTION[:-3] + ' indexes: { fields: "nope" } };'), "indexes[0] names 'nope'"),
    (record("", OPTION[:-3] + ' indexes: { fields: "id down" } };'), "not of the form"),
    (record("repeated Thing parts = 2;"), "t.v1.Thing.parts: recursive message t.v1.Thing"),
    (record("google.protobuf.Any any = 2;"), ".any: google.protobuf.Any is not supported"),
    (record("google.protobuf.Struct data = 2;"), "recursive message google.protobuf"),
    (record("message In { In2 x = 1; } message In2 { In y = 1; } In z = 2;"), "t.v1.Thing.z.x.y: recursive message"),
    (
        record("repeated string s = 2 [(penstock.contract.v1.column).sortable = true];"),
        ".s: a repeated field can be filterable only",
    ),
    (record("message N { string a = 1; } N n = 2 [(penstock.contract.v1.column).filterable = true];"), ".n: nested,"),
    (record("int32 n = 2 [(penstock.contract.v1.column).searchable = true];"), ".n: only string fields can be search"),
    (record("string xmin = 2;"), ".xmin: is a system column"),
    (inside("", '"b"'), ".n: filterable_paths 'b' names 'b', which is no field of t.v1.Thing.N"),
    (inside("", '""'), ".n: filterable_paths '' names '', which is no field"),
    (inside("", '"a.b"'), ".n: filterable_paths 'a.b' leads through 'a', which is no single message"),
    (inside("", '"a", "a"'), ".n: filterable_paths names a path twice"),
    (inside("google.type.Date d = 2;", '"d"'), ".n: filterable_paths 'd' names 'd': a google.type.Date inside"),
    (inside("google.protobuf.Timestamp t = 2;", '"t.seconds"'), "'t.seconds' leads through 't', which is no single"),
    (inside("map<string, string> m = 2;", '"m"'), ".n: filterable_paths 'm' names 'm', a message, repeated message or"),
    (inside("message P { string x = 1; } repeated P p = 2;", '"p.x"'), "'p.x' leads through 'p', which is no single"),
    (inside("message P { string x = 1; } P p = 2;", '"p"'), "'p' names 'p', a message, repeated message or map"),
    (inside(f"string {'x' * 62} = 2;", f'"{"x" * 62}"'), "makes a name of more than 63 bytes"),
    (inside("", '"a"', label="repeated"), ".n: filterable_paths 'a' leads through 'n', which is no single message"),
    (record('string s = 2 [(penstock.contract.v1.column).filterable_paths = "x"];'), "leads through 's', which is no"),
    (
        record("", OPTION[:-3] + ' indexes: { fields: "id.x" } };'),
        "indexes[0] names 'id.x', which is not among the filterable_p",
    ),
    (
        inside("message P { string x = 1 [(penstock.contract.v1.column).filterable = true]; } P p = 2;", '"a"'),
        "t.v1.Thing.n.p.x: the column option does nothing inside a message; name the field in filterable_paths, on .n",
    ),
    (
        record("message N { string a = 1 [(penstock.contract.v1.column).source = 'b']; } map<string, N> n = 2;"),
        "t.v1.Thing.n.value.a: the column option does nothing inside a message",
    ),
    (record("string _x = 2;"), "._x: a field name must not begin with an underscore"),
    (record('string a = 2 [(penstock.contract.v1.column).source = "id"];'), ".a: source 'id' already feeds"),
    (
        "message Thing { %s optional string id = 1; }" % OPTION,
        "t.v1.Thing.id: a key field must not be optional",
    ),
    ("message Thing { %s double id = 1; }" % OPTION, ".id: a key field is a string, an integer"),
    (
        "message Thing { %s google.protobuf.StringValue id = 1; }" % OPTION,
        ".id: a key field must not be optional, a wr",
    ),
    ("message Thing { %s oneof o { string id = 1; } }" % OPTION, ".id: a key field must not be optional"),
    ("message Thing { %s repeated string id = 1; }" % OPTION, ".id: a key field is a string"),
    (RECORD + "message Other { %s string id = 1; }" % OPTION, "dataset name 'things' is already taken by t.v1.Thing"),
]


@pytest.mark.parametrize(("body", "reason"), REFUSED_RECORDS, ids=[reason for _, reason in REFUSED_RECORDS])
def test_record_that_breaks_a_rule_is_refused_with_its_reason(tmp_path: Path, body: str, reason: str) -> None:
    found = problems(tmp_path, body)
    assert any(reason in problem for problem in found), found
    assert all(problem.startswith("thing.proto: t.v1.") for problem in found)


REFUSED_SERVICES = [
    (GET % ("", "Thing"), "t.v1.ThingService.GetThing: t.v1.GetThingRequest lacks the key field 'id'"),
    (GET % ("int32 id = 1;", "Thing"), "GetThing.id: must have the type"),
    (GET % ("string id = 1; string other = 2;", "Thing"), "GetThing.other: is neither a key field nor reserved"),
    (GET % ("string id = 1;", "GetThingRequest"), "a Get method returns t.v1.Thing itself"),
    (
        LIST % ("string note = 3;", ""),
        "ListThings.note: is neither reserved nor a filterable field of t.v1.Thing (color",
    ),
    (LIST % ("int32 color = 3;", ""), "ListThings.color: must have the type"),
    (LIST % ("int32 size = 3;", ""), "ListThings.size: a filter that is not a string must be `optional`"),
    (LIST % ("int32 filter = 3;", ""), "ListThings.filter: is reserved and must be string"),
    (LIST % ("string read_mask = 3;", ""), "ListThings.read_mask: is reserved and must be google.protobuf.FieldMask"),
    (LIST % ("", "int32 total = 3;"), "ListThings.total: t.v1.ListThingsResponse may hold the records and"),
    (LIST % ("", "string dataset_version = 3;"), "ListThings.dataset_version: must be int32 or int64"),
    (
        STREAM % ("bytes resume_token = 1; google.type.Date partition = 2;", STREAM_RESPONSE, "stream"),
        "StreamThings.partition: is reserved and must be penstock.query.v1.Partition",
    ),
    (STREAM % ("", STREAM_RESPONSE, "stream"), "lacks the field 'resume_token'"),
    (STREAM % ("bytes resume_token = 1;", "repeated Thing things = 1;", "stream"), "lacks the field 'status'"),
    (STREAM % ("bytes resume_token = 1;", STREAM_RESPONSE, ""), "StreamThings: a Stream method returns a stream"),
    (
        STREAM
        % ("bytes resume_token = 1;", STREAM_RESPONSE.replace("penstock.query.v1.StreamStatus", "Thing"), "stream"),
        "StreamThings.status: must be penstock.query.v1.StreamStatus",
    ),
    (
        STREAM % ("bytes resume_token = 1;", STREAM_RESPONSE.replace("repeated Thing", "Thing"), "stream"),
        "field 1 of t.v1.StreamThingsResponse must be `repeated Thing`",
    ),
    (BATCH % ("string id = 1;", "", ""), "BatchGetThings: a BatchGet request holds `repeated GetXRequest requests`"),
    (BATCH % ("", KEYS, ""), "BatchGetThings.requests: t.v1.GetThingRequest lacks the key field 'id'"),
    (BATCH % ("int32 id = 1;", KEYS, ""), "BatchGetThings.requests.id: must have the type that t.v1.Thing.id has"),
    (BATCH % ("string id = 1; int32 n = 2;", KEYS, ""), "BatchGetThings.requests.n: is neither a key field nor"),
    (BATCH % ("string id = 1;", KEYS + "int32 n = 2;", ""), "BatchGetThings.n: is neither `requests` nor reserved"),
    (
        BATCH % ("string id = 1;", KEYS, "int32 n = 2;"),
        "BatchGetThings.n: t.v1.BatchGetThingsResponse may hold the rec",
    ),
    (BATCH % ("string id = 1;", KEYS, "Thing missing = 2;"), "BatchGetThings.missing: must be `repeated` of Thing"),
    (
        BATCH % ("string id = 1;", KEYS, "repeated google.type.Date missing = 2;"),
        "BatchGetThings.missing: google.type.Date lacks the key field 'id'",
    ),
    (WATCH % ("", CHANGED), "WatchThings: t.v1.WatchThingsRequest lacks the field 'resume_token'"),
    (WATCH % (FROM + "string color = 2;", CHANGED), "WatchThings.color: a Watch tells every change of the dataset"),
    (WATCH % (FROM + "int64 after_version = 2;", CHANGED), "WatchThings.after_version: must be `optional`"),
    (WATCH % (FROM + "optional string after_version = 2;", CHANGED), ".after_version: is reserved and must be int"),
    (WATCH % (FROM, "bytes resume_token = 3;"), "WatchThings: t.v1.WatchThingsResponse lacks the field 'deleted'"),
    (WATCH % (FROM, CHANGED + "int32 n = 4;"), "WatchThings.n: t.v1.WatchThingsResponse may hold the records and"),
    ((LIST % ("", "")).replace("rpc List", "rpc Fetch"), "ThingService.FetchThings: method names begin with"),
    ((LIST % ("", "")).replace('"t.v1.Thing"', '"t.v1.Nope"'), "t.v1.ThingService: serves 't.v1.Nope'"),
    ((GET % ("string id = 1;", "Thing")).replace("(GetThingRequest) r", "(stream GetThingRequest) r"), "client stream"),
]


@pytest.mark.parametrize(("body", "reason"), REFUSED_SERVICES, ids=[reason for _, reason in REFUSED_SERVICES])
def test_service_that_breaks_a_rule_is_refused_with_its_reason(tmp_path: Path, body: str, reason: str) -> None:
    found = problems(tmp_path, RECORD + body)
    assert any(reason in problem for problem in found), found


def test_all_problems_of_a_set_are_reported_together(tmp_path: Path) -> None:
    body = RECORD + LIST % ("string note = 3;", "int32 total = 3;")
    assert len(problems(tmp_path, body)) == 2


def test_a_refused_record_is_not_reported_again_by_its_service(tmp_path: Path) -> None:
    found = problems(tmp_path, record("", option('name: "things" key: "id"')) + LIST % ("", ""))
    assert len(found) == 1


def test_syntax_error_names_file_line_and_column(tmp_path: Path) -> None:
    assert any(re.match(r"thing\.proto:\d+:\d+: ", text) for text in problems(tmp_path, "message {"))


def test_missing_folder_and_empty_folder_say_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "nope", tmp_path):
        with pytest.raises(ContractError, match=r"PENSTOCK_CONTRACTS|holds no \.proto file"):
            load_contracts(path)


def test_file_that_is_no_descriptor_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.binpb"
    path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(ContractError, match="not a FileDescriptorSet"):
        load_contracts(path)


def test_services_without_serves_are_ignored(tmp_path: Path) -> None:
    unrelated = "message A {} service Unrelated { rpc Do(A) returns (A); }"
    assert load_contracts(write(tmp_path, RECORD + unrelated)).services == ()


def test_descriptor_set_with_other_contract_options_is_refused(tmp_path: Path) -> None:
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(compile_folder(write(tmp_path, RECORD)))
    for file in descriptors.file:
        if file.name.endswith("contract/v1/contract.proto"):
            file.extension[0].number += 1
    with pytest.raises(ContractError, match="differs from the one this service was built with"):
        build_contracts(descriptors.SerializeToString())


def test_descriptor_set_without_imports_says_how_to_compile_it(tmp_path: Path) -> None:
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(compile_folder(write(tmp_path, RECORD)))
    only = descriptor_pb2.FileDescriptorSet(file=[descriptors.file[-1]])
    with pytest.raises(ContractError, match="--include_imports"):
        build_contracts(only.SerializeToString())


def test_files_of_a_set_may_come_in_any_order(tmp_path: Path) -> None:
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(compile_folder(write(tmp_path, RECORD + LIST % ("", ""))))
    shuffled = descriptor_pb2.FileDescriptorSet(file=reversed(descriptors.file))
    contracts = build_contracts(shuffled.SerializeToString())
    assert list(contracts.datasets) == ["things"]
    assert [service.full_name for service in contracts.services] == ["t.v1.ThingService"]


def test_vendored_copy_of_the_options_is_accepted(tmp_path: Path) -> None:
    own = Path(__file__).parents[3] / "protos" / "penstock" / "contract" / "v1" / "contract.proto"
    copy = tmp_path / "penstock" / "contract" / "v1" / "contract.proto"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(own.read_bytes())
    assert "things" in load_contracts(write(tmp_path, RECORD)).datasets


def test_two_services_may_serve_one_record(tmp_path: Path) -> None:
    second = (GET % ("string id = 1;", "Thing")).replace("ThingService", "OtherService")
    contracts = load_contracts(write(tmp_path, RECORD + LIST % ("", "") + second))
    assert {service.dataset.name for service in contracts.services} == {"things"}
    assert len(contracts.services) == 2


def test_columns_inside_messages_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    nested = "message P { repeated int32 w = 1; google.protobuf.BoolValue b = 9; } P p = 7; optional int64 o = 3;"
    body = inside(nested, '"p.b", "o", "p.w", "a"').replace(OPTION, OPTION[:-3] + ' indexes: { fields: "n.o desc" } };')
    things = load_contracts(write(tmp_path, body)).datasets["things"]
    found = {
        column.name: (column.path, column.pg_type, column.nullable, column.implicit, column.wrapper)
        for column in things.columns
        if column.filterable
    }
    assert list(found) == ["n.a", "n.o", "n.p.w", "n.p.b"]
    assert found == {
        "n.a": ("2.1", 'text COLLATE "C"', True, True, False),
        "n.o": ("2.3", "bigint", True, False, False),
        "n.p.w": ("2.7.1", "integer[]", False, False, False),
        "n.p.b": ("2.7.9", "boolean", True, False, True),
    }
    assert [field.name for field in things.way("n.p.w")] == ["n", "p", "w"]


def test_a_record_inside_another_keeps_its_own_options(tmp_path: Path) -> None:
    other = option('name: "others" key: "id" file_policy: FILE_POLICY_MERGE')
    body = RECORD + "message Other { %s string id = 1; Thing thing = 2; }" % other
    assert [column.name for column in load_contracts(write(tmp_path, body)).datasets["others"].columns] == ["id"]


def test_model_of_the_airports_contract() -> None:
    contracts = load_contracts()
    airports = contracts.datasets["airports"]
    assert airports.key == ("icao",)
    assert airports.file_policy is FilePolicy.MERGE
    assert airports.sources["elevation_ft"] == ("elevation_ft", "elevationFt", "elevation")
    assert airports.has_rules
    service = next(s for s in contracts.services if s.full_name == "aviation.v1.AirportService")
    kinds = {method.name: method.kind for method in service.methods}
    assert kinds["GetAirport"] is MethodKind.GET
    assert kinds["BatchGetAirports"] is MethodKind.BATCH_GET
    listing = next(m for m in service.methods if m.kind is MethodKind.LIST)
    assert set(listing.filters) == {"iata", "country"}


def test_presence_decides_nullability_and_messages_without_a_type_stay_in_the_wire_column() -> None:
    shipments = load_contracts().datasets["shipments"]
    columns = {column.name: column for column in shipments.columns}
    assert {name for name, column in columns.items() if column.nullable} == {
        *("ship_date", "update_time", "transit_time", "insured_value", "note", "customs_id"),
        *("payer_account", "payer_number"),
    }
    assert columns["number"].kind is Kind.UINT64
    assert columns["number"].pg_type == "numeric(20)"
    assert columns["tags"].pg_type == 'text[] COLLATE "C"'
    assert columns["note"].wrapper
    assert not {"sender", "parcels", "counters", "stops"} & columns.keys()


def test_fingerprint_follows_the_wire_the_key_and_the_columns_but_not_flags(tmp_path: Path) -> None:
    def fingerprint(body: str) -> str:
        return load_contracts(write(tmp_path, body)).datasets["things"].fingerprint

    base = fingerprint(RECORD)
    assert (
        fingerprint(RECORD.replace("string note = 4;", "string note = 4 [(buf.validate.field).required = true];"))
        == base
    )
    assert fingerprint(RECORD.replace("[(penstock.contract.v1.column).filterable = true]", "")) == base
    changed = (
        "string note = 5;",
        "bytes note = 4;",
        "optional string note = 4;",
        "string memo = 4;",
        "repeated string note = 4;",
    )
    prints = {fingerprint(RECORD.replace("string note = 4;", text)) for text in changed}
    assert base not in prints
    assert len(prints) == len(changed)

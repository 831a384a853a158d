"""Contracts as strangers write them: proto2, editions, buf images, vendored files, rules that cannot work."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from shared.contract.build import build_contracts, load_contracts
from shared.contract.compile import PROTOS, compile_folder, library_paths
from shared.errors import ContractError

HEAD = """%s
package t.v1;
import "buf/validate/validate.proto";
import "penstock/contract/v1/contract.proto";
import "penstock/query/v1/query.proto";
"""
PROTO2, PROTO3, EDITION = 'syntax = "proto2";', 'syntax = "proto3";', 'edition = "2023";'
DATASET = 'option (penstock.contract.v1.dataset) = { name: "things" %s file_policy: FILE_POLICY_MERGE };'
RECORD = "message Thing { %s string id = 1; }" % (DATASET % 'key: "id"')
PAGE = "int32 page_size = 1; string page_token = 2;"
SERVICE = """
message %(kind)sThingsRequest { %(request)s }
message %(kind)sThingsResponse { %(response)s }
service ThingService {
  option (penstock.contract.v1.serves) = "t.v1.Thing";
  rpc %(kind)sThings(%(kind)sThingsRequest) returns (%(stream)s %(kind)sThingsResponse);
}
"""


def listing(response: str, request: str = PAGE) -> str:
    return SERVICE % {"kind": "List", "request": request, "response": response, "stream": ""}


def streaming(response: str) -> str:
    return SERVICE % {"kind": "Stream", "request": "bytes resume_token = 1;", "response": response, "stream": "stream"}


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.proto").write_text(text)
    return folder


def problems(folder: Path) -> str:
    with pytest.raises(ContractError) as caught:
        load_contracts(folder)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("syntax", "body", "reason"),
    [
        (
            PROTO3,
            listing("repeated Thing things = 1; oneof one { string next_page_token = 2; int64 dataset_version = 3; }"),
            ".next_page_token: must not be required or a oneof member",
        ),
        (
            PROTO2,
            listing(
                "repeated Thing things = 1; required string next_page_token = 2;",
                "optional int32 page_size = 1; optional string page_token = 2;",
            ),
            ".next_page_token: must not be required or a oneof member",
        ),
        (
            EDITION,
            listing("repeated Thing things = 1 [features.message_encoding = DELIMITED]; string next_page_token = 2;"),
            ".things: must not be DELIMITED",
        ),
        (
            PROTO3,
            streaming(
                "repeated Thing things = 1; bytes resume_token = 2; penstock.query.v1.StreamStatus status = 3;"
                "int64 dataset_version = 4;"
            ),
            ".dataset_version: t.v1.StreamThingsResponse may hold the records and resume_token, status only",
        ),
        (
            PROTO3,
            listing("repeated Thing things = 1; string next_page_token = 2; string resume_token = 3;"),
            ".resume_token: t.v1.ListThingsResponse may hold the records and next_page_token, dataset_version only",
        ),
    ],
)
def test_a_response_that_could_not_be_told_right_is_refused(
    tmp_path: Path, syntax: str, body: str, reason: str
) -> None:
    write(tmp_path, record=HEAD % PROTO3 + RECORD, api=HEAD % syntax + 'import "record.proto";' + body)
    assert reason in problems(tmp_path)


def test_an_optional_response_field_is_no_oneof_member(tmp_path: Path) -> None:
    api = listing(
        "repeated Thing things = 1; optional string next_page_token = 7; optional uint32 dataset_version = 9;"
    )
    assert load_contracts(write(tmp_path, thing=HEAD % PROTO3 + RECORD + api)).services


@pytest.mark.parametrize("name", ["partition", "max_rows", "filter"])
def test_a_key_field_with_a_reserved_name_cannot_be_asked_for(tmp_path: Path, name: str) -> None:
    body = """
message Thing { %s int64 %s = 1; }
message GetThingRequest { int64 %s = 1; }
message BatchGetThingsRequest { repeated GetThingRequest requests = 1; }
message BatchGetThingsResponse { repeated Thing things = 1; }
service ThingService {
  option (penstock.contract.v1.serves) = "t.v1.Thing";
  rpc GetThing(GetThingRequest) returns (Thing);
  rpc BatchGetThings(BatchGetThingsRequest) returns (BatchGetThingsResponse);
}
""" % (DATASET % f'key: "{name}"', name, name)
    found = problems(write(tmp_path, thing=HEAD % PROTO3 + body))
    assert f"GetThing.{name}: is reserved in requests" in found
    assert f"BatchGetThings.requests.{name}: is reserved in requests" in found


def test_a_record_of_an_edition_with_implicit_presence_is_accepted_and_closed_enums_are_not(tmp_path: Path) -> None:
    head = HEAD % EDITION + "option features.field_presence = IMPLICIT;"
    assert "things" in load_contracts(write(tmp_path, thing=head + RECORD)).datasets
    closed = "enum Shade { option features.enum_type = CLOSED; SHADE_UNSPECIFIED = 0; }"
    body = RECORD.replace("string id = 1;", "string id = 1; Shade shade = 2 [features.field_presence = EXPLICIT];")
    assert ".shade: closed (proto2) enums" in problems(write(tmp_path, thing=head + closed + body))


def test_an_unknown_file_policy_is_refused_by_its_number(tmp_path: Path) -> None:
    record = HEAD % PROTO3 + RECORD.replace("FILE_POLICY_MERGE", "9")
    assert "file_policy 9 is not supported" in problems(write(tmp_path, thing=record))


@pytest.mark.parametrize(
    ("option", "fields", "reason"),
    [
        ('key: "id"', [f"int32 f{n} = {n + 2};" for n in range(1597)], "has 1598 fields with a column"),
        (" ".join(f'key: "f{n}"' for n in range(32)), [f"int32 f{n} = {n + 2};" for n in range(32)], "key names 32"),
        (
            " ".join(f'key: "f{n}"' for n in range(31)) + ' indexes: { fields: ["a", "b desc"] }',
            [*(f"int32 f{n} = {n + 2};" for n in range(31)), "int32 a = 90;", "int32 b = 91;"],
            "indexes[0] would hold more than 32 columns",
        ),
        ('key: "id" indexes: { fields: " " }', [], "indexes[0]: ' ' is not of the form"),
    ],
)
def test_what_no_postgres_table_or_index_can_hold_is_refused(
    tmp_path: Path, option: str, fields: list[str], reason: str
) -> None:
    record = "message Thing { %s string id = 1; %s }" % (DATASET % option, "".join(fields))
    assert reason in problems(write(tmp_path, thing=HEAD % PROTO3 + record))


NEVER = [
    "string.min_len = 1",
    'cel = { id: "x" expression: "this.nope == 1" }',
    'cel = { id: "x" expression: "this >" }',
    'cel = { id: "x" expression: "nope(this)" }',
    'cel = { id: "x" expression: "this.matches(\'(\')" }',
    'cel = { id: "x" expression: "other > 1" }',
    'cel = { id: "x" expression: "size(this)" }',
]


@pytest.mark.parametrize(
    ("place", "rule"),
    [*(("record", rule) for rule in NEVER), ("nested", NEVER[1]), ("request", NEVER[0]), ("request", NEVER[-1])],
)
def test_a_rule_that_can_never_be_evaluated_is_refused_with_its_contract(tmp_path: Path, rule: str, place: str) -> None:
    field = f"int32 size = 9 [(buf.validate.field).{rule}];"
    fields = {"record": "", "nested": "", "request": ""} | {place: field}
    body = "message Part { %(nested)s }\n" % fields
    body += RECORD.replace("string id = 1;", "string id = 1; repeated Part parts = 3; %(record)s" % fields)
    # The filter needs its column: a filterable field of that name and type.
    filterable = "int32 size = 9 [(penstock.contract.v1.column).filterable = true];"
    if place == "request":
        body = body.replace("string id = 1;", f"string id = 1; {filterable}")
        fields["request"] = field.replace("int32", "optional int32")
    body += listing("repeated Thing things = 1; string next_page_token = 2;", PAGE + fields["request"])
    found = problems(write(tmp_path, thing=HEAD % PROTO3 + body))
    named = {"record": "t.v1.Thing", "nested": "t.v1.Part", "request": "t.v1.ListThingsRequest"}[place]
    assert found.startswith(f"thing.proto: {named}: ")
    assert len(found.splitlines()) == 1


def buf_image(folder: Path, *options: str) -> bytes:
    """What `buf build` makes of a module that has Penstock's protos as a copy."""
    module = folder / "module"
    module.mkdir()
    (module / "buf.yaml").write_text("version: v2\n")
    write(module, thing=(HEAD % PROTO3).replace('import "buf/validate/validate.proto";', "") + RECORD)
    shutil.copytree(PROTOS / "penstock", module / "penstock", ignore=shutil.ignore_patterns("ingest"))
    output = folder / "image.binpb"
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    subprocess.run([buf, "build", "-o", output, *options], cwd=module, check=True)
    return output.read_bytes()


@pytest.mark.parametrize("options", [(), ("--exclude-source-info",), ("--as-file-descriptor-set",)])
def test_an_image_of_buf_build_is_accepted(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert "things" in build_contracts(buf_image(tmp_path, *options)).datasets


def with_renamed_options(content: bytes) -> descriptor_pb2.FileDescriptorSet:
    """As compiled from a folder above, where the options' file has a longer path."""
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(content)
    ours = "penstock/contract/v1/contract.proto"
    for file in descriptors.file:
        file.name = file.name.replace(ours, f"vendor/{ours}")
        for index, dependency in enumerate(file.dependency):
            file.dependency[index] = dependency.replace(ours, f"vendor/{ours}")
    return descriptors


def test_the_options_file_is_held_to_ours_wherever_it_lies(tmp_path: Path) -> None:
    content = compile_folder(write(tmp_path, thing=HEAD % PROTO3 + RECORD))
    descriptors = with_renamed_options(content)
    assert "things" in build_contracts(descriptors.SerializeToString()).datasets
    options = next(file for file in descriptors.file if file.name.startswith("vendor/"))
    options.extension[0].number += 1
    with pytest.raises(ContractError, match=r"vendor/penstock/contract/v1/contract\.proto: differs"):
        build_contracts(descriptors.SerializeToString())


def test_a_stream_status_that_lacks_what_streams_say_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "penstock" / "query" / "v1" / "query.proto"
    copy.parent.mkdir(parents=True)
    copy.write_text((PROTOS / "penstock/query/v1/query.proto").read_text().replace("int64 rows = 6;", ""))
    api = streaming("repeated Thing things = 1; bytes resume_token = 2; penstock.query.v1.StreamStatus status = 3;")
    found = problems(write(tmp_path, thing=HEAD % PROTO3 + RECORD + api))
    assert "StreamThings.status: penstock.query.v1.StreamStatus is not the one" in found
    assert "'rows'" in found


def test_vendored_google_types_are_accepted(tmp_path: Path) -> None:
    copy = tmp_path / "google" / "type" / "date.proto"
    copy.parent.mkdir(parents=True)
    shutil.copy(library_paths()[1] / "google" / "type" / "date.proto", copy)
    body = 'import "google/type/date.proto";' + RECORD.replace("1;", "1; google.type.Date day = 2;")
    assert "things" in load_contracts(write(tmp_path, thing=HEAD % PROTO3 + body)).datasets


def test_warnings_are_left_out_where_there_are_errors(tmp_path: Path) -> None:
    found = problems(write(tmp_path, thing=HEAD % PROTO3 + "message {"))
    assert "warning" not in found
    assert found.startswith("thing.proto:")


def test_a_single_proto_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, thing=HEAD % PROTO3 + RECORD)
    with pytest.raises(ContractError, match="name the folder"):
        load_contracts(tmp_path / "thing.proto")


def test_one_record_under_two_api_versions_is_two_services(tmp_path: Path) -> None:
    v1 = RECORD + listing("repeated Thing things = 1; string next_page_token = 2;")
    v2 = listing("repeated t.v1.Thing things = 1; string next_page_token = 2; int64 dataset_version = 3;")
    second = (HEAD % PROTO3).replace("package t.v1;", "package t.v2;") + 'import "one.proto";' + v2
    contracts = load_contracts(write(tmp_path, one=HEAD % PROTO3 + v1, two=second))
    assert [service.full_name for service in contracts.services] == ["t.v1.ThingService", "t.v2.ThingService"]
    assert {service.dataset.name for service in contracts.services} == {"things"}


def test_a_record_may_be_nested_in_another_message(tmp_path: Path) -> None:
    api = listing("repeated Box.Thing things = 1; string next_page_token = 2;").replace("t.v1.Thing", "t.v1.Box.Thing")
    contracts = load_contracts(write(tmp_path, thing=HEAD % PROTO3 + f"message Box {{ {RECORD} }}" + api))
    assert contracts.services[0].dataset.message.full_name == "t.v1.Box.Thing"

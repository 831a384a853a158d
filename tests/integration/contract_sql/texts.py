"""Contracts as text for tests of their evolution: a record of few fields, to be changed in one place."""

from __future__ import annotations

from pathlib import Path

from shared.contract import migration_files
from shared.contract.build import load_contracts
from shared.contract.diff import diff
from shared.contract.snapshot import snapshots

HEADER = """
syntax = "proto3";
package shop.v1;
import "google/protobuf/duration.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/type/date.proto";
import "penstock/contract/v1/contract.proto";
enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; }
"""
FIELDS = """
string id = 1;
string label = 2 [(penstock.contract.v1.column).filterable = true];
int64 amount = 3;
optional double weight = 4;
repeated string tags = 5;
Box box = 6;
Colour colour = 7;
"""
BOX = "string material = 1; int32 height = 2;"
OPTIONS = 'name: "items" key: "id" file_policy: FILE_POLICY_MERGE'
EVERY_TYPE = """
bool a_bool = 101; int32 a_int32 = 102; sint32 a_sint32 = 103; sfixed32 a_sfixed32 = 104; int64 a_int64 = 105;
sint64 a_sint64 = 106; sfixed64 a_sfixed64 = 107; uint32 a_uint32 = 108; fixed32 a_fixed32 = 109;
uint64 a_uint64 = 110; fixed64 a_fixed64 = 111; float a_float = 112; double a_double = 113; string a_string = 114;
bytes a_bytes = 115; Colour a_enum = 116; google.protobuf.Timestamp a_timestamp = 117;
google.protobuf.Duration a_duration = 118; google.type.Date a_date = 119;
google.protobuf.BoolValue w_bool = 121; google.protobuf.Int32Value w_int32 = 122;
google.protobuf.Int64Value w_int64 = 123; google.protobuf.UInt32Value w_uint32 = 124;
google.protobuf.UInt64Value w_uint64 = 125; google.protobuf.FloatValue w_float = 126;
google.protobuf.DoubleValue w_double = 127; google.protobuf.StringValue w_string = 128;
google.protobuf.BytesValue w_bytes = 129;
optional bool o_bool = 131; optional int32 o_int32 = 132; optional uint64 o_uint64 = 133;
optional string o_string = 134; optional bytes o_bytes = 135; optional Colour o_enum = 136;
repeated bool r_bool = 141; repeated int32 r_int32 = 142; repeated int64 r_int64 = 143; repeated uint32 r_uint32 = 144;
repeated uint64 r_uint64 = 145; repeated float r_float = 146; repeated double r_double = 147;
repeated string r_string = 148; repeated bytes r_bytes = 149; repeated Colour r_enum = 150;
oneof choice { string c_string = 161; int64 c_int64 = 162; }
Box a_box = 171; repeated Box boxes = 172; map<string, Box> box_map = 173;
"""

INSERT = """
INSERT INTO data.items (id, amount, _wire, _object, _version)
SELECT 'id' || n, n, '\\x0a00', 1, 1 FROM generate_series(1, 500) AS n
"""


def contract(fields: str = FIELDS, *, box: str = BOX, options: str = OPTIONS) -> str:
    """A .proto file with the dataset `items`."""
    option = f"option (penstock.contract.v1.dataset) = {{ {options} }};"
    return f"{HEADER}\nmessage Box {{ {box} }}\nmessage Item {{ {option}\n{fields} }}\n"


def write_contract(folder: Path, text: str) -> Path:
    """Puts the text into the folder as its only contract."""
    folder.mkdir(exist_ok=True)
    (folder / "items.proto").write_text(text)
    return folder


def write_migrations(folder: Path) -> list[Path]:
    """What `penstock contract sql` does without a database."""
    own = migration_files.folder_of(folder)
    plan = diff(migration_files.recorded(own), snapshots(load_contracts(folder)))
    assert not plan.refusals
    return migration_files.write(own, migration_files.number(plan.drafts, migration_files.last_number(own)))

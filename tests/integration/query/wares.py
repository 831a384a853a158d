"""A contract that allows every kind of filter and order, its rows, and what Python says a filter means."""

from __future__ import annotations

import base64
import datetime as dt
import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from shared.contract.model import IndexField
from tests.integration.query.lab import Lab

CONTRACT = """
syntax = "proto3";
package wares.v1;
import "google/protobuf/duration.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/type/date.proto";
import "penstock/contract/v1/contract.proto";
import "penstock/query/v1/query.proto";

message Site { string code = 1; google.protobuf.Int64Value plant = 2; }
message Maker { string town = 1; optional int32 grade = 2; repeated string marks = 3; Site site = 4; }
enum Rank { RANK_UNSPECIFIED = 0; RANK_LOW = 1; RANK_HIGH = 2; }

message Ware {
  option (penstock.contract.v1.dataset) = {
    name: "wares" key: ["shelf", "number"] file_policy: FILE_POLICY_MERGE
    indexes: { fields: ["color", "price desc"] }
    indexes: { fields: ["brand desc", "weight"] }
    indexes: { fields: ["color", "brand", "price desc", "units"] }
    indexes: { fields: ["maker.town", "maker.site.code desc", "price desc"] }
  };
  string shelf = 1;
  int32 number = 2;
  string color = 3 [(penstock.contract.v1.column) = { filterable: true sortable: true }];
  optional double price = 4 [(penstock.contract.v1.column) = { filterable: true sortable: true }];
  optional string brand = 5 [(penstock.contract.v1.column) = { filterable: true sortable: true }];
  Rank rank = 6 [(penstock.contract.v1.column).filterable = true];
  bool hot = 7 [(penstock.contract.v1.column).filterable = true];
  google.protobuf.Timestamp made = 8 [(penstock.contract.v1.column) = { filterable: true sortable: true }];
  google.type.Date best = 9 [(penstock.contract.v1.column).filterable = true];
  google.protobuf.Duration lead = 10 [(penstock.contract.v1.column) = { filterable: true sortable: true }];
  float weight = 11 [(penstock.contract.v1.column) = { filterable: true sortable: true }];
  uint64 units = 12 [(penstock.contract.v1.column).filterable = true];
  repeated string tags = 13 [(penstock.contract.v1.column).filterable = true];
  repeated double sizes = 14 [(penstock.contract.v1.column).filterable = true];
  string title = 15 [(penstock.contract.v1.column).searchable = true];
  google.protobuf.Int64Value batch = 16 [(penstock.contract.v1.column).filterable = true];
  optional bytes digest = 17 [(penstock.contract.v1.column).filterable = true];
  string origin = 18;
  Maker maker = 19 [(penstock.contract.v1.column) = {
    filterable_paths: ["town", "site.plant", "grade", "marks", "site.code"]
  }];
}

service WareService {
  option (penstock.contract.v1.serves) = "wares.v1.Ware";
  rpc ListWares(ListWaresRequest) returns (ListWaresResponse);
  rpc StreamWares(StreamWaresRequest) returns (stream StreamWaresResponse);
}

message ListWaresRequest {
  int32 page_size = 1;
  string page_token = 2;
  string filter = 3;
  string order_by = 4;
  repeated string color = 5;
  repeated Rank rank = 6;
}
message ListWaresResponse { repeated Ware wares = 1; string next_page_token = 2; int64 dataset_version = 3; }
message StreamWaresRequest {
  string resume_token = 1;
  int64 max_rows = 2;
  string filter = 3;
  string order_by = 4;
  penstock.query.v1.Partition partition = 5;
}
message StreamWaresResponse {
  repeated Ware wares = 1;
  string resume_token = 2;
  penstock.query.v1.StreamStatus status = 3;
}
"""

NAN, INF = float("nan"), float("inf")
SECOND = dt.timedelta(seconds=1)
EPOCH = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)

# Few values each, so that rows and filters meet, with those at the edges of the types among them.
VALUES: dict[str, list[Any]] = {
    "shelf": ["", "A", "a", "B", "é"],
    "number": [-(2**31), -1, 0, 1, 2, 2**31 - 1],
    "color": ["", "red", "reddish", "RED", "z\U0010ffff", "a*", '"\\'],
    "price": [None, -INF, -0.0, 0.0, 1.5, INF, NAN],
    "brand": [None, "", "acme", "acmé"],
    "rank": [0, 1, 2, 7],
    "hot": [False, True],
    "made": [
        None,
        EPOCH,
        EPOCH + SECOND / 2,
        dt.datetime.min.replace(tzinfo=dt.UTC),
        dt.datetime.max.replace(tzinfo=dt.UTC),
    ],
    "best": [None, dt.date.min, dt.date(2024, 2, 29), dt.date.max],
    "lead": [None, -SECOND / 2, 0 * SECOND, 90 * SECOND],
    "weight": [0.0, struct.unpack("<f", struct.pack("<f", 0.1))[0], 2.0, NAN],
    "units": [0, 1, 2**63, 2**64 - 1],
    "tags": [[], ["x"], ["x", "y"], ["y", ""]],
    "sizes": [[], [1.5, NAN], [0.0]],
    "title": ["", "Old oak table", "OAK", "100% oak_tree"],
    "batch": [None, -1, 0, 2**63 - 1],
    "digest": [None, b"", b"\0\xff"],
    "maker.town": [None, "", "Ulm", "reed"],
    "maker.grade": [None, 0, 3],
    "maker.marks": [[], ["x"], ["y", ""]],
    "maker.site.code": [None, "", "q1"],
    "maker.site.plant": [None, 0, 2**63 - 1],
}
# Fields without presence inside a message: NULL where it is missing, and absent where they are empty too.
WITHIN = ["maker.town", "maker.site.code"]
NULLABLE = [name for name, values in VALUES.items() if None in values and name not in WITHIN]
REPEATED = [name for name, values in VALUES.items() if [] in values]
COMPARABLE = ["shelf", "number", "color", "price", "brand", "made", "best", "lead", "weight", "units", "batch"]
COMPARABLE += [*WITHIN, "maker.grade", "maker.site.plant"]
ELEMENTS: dict[str, list[Any]] = {"tags": ["x", "y", "", "z"], "sizes": [1.5, NAN, 0.0, 9.0], "maker.marks": ["x", ""]}
ORDERS = [
    "",
    *(f"{name}{way}" for name in ("color", "price", "brand", "made", "lead", "weight") for way in ("", " desc")),
    "shelf, number",
    "shelf desc, number desc",
    "shelf desc",
    "color, price desc",
    "color desc, price",
    "brand desc, weight",
    "brand, weight desc",
    "color, brand, price desc, units",
    "color desc, brand desc, price, units desc",
    "color, price desc, shelf, number",
    "maker.town",
    "maker.town desc, maker.site.code, price",
]


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A filter's text, and the same said in Python."""

    text: str
    meets: Callable[[dict[str, Any]], bool]

    def __repr__(self) -> str:
        return repr(self.text)


def literal(name: str, value: Any) -> str:
    """The value as a filter writes it."""
    if name == "hot":
        return "true" if value else "false"
    if name == "rank":
        return {0: "RANK_UNSPECIFIED", 1: "RANK_LOW", 2: "RANK_HIGH"}.get(value, str(value))
    if isinstance(value, float):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(repr(value), repr(value))
    if isinstance(value, bytes):
        return f'"{base64.b64encode(value).decode()}"'
    if isinstance(value, dt.datetime):
        return f"{value:%Y}".zfill(4) + f"{value:-%m-%dT%H:%M:%S.%fZ}"
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return f"{value.total_seconds():.6f}s"
    if isinstance(value, str):
        escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("*", r"\*")
        return f'"{escaped}"'
    return str(value)


def rank_of(value: Any) -> tuple[int, Any]:
    """Sorts as the API does: NULL greatest, NaN just below it, text by code point."""
    if value is None:
        return (2, 0)
    return (1, 0) if value != value else (0, value)


def folded(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


@st.composite
def tests(draw: st.DrawFn) -> Stated:
    """One restriction."""
    kind = draw(st.sampled_from(["equal", "equal", "compare", "present", "prefix", "element", "search"]))
    if kind == "equal":
        name = draw(st.sampled_from([name for name in VALUES if name not in {*REPEATED, "title"}]))
        value = draw(st.sampled_from([value for value in VALUES[name] if value is not None]))
        same = rank_of(value)
        if draw(st.booleans()):
            return Stated(text=f"{name} = {literal(name, value)}", meets=lambda row: rank_of(row[name]) == same)
        return Stated(text=f"{name} != {literal(name, value)}", meets=lambda row: rank_of(row[name]) != same)
    if kind == "compare":
        name = draw(st.sampled_from(COMPARABLE))
        value = draw(st.sampled_from([value for value in VALUES[name] if value is not None]))
        sign = draw(st.sampled_from(["<", "<=", ">", ">="]))
        return Stated(text=f"{name} {sign} {literal(name, value)}", meets=lambda row: compared(row[name], sign, value))
    if kind == "present":
        name = draw(st.sampled_from([*NULLABLE, *WITHIN, *REPEATED, "color", "rank", "weight", "title"]))
        return Stated(text=f"{name}:*", meets=lambda row: present(name, row[name]))
    if kind == "prefix":
        name, head = (
            draw(st.sampled_from(["color", "brand", "shelf", "maker.town"])),
            draw(st.sampled_from(["re", "ac", "A", "z"])),
        )
        return Stated(text=f'{name} = "{head}*"', meets=lambda row: (row[name] or "").startswith(head))
    if kind == "search":
        part = draw(st.sampled_from(["oak", "OAK t", "0% o", "_tr", "zzz"]))
        return Stated(text=f'title:"{part}"', meets=lambda row: folded(part) in folded(row["title"]))
    name = draw(st.sampled_from(REPEATED))
    value = draw(st.sampled_from(ELEMENTS[name]))
    wanted = rank_of(value)
    return Stated(text=f"{name}:{literal(name, value)}", meets=lambda row: wanted in map(rank_of, row[name]))


def compared(value: Any, sign: str, other: Any) -> bool:
    if value is None:
        return False
    mine, theirs = rank_of(value), rank_of(other)
    return {"<": mine < theirs, "<=": mine <= theirs, ">": mine > theirs, ">=": mine >= theirs}[sign]


def present(name: str, value: Any) -> bool:
    return value is not None if name in NULLABLE else bool(value)


def combined(children: st.SearchStrategy[Stated]) -> st.SearchStrategy[Stated]:
    def both(parts: list[Stated]) -> Stated:
        return Stated(
            text=" AND ".join(f"({p.text})" for p in parts), meets=lambda row: all(p.meets(row) for p in parts)
        )

    def either(parts: list[Stated]) -> Stated:
        return Stated(
            text=" OR ".join(f"({p.text})" for p in parts), meets=lambda row: any(p.meets(row) for p in parts)
        )

    def neither(part: Stated) -> Stated:
        return Stated(text=f"NOT ({part.text})", meets=lambda row: not part.meets(row))

    several = st.lists(children, min_size=2, max_size=3)
    return several.map(both) | several.map(either) | children.map(neither)


EVERYTHING = Stated(text="", meets=lambda row: True)
FILTERS = st.just(EVERYTHING) | st.recursive(tests(), combined, max_leaves=6)


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows with distinct keys."""
    keys = st.tuples(st.sampled_from(VALUES["shelf"]), st.integers(-3, 40))
    return [
        {name: draw(st.sampled_from(values)) for name, values in VALUES.items()}
        | {"shelf": shelf, "number": number}
        | draw(makers())
        for shelf, number in draw(st.lists(keys, max_size=30, unique=True))
    ]


@st.composite
def makers(draw: st.DrawFn) -> dict[str, Any]:
    """The values inside `maker`, of which those of a missing message are missing together."""
    names = [name for name in VALUES if name.startswith("maker.")]
    absent = draw(st.sampled_from(["", "maker.", "maker.site."]))
    values: dict[str, Any] = {}
    for name in names:
        if absent and name.startswith(absent):
            values[name] = [] if name in REPEATED else None
        else:
            given = [value for value in VALUES[name] if name not in WITHIN or value is not None]
            values[name] = draw(st.sampled_from(given))
    return values


def record(lab: Lab, row: dict[str, Any]) -> Any:
    """The message of a row."""
    message = lab.dataset.message_class()
    if row["maker.town"] is not None:
        message.maker.SetInParent()
    if row["maker.site.code"] is not None:
        message.maker.site.SetInParent()
    for path, value in row.items():
        if value is None or value == []:
            continue
        *way, name = path.split(".")
        holder = functools.reduce(getattr, way, message)
        if isinstance(value, list):
            getattr(holder, name).extend(value)
        elif isinstance(value, dt.datetime):
            message.made.FromDatetime(value)
        elif isinstance(value, dt.date):
            message.best.year, message.best.month, message.best.day = value.year, value.month, value.day
        elif isinstance(value, dt.timedelta):
            message.lead.FromTimedelta(value)
        elif name in {"batch", "plant"}:
            getattr(holder, name).value = value
        else:
            setattr(holder, name, value)
    return message


def in_order(found: Sequence[dict[str, Any]], order: Sequence[IndexField]) -> list[dict[str, Any]]:
    """The rows sorted by these fields, the last first: sorting is stable."""
    ordered = list(found)
    for field in reversed(order):
        ordered.sort(key=lambda row: rank_of(row[field.name]), reverse=field.descending)
    return ordered

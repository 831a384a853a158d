"""A contract with two fields to search, and what is read of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.integration.query.lab import Client, Lab

CONTRACT = """
syntax = "proto3";
package books.v1;
import "penstock/contract/v1/contract.proto";
import "penstock/query/v1/query.proto";

message Book {
  option (penstock.contract.v1.dataset) = { name: "books" key: ["shelf", "number"] file_policy: FILE_POLICY_MERGE };
  string shelf = 1;
  int32 number = 2;
  string title = 3 [(penstock.contract.v1.column).searchable = true];
  optional string blurb = 4 [(penstock.contract.v1.column).searchable = true];
  string genre = 5 [(penstock.contract.v1.column) = { filterable: true sortable: true }];
}

service BookService {
  option (penstock.contract.v1.serves) = "books.v1.Book";
  rpc ListBooks(ListBooksRequest) returns (ListBooksResponse);
  rpc StreamBooks(StreamBooksRequest) returns (stream StreamBooksResponse);
}
message ListBooksRequest {
  int32 page_size = 1;
  string page_token = 2;
  string filter = 3;
  string order_by = 4;
  repeated string genre = 5;
}
message ListBooksResponse { repeated Book books = 1; string next_page_token = 2; int64 dataset_version = 3; }
message StreamBooksRequest {
  string resume_token = 1;
  string filter = 2;
  string order_by = 3;
  penstock.query.v1.Partition partition = 4;
}
message StreamBooksResponse {
  repeated Book books = 1;
  string resume_token = 2;
  penstock.query.v1.StreamStatus status = 3;
}
"""


def shelved(lab: Lab, titles: Sequence[str], **fields: Any) -> list[Any]:
    """Books of these titles, numbered from 0."""
    return [
        lab.dataset.message_class(shelf="A", number=number, title=title, **fields)
        for number, title in enumerate(titles)
    ]


async def ranked(client: Client, text: str, sizes: Sequence[int] = (50,), **fields: Any) -> list[Any]:
    """All books that a filter finds, by relevance, in pages of these sizes in turn."""
    books: list[Any] = []
    asked = {"order_by": "relevance desc", "filter": text} | fields
    token, number = "", 0
    while True:
        size = sizes[number % len(sizes)]
        page = await client.call("ListBooks", page_token=token, page_size=size, **asked)
        assert len(page.books) == size or not page.next_page_token
        books += page.books
        token, number = page.next_page_token, number + 1
        if not token:
            return books

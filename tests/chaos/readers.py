"""Clients that stream all airports through several query processes, and note how often and where they were cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from shared.client.calls import BoundMethod, bind, records
from shared.client.channel import ClientTls
from shared.client.streams import stream
from shared.contract.model import MethodKind
from shared.local.service import LocalService
from tests.chaos.airfields import Rows
from tests.chaos.site import Site

SERVICE = "aviation.v1.AirportService"
# Several addresses have no common name, so it is given. Without bandwidth probing gRPC keeps to windows of 64 KiB: a
# reader that pauses has not received the rest of its stream already.
_OPTIONS = (("grpc.default_authority", "localhost"), ("grpc.http2.bdp_probe", 0))


@dataclass(slots=True, kw_only=True)
class Reader:
    """One stream in the making. `cuts` are the numbers of rows that had come before each call but the first."""

    method: BoundMethod
    rows: list[tuple[str, str]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    statuses: list[Any] = field(default_factory=list)
    _messages: Iterator[Any] | None = None

    def read_on(self) -> bool:
        """Takes the next message; False when the stream is complete."""
        if self._messages is None:
            self._messages = stream(self._call, self.method.request())
        message = next(self._messages, None)
        if message is None:
            return False
        self.rows += [(row.icao, row.name) for row in records(message)]
        if message.HasField("status"):
            self.statuses.append(message.status)
        return True

    def read_until_cut(self, times: int) -> None:
        """Takes messages until the stream has been cut that often and goes on."""
        while len(self.cuts) < times:
            assert self.read_on(), f"complete after {len(self.rows)} rows, without having been cut {times} times"

    def read_to_the_end(self) -> None:
        while self.read_on():
            pass

    def _call(self, request: Any) -> Any:
        if request.resume_token:
            self.cuts.append(len(self.rows))
        return self.method.call(request)


@contextmanager
def open_readers(site: Site, services: Sequence[LocalService], count: int) -> Iterator[list[Reader]]:
    """Readers with a channel of their own over all of these processes."""
    address = "ipv4:" + ",".join(service.address for service in services)
    service = next(one for one in site.contracts.services if one.full_name == SERVICE)
    tls = ClientTls.from_environment(site.certificates[1].environment())
    with ExitStack() as channels:
        opened: list[grpc.Channel] = [
            channels.enter_context(grpc.secure_channel(address, tls.credentials(), options=_OPTIONS))
            for _ in range(count)
        ]
        yield [Reader(method=bind(channel, service)[MethodKind.STREAM]) for channel in opened]


def in_order(rows: Rows) -> list[tuple[str, str]]:
    """Key and name of all rows, as a stream gives them."""
    return sorted((key, name) for key, (name, _) in rows.items())

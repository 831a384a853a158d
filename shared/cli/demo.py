"""`penstock demo`: the stack, and the main job shown on real data: a file dropped in a bucket, read over mTLS gRPC."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from penstock.query.v1 import query_pb2

from shared.cli.seed import GOOD_STATES, describe, ingest_stub, s3_client
from shared.cli.up import Stopped, open_stack, ready_line, report, stop_signals, watch
from shared.client.calls import records
from shared.client.service import ServiceClient, connect
from shared.contract.build import load_contracts
from shared.errors import FailedPrecondition
from shared.local.lock import AlreadyUp
from shared.local.samples import airports
from shared.local.stack import DEFAULT_DIRECTORY, LocalStack

SERVICE = "aviation.v1.AirportService"
PAGE_SIZE = 5
PAGES = 2
INTERRUPTED = 130
LOAD_TIMEOUT_S = 120.0
_POLL_S = 0.1
_COLUMNS = (("icao", 6), ("iata", 6), ("country", 9), ("name", 44))


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `penstock demo`."""
    parser = subparsers.add_parser("demo", help="run the main job on the embedded stack and stay up")
    parser.add_argument("--once", action="store_true", help="end when everything was shown")
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIRECTORY, help="where the stack keeps its files")
    parser.set_defaults(func=run, contracts=None)


def run(arguments: argparse.Namespace) -> int:
    """0 when everything worked, or the demo was asked to end; 1 when not."""
    try:
        with stop_signals(), open_stack(arguments) as stack:
            print(ready_line(stack), flush=True)
            show(stack)
            if arguments.once:
                return 0
            heading("The stack stays up; Ctrl-C ends it")
            return watch(stack)
    except Stopped:
        return INTERRUPTED if arguments.once else 0
    except AlreadyUp as exc:
        report(f"{exc.message}; use its env file, or another --dir")
        return 1


def show(stack: LocalStack) -> None:
    """The whole story, on standard output."""
    settings = stack.environment
    drop_file(settings)
    with connect(SERVICE, environ=settings, contracts=load_contracts()) as client:
        try:
            show_pages(client)
            show_stream(client)
        except grpc.RpcError as exc:
            call: Any = exc
            message = f"the query service answered {call.code().name}: {call.details()}"
            raise FailedPrecondition(message, reason="CALL_FAILED") from exc
    heading("Your turn: paste these into another terminal while the stack is up")
    show_lines(settings, stack.env_path)


def drop_file(settings: Mapping[str, str]) -> None:
    """Uploads the airports; the event in the queue does the rest."""
    sample = airports()
    key = f"{sample.dataset}/{sample.file_name}"
    uri = f"s3://{settings['PENSTOCK_BUCKET']}/{key}"
    heading(f"Dropping {sample.file_name} ({len(sample.data) / 1e6:.1f} MB) at {uri}")
    begin = time.monotonic()
    with closing(s3_client(settings)) as s3:
        version = s3.put_object(Bucket=settings["PENSTOCK_BUCKET"], Key=key, Body=sample.data)["VersionId"]
    with ingest_stub(settings) as stub:
        load = wait_for_load(stub, uri, version)
        say(describe(load))
        say(f"readable {time.monotonic() - begin:.1f} s after the upload began; the load's id is {load.id}")
        show_rejects(stub, load)


def wait_for_load(stub: ingest_pb2_grpc.IngestServiceStub, uri: str, version: str) -> ingest_pb2.Load:
    """Follows the load of that version of the object until it is in a good final state."""
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    shown = ""
    while time.monotonic() < deadline:
        page = stub.ListLoads(ingest_pb2.ListLoadsRequest(uri=uri, page_size=10), timeout=10.0)
        for load in page.loads:
            if load.object_version_id != version or load.state == ingest_pb2.LOAD_STATE_ABANDONED:
                continue
            if load.state != ingest_pb2.LOAD_STATE_RUNNING:
                return accepted(load)
            line = f"{ingest_pb2.LoadState.Name(load.state).removeprefix('LOAD_STATE_').lower()}: {load.rows_read} rows"
            if line != shown:
                say(line)
            shown = line
        time.sleep(_POLL_S)
    raise FailedPrecondition(f"no load of {uri} ended within {LOAD_TIMEOUT_S:.0f} s", reason="TIMEOUT")


def accepted(load: ingest_pb2.Load) -> ingest_pb2.Load:
    """The load; FailedPrecondition where its rows cannot be read."""
    if load.state not in GOOD_STATES:
        raise FailedPrecondition(f"the load failed: {describe(load)}", reason="LOAD_FAILED")
    return load


def show_rejects(stub: ingest_pb2_grpc.IngestServiceStub, load: ingest_pb2.Load) -> None:
    """The first of the rows that broke a rule of the contract."""
    if not load.rows_rejected:
        return
    page = stub.ListRejects(ingest_pb2.ListRejectsRequest(load_id=load.id, page_size=3), timeout=10.0)
    say(f"{load.rows_rejected} rows broke a rule of the contract and stayed out; the first of them:")
    for reject in page.rejects:
        say(f"  line {reject.line}, {reject.field}: {reject.message} [{reject.rule}]")


def show_pages(client: ServiceClient) -> None:
    """The first pages of List."""
    heading(f"ListAirports, {PAGES} pages of {PAGE_SIZE}")
    for number, page in enumerate(client.pages(page_size=PAGE_SIZE), start=1):
        say(f"page {number} at dataset version {page.dataset_version}")
        show_rows(records(page))
        if number == PAGES:
            return


def show_rows(rows: Iterable[Any]) -> None:
    """Records as a plain table."""
    for row in rows:
        say("  " + "".join(f"{getattr(row, name)[: width - 1]:<{width}}" for name, width in _COLUMNS).rstrip())


def show_stream(client: ServiceClient) -> None:
    """All rows through Stream, counted."""
    heading("StreamAirports, all of them")
    begin = time.monotonic()
    rows = messages = 0
    reason = ""
    for message in client.stream():
        rows += len(records(message))
        messages += 1
        reason = query_pb2.EndReason.Name(message.status.end_reason)
    if rows == 0:
        raise FailedPrecondition("the stream held no rows", reason="NO_ROWS")
    say(f"{rows} airports in {messages} messages and {time.monotonic() - begin:.2f} s, ended with {reason}")


def show_lines(settings: Mapping[str, str], env_path: Path) -> None:
    """Lines for the reader's own terminal; they work as they stand while the stack is up."""
    for line in (grpcurl_line(settings), python_line(env_path)):
        print(f"\n{line}")
    say("")
    say(f"the settings for your own client: source {shlex.quote(str(env_path))}")


def grpcurl_line(settings: Mapping[str, str]) -> str:
    """ListAirports through reflection."""
    words = [
        str(Path(sys.executable).parent / "grpcurl"),
        *("-cacert", settings["PENSTOCK_TLS_CA"]),
        *("-cert", settings["PENSTOCK_TLS_CERT"]),
        *("-key", settings["PENSTOCK_TLS_KEY"]),
        *("-d", '{"page_size": 3, "country": ["IS"]}'),
        settings["PENSTOCK_QUERY_ADDRESS"],
        f"{SERVICE}/ListAirports",
    ]
    return shlex.join(words)


def python_line(env_path: Path) -> str:
    """One airport through the client of this repository."""
    program = f'from shared.client.service import connect; print(connect("{SERVICE}").get(icao="BIRK"))'
    return f". {shlex.quote(str(env_path))} && {shlex.join([sys.executable, '-c', program])}"


def heading(text: str) -> None:
    """A line that opens a step."""
    print(f"\n\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def say(text: str) -> None:
    """A line of the step."""
    print(f"  {text}".rstrip(), flush=True)

"""grpcurl and buf curl through reflection, with a contract written outside the repository; and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from shared.local.certificates import CertificateAuthority
from shared.local.stack import LocalStack
from tests.e2e.running_stack import RunningStack, SpanSink

pytestmark = pytest.mark.xdist_group("e2e")

BIN = Path(sysconfig.get_path("scripts"))
CONTRACT = """
syntax = "proto3";
package outside.v1;
import "penstock/contract/v1/contract.proto";
import "penstock/query/v1/query.proto";

message Gauge {
  option (penstock.contract.v1.dataset) = { name: "gauges" key: "id" file_policy: FILE_POLICY_MERGE };
  int64 id = 1;
  string river = 2 [(penstock.contract.v1.column).filterable = true];
}
service GaugeService {
  option (penstock.contract.v1.serves) = "outside.v1.Gauge";
  rpc GetGauge(GetGaugeRequest) returns (Gauge);
  rpc ListGauges(ListGaugesRequest) returns (ListGaugesResponse);
  rpc StreamGauges(StreamGaugesRequest) returns (stream StreamGaugesResponse);
}
message GetGaugeRequest { int64 id = 1; }
message ListGaugesRequest { int32 page_size = 1; string page_token = 2; string river = 3; }
message ListGaugesResponse { repeated Gauge gauges = 1; string next_page_token = 2; int64 dataset_version = 3; }
message StreamGaugesRequest { string resume_token = 1; }
message StreamGaugesResponse {
  repeated Gauge gauges = 1; string resume_token = 2; penstock.query.v1.StreamStatus status = 3;
}
"""
ROWS = 120


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack that serves a contract which the repository has never seen, with 120 rows loaded."""
    contracts = tmp_path_factory.mktemp("contracts")
    (contracts / "gauge.proto").write_text(CONTRACT)
    directory = tmp_path_factory.mktemp("outside")
    with LocalStack(directory, contracts=contracts, environ=os.environ) as running:
        stack = RunningStack(directory=directory, environment=running.environment, sink=SpanSink())
        rows = "".join(f"{number},{'Rhine' if number % 2 else 'Elbe'}\n" for number in range(ROWS))
        stack.upload("gauges/first.csv", f"id,river\n{rows}".encode())
        yield stack


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def tls(environment: Mapping[str, str]) -> list[str]:
    files = {name: environment[f"PENSTOCK_TLS_{name.upper()}"] for name in ("ca", "cert", "key")}
    return ["-cacert", files["ca"], "-cert", files["cert"], "-key", files["key"]]


def grpcurl(stack: RunningStack, *words: str) -> subprocess.CompletedProcess[str]:
    return run([BIN / "grpcurl", *tls(stack.environment), *words])


def buf_curl(stack: RunningStack, method: str, data: str) -> subprocess.CompletedProcess[str]:
    environment = stack.environment
    files = ["--cacert", environment["PENSTOCK_TLS_CA"], "--cert", environment["PENSTOCK_TLS_CERT"]]
    url = f"https://{environment['PENSTOCK_QUERY_ADDRESS']}/{method}"
    key = ["--key", environment["PENSTOCK_TLS_KEY"]]
    return run([BIN / "buf", "curl", "--protocol", "grpc", *files, *key, "-d", data, url])


def test_grpcurl_lists_describes_pages_and_streams_through_reflection(outside: RunningStack) -> None:
    address = outside.environment["PENSTOCK_QUERY_ADDRESS"]
    assert "outside.v1.GaugeService" in grpcurl(outside, address, "list").stdout.split()
    assert "rpc ListGauges" in grpcurl(outside, address, "describe", "outside.v1.GaugeService").stdout
    seen: list[str] = []
    token = ""
    while True:
        data = json.dumps({"page_size": 50, "page_token": token})
        answer = grpcurl(outside, "-d", data, address, "outside.v1.GaugeService/ListGauges")
        page = json.loads(answer.stdout)
        seen += [gauge.get("id", "0") for gauge in page["gauges"]]
        token = page.get("nextPageToken", "")
        if not token:
            break
    assert seen == [str(number) for number in range(ROWS)]
    streamed = grpcurl(outside, address, "outside.v1.GaugeService/StreamGauges").stdout
    assert streamed.count('"river"') == ROWS
    assert "END_REASON_COMPLETE" in streamed
    filtered = grpcurl(outside, "-d", '{"river": "Elbe"}', address, "outside.v1.GaugeService/ListGauges")
    assert {gauge["river"] for gauge in json.loads(filtered.stdout)["gauges"]} == {"Elbe"}


def test_buf_curl_lists_and_streams_through_reflection(outside: RunningStack) -> None:
    page = buf_curl(outside, "outside.v1.GaugeService/ListGauges", '{"page_size": 3}')
    assert len(json.loads(page.stdout)["gauges"]) == 3, page.stderr
    stream = buf_curl(outside, "outside.v1.GaugeService/StreamGauges", "{}")
    assert "END_REASON_COMPLETE" in stream.stdout, stream.stderr


def test_error_details_are_shown_by_grpcurl(outside: RunningStack) -> None:
    address = outside.environment["PENSTOCK_QUERY_ADDRESS"]
    answer = grpcurl(outside, "-d", '{"page_token": "garbage"}', address, "outside.v1.GaugeService/ListGauges")
    assert answer.returncode != 0
    assert "InvalidArgument" in answer.stderr
    assert "PAGE_TOKEN_INVALID" in answer.stderr


@pytest.mark.slow
def test_without_a_certificate_there_is_nothing(outside: RunningStack) -> None:
    for service in ("QUERY", "INGEST"):
        address = outside.environment[f"PENSTOCK_{service}_ADDRESS"]
        for words in (["list"], ["grpc.health.v1.Health/Check"]):
            command: list[str | Path] = [BIN / "grpcurl", "-connect-timeout", "1", "-max-time", "2"]
            command += ["-cacert", outside.environment["PENSTOCK_TLS_CA"]]
            answer = run([*command, address, *words])
            assert answer.returncode != 0
            assert not answer.stdout
            assert not run(
                [BIN / "grpcurl", "-connect-timeout", "1", "-max-time", "2", "-plaintext", address, *words]
            ).stdout


def test_certificate_of_an_identity_that_is_not_allowed_gets_nothing(outside: RunningStack, tmp_path: Path) -> None:
    authority = CertificateAuthority.ensure(outside.directory / "certificates")
    stranger = authority.issue(
        "stranger", uris=["spiffe://penstock.local/client/stranger"], valid_for=timedelta(hours=1)
    )
    files = {**outside.environment, **stranger.environment()}
    for service, method in (
        ("QUERY", "outside.v1.GaugeService/ListGauges"),
        ("QUERY", "grpc.health.v1.Health/Check"),
        ("INGEST", "penstock.ingest.v1.IngestService/ListLoads"),
    ):
        address = outside.environment[f"PENSTOCK_{service}_ADDRESS"]
        called = run([BIN / "grpcurl", *tls(files), address, method])
        assert called.returncode != 0
        assert not called.stdout
        assert "PermissionDenied" in called.stderr or "permission" in called.stderr.lower()
        listed = run([BIN / "grpcurl", *tls(files), address, "list"])
        assert listed.returncode != 0
        assert "penstock" not in listed.stdout

"""The reference and the OpenAPI of contracts: whole, up to date, and true to the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from penstock.rpc.v1 import error_reason_pb2

from shared.cli.contract_docs import documents
from shared.cli.main import main
from shared.contract.build import build_contracts
from shared.contract.compile import PROTOS, compile_folder
from shared.contract.model import ContractSet
from shared.contract.reference import documented_services, reached_messages
from tests.unit.raised_reasons import REPOSITORY, raised_in, source_files

CALLS = re.compile(r"^    grpcurl \$TLS -d '(.*)' \$PENSTOCK_\w+_ADDRESS (\S+)/(\w+)$", re.MULTILINE)
# Where the errors of calls are made.
ANSWERS = [
    "query_service",
    "shared/rpc/admission.py",
    "shared/rpc/identity.py",
    "shared/rpc/inflight.py",
    "shared/rpc/interceptor.py",
    "shared/rpc/parsing.py",
    "shared/rpc/status.py",
    "shared/postgres/errors.py",
    *(
        f"ingest_service/{name}.py"
        for name in ("page_tokens", "populate", "rejects_request", "routing", "rpc", "sources", "unload", "watch")
    ),
    "ingest_service/ledger",
    "ingest_service/merge",
    "ingest_service/objects",
    "ingest_service/reconcile",
]
# What a single object's load ends with: no call of a prefix, a load or a row does.
ONLY_LOADS = {"OBJECT_ARCHIVED", "OBJECT_CHANGED", "OBJECT_GONE", "S3_CHECKSUM_MISMATCH", "SNAPSHOT_TOO_SMALL"}
ONLY_LOADS |= {"DECOMPRESSED_TOO_LARGE", "OBJECT_KEEPS_CHANGING", "UNSUPPORTED_ENCODING"}
# Made from a field's name, or a default.
COMPOSED = {"INVALID_REQUEST", "PAGE_TOKEN_INVALID", "RESUME_TOKEN_INVALID"}


@pytest.fixture(scope="module")
def contracts() -> ContractSet:
    return build_contracts(compile_folder(PROTOS, source_info=True))


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return dict(documents(PROTOS))


@pytest.mark.parametrize("name", ["API.md", "openapi.json"])
def test_committed_documents_are_up_to_date(name: str, texts: dict[str, str]) -> None:
    """To bring them up to date: .venv/bin/penstock contract docs"""
    assert (PROTOS / name).read_text() == texts[name]


def test_reference_shows_every_call_with_a_request_that_the_method_takes(
    contracts: ContractSet, texts: dict[str, str]
) -> None:
    shown = {f"{service}/{method}": body for body, service, method in CALLS.findall(texts["API.md"])}
    methods = {f"{one.full_name}/{m.name}": m for one in documented_services(contracts) for m in one.methods}
    assert shown.keys() == methods.keys()
    for name, body in shown.items():
        json_format.Parse(body, message_factory.GetMessageClass(methods[name].input_type)())


def test_every_field_and_method_of_penstocks_own_protos_is_explained(texts: dict[str, str]) -> None:
    own = texts["API.md"].split("## penstock.ingest.v1.IngestService")[1].split("## Messages")[0]
    assert [line for line in own.splitlines() if line.endswith("|  |") and not line.startswith("|---")] == []
    reasons = texts["API.md"].split("## Error reasons")[1]
    assert len(re.findall(r"^\| `[A-Z_]+` \| [A-Z_]+ \| .+ \|$", reasons, re.MULTILINE)) > 40


def test_contract_without_comments_is_documented_too(tmp_path: Path) -> None:
    (tmp_path / "gauge.proto").write_text(
        'syntax = "proto3"; package lab.v1;\nimport "penstock/contract/v1/contract.proto";\n'
        'message Gauge { option (penstock.contract.v1.dataset) = { name: "gauges" key: "id"'
        " file_policy: FILE_POLICY_MERGE }; int64 id = 1; map<string, double> levels = 2; }\n"
        'service GaugeService { option (penstock.contract.v1.serves) = "lab.v1.Gauge";\n'
        "  rpc GetGauge(GetGaugeRequest) returns (Gauge); }\nmessage GetGaugeRequest { int64 id = 1; }\n"
    )
    assert main(["contract", "docs", str(tmp_path), "--out", str(tmp_path / "docs")]) == 0
    text = (tmp_path / "docs/API.md").read_text()
    assert "| `levels` | map of string to double |" in text
    assert """-d '{"id": 1}' $PENSTOCK_QUERY_ADDRESS lab.v1.GaugeService/GetGauge""" in text
    assert "| `ROW_NOT_FOUND` | NOT_FOUND |" in text


def test_stale_documents_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "API.md").write_text("old")
    assert main(["contract", "docs", str(PROTOS), "--out", str(tmp_path), "--check"]) == 2
    assert "API.md, openapi.json out of date: run penstock contract docs" in capsys.readouterr().err


def test_error_reasons_are_those_of_the_code() -> None:
    """To mend: protos/penstock/rpc/v1/error_reason.proto, then make proto and penstock contract docs."""
    files = [file for name in ANSWERS for file in source_files(REPOSITORY / name)]
    outcomes = {
        "ConfigError",
        "Finished",
        "_finish",
        "_try_to_fail",
        "_try_to_finish",
        "_superseded",
        "SQL",
        "Refusal",
        "MergeResult",
    }
    found = {reason for reason, callee, _ in raised_in(files) if callee not in outcomes}
    found = (found | COMPOSED) - ONLY_LOADS
    named = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert sorted(found - named) == [], "say what they mean"
    assert sorted(named - found) == [], "nothing ends with these any more"


def test_openapi_has_a_path_a_call_and_no_loose_reference(contracts: ContractSet, texts: dict[str, str]) -> None:
    document = json.loads(texts["openapi.json"])
    calls = {f"/{one.full_name}/{method.name}" for one in documented_services(contracts) for method in one.methods}
    assert document["paths"].keys() == calls
    for reference in _references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_openapi_names_every_field_as_protojson_does(contracts: ContractSet, texts: dict[str, str]) -> None:
    schemas = json.loads(texts["openapi.json"])["components"]["schemas"]
    for message in reached_messages(documented_services(contracts)):
        written = json_format.MessageToDict(
            message_factory.GetMessageClass(message)(), always_print_fields_with_no_presence=True
        )
        assert written.keys() <= schemas[message.full_name]["properties"].keys()


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)

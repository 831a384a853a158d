"""Stubs for callers: importable with nothing of Penstock but what was generated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.cli.main import main
from shared.contract.compile import library_paths

CONTRACT = """
syntax = "proto3";
package t.v1;
import "google/type/date.proto";
import "penstock/contract/v1/contract.proto";
message Thing {
  option (penstock.contract.v1.dataset) = { name: "things" key: "id" file_policy: FILE_POLICY_MERGE };
  string id = 1;
  google.type.Date day = 2;
}
"""


@pytest.fixture
def contracts(tmp_path: Path) -> Path:
    folder = tmp_path / "contracts"
    vendored = folder / "google" / "type"
    vendored.mkdir(parents=True)
    shutil.copy(library_paths()[1] / "google" / "type" / "date.proto", vendored)
    (folder / "thing.proto").write_text(CONTRACT)
    return folder


def test_vendored_google_types_do_not_hide_protobuf_itself(contracts: Path, tmp_path: Path) -> None:
    output = tmp_path / "stubs"
    assert main(["contract", "stubs", str(contracts), "--out", str(output)]) == 0
    code = "import thing_pb2, thing_pb2_grpc; print(thing_pb2.Thing(id='a', day={'year': 2024}).day.year)"
    environ = {**os.environ, "PYTHONPATH": str(output)}
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert ran.stdout == "2024\n"


def test_a_folder_that_cannot_be_written_to_is_one_line(
    contracts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["contract", "stubs", str(contracts), "--out", str(blocked / "stubs")]) == 2
    assert capsys.readouterr().err == f"penstock: {blocked / 'stubs'}: cannot be written to (Not a directory)\n"

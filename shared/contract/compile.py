"""Compiles a folder of .proto files into a FileDescriptorSet that holds every import.

Runs protoc (from grpcio-tools) as a child process: in-process it prints to the terminal and keeps state between runs.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from shared.errors import ContractError

PROTOS = Path(__file__).resolve().parents[2] / "protos"
PROTOC_TIMEOUT_S = 60


def compile_folder(folder: Path, *, source_info: bool = False, also: Sequence[str] = ()) -> bytes:
    """The serialised FileDescriptorSet of all .proto files below `folder` and of `also`, each before its users.

    Imports of penstock/*, buf/validate/validate.proto, google/protobuf/* and google/type/* resolve by themselves.
    Raises ContractError with protoc's own lines (`file:line:column: reason`).
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "contracts.binpb"
        options = ["--include_imports", f"--descriptor_set_out={output}"]
        run_protoc(folder, [*options, "--include_source_info"] if source_info else options, also)
        return output.read_bytes()


def run_protoc(folder: Path, options: list[str], also: Sequence[str] = ()) -> None:
    """Runs protoc over all .proto files below `folder`, and over `also`, with Penstock's import paths."""
    files = list(dict.fromkeys([*proto_files(folder), *also]))
    with tempfile.TemporaryDirectory() as scratch:
        rules = Path(scratch) / "validate.binpb"
        rules.write_bytes(validation_rules())
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={rules}"]
        command += [f"-I{path}" for path in (folder, PROTOS, *library_paths())]
        result = subprocess.run(  # noqa: S603  fixed program, arguments are paths
            [*command, *options, *files], capture_output=True, text=True, timeout=PROTOC_TIMEOUT_S, check=False
        )
    if result.returncode != 0:
        lines = [line.removeprefix(f"{folder}/") for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if ": warning: " not in line]
        raise ContractError(errors or lines or ["protoc failed without a word"])


def proto_files(folder: Path) -> list[str]:
    """All .proto files below `folder`, relative to it, hidden folders left out; ContractError where there are none."""
    if not folder.is_dir():
        raise ContractError([f"{folder}: no such folder; point PENSTOCK_CONTRACTS at a folder of .proto files"])
    found = (path.relative_to(folder) for path in folder.rglob("*.proto"))
    files = sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))
    if not files:
        raise ContractError([f"{folder}: holds no .proto file"])
    return files


def library_paths() -> list[Path]:
    """Where google/protobuf/*.proto (grpcio-tools) and google/type/*.proto (googleapis-common-protos) lie."""
    well_known = Path(str(resources.files("grpc_tools") / "_proto"))
    return [well_known, Path(sysconfig.get_paths()["purelib"])]


def validation_rules() -> bytes:
    """A FileDescriptorSet of buf/validate/validate.proto and its imports, from the installed protovalidate package."""
    # The package carries the descriptor only; there is no .proto of it to point protoc at.
    module = import_module("protovalidate._gen.buf.validate.validate_pb")
    files: dict[str, bytes] = {}
    _collect(module.desc(), files)
    descriptors = descriptor_pb2.FileDescriptorSet()
    for content in files.values():
        descriptors.file.add().ParseFromString(content)
    return descriptors.SerializeToString()


def _collect(file: Any, files: dict[str, bytes]) -> None:
    proto = file.proto
    for dependency in file.dependencies:
        _collect(dependency, files)
    files.setdefault(proto.name, proto.to_binary())

"""Typed Python stubs of contracts: message modules, gRPC modules and their .pyi, importable as packages.

Run as a module it generates Penstock's own protos for the services themselves.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree

from shared.contract.compile import PROTOS, run_protoc

# What the generated code of a contract imports besides itself and the google packages.
IMPORTED = (
    "buf/validate/validate.proto",
    "penstock/contract/v1/contract.proto",
    "penstock/ingest/v1/ingest.proto",
    "penstock/query/v1/query.proto",
    "penstock/rpc/v1/error_reason.proto",
)


def generate_python(folder: Path, output: Path, also: Sequence[str] = IMPORTED) -> list[Path]:
    """Writes `*_pb2.py`, `*_pb2_grpc.py` and `.pyi` of every .proto below `folder`, and of `also`, into `output`.

    Returns the files written. Raises ContractError with protoc's own lines.
    """
    # protoc-gen-mypy and protoc-gen-mypy_grpc lie beside the interpreter, which need not be on PATH.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    output.mkdir(parents=True, exist_ok=True)
    kinds = ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")
    run_protoc(folder, [f"--{kind}={output}" for kind in kinds], also)
    for package in {path.parent for path in output.rglob("*_pb2.py")}:
        _make_package(package, output)
    return sorted(path for path in output.rglob("*_pb2*") if path.suffix in {".py", ".pyi"})


def _make_package(package: Path, root: Path) -> None:
    if package.relative_to(root).parts[:1] == ("google",):
        return  # a namespace that protobuf and googleapis share: an __init__.py here would hide google.protobuf
    while package != root:
        (package / "__init__.py").touch()
        package = package.parent


def generate_own(output: Path) -> None:
    """Writes the stubs of protos/penstock into `output`."""
    with tempfile.TemporaryDirectory() as scratch:
        copytree(PROTOS / "penstock", Path(scratch) / "penstock")
        generate_python(Path(scratch), output, also=())


if __name__ == "__main__":
    generate_own(Path(sys.argv[1]))

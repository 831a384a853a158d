"""`make check`: buf lint and format over protos/.

buf cannot resolve buf/validate and google/type offline, so it is given an image that protoc compiled.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from shared.contract.compile import PROTOS, compile_folder


def main() -> int:
    """buf's exit code; its findings go to the terminal."""
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "protos.binpb"
        image.write_bytes(compile_folder(PROTOS, source_info=True))
        packages = [f"--path={path.name}" for path in sorted(PROTOS.iterdir()) if any(path.rglob("*.proto"))]
        lint = subprocess.run([buf, "lint", image, "--config=buf.yaml", *packages], check=False)
    formatted = subprocess.run([buf, "format", "--diff", "--exit-code", "--path", PROTOS, PROTOS.parent], check=False)
    return lint.returncode or formatted.returncode


if __name__ == "__main__":
    sys.exit(main())

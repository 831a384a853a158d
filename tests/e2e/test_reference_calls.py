"""Every call that the API reference shows is understood by the services that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig

import pytest

from shared.contract.compile import PROTOS
from tests.e2e.running_stack import RunningStack

pytestmark = pytest.mark.xdist_group("e2e")

CALLS = re.findall(r"^    (grpcurl .*/(\w+))$", (PROTOS / "API.md").read_text(), re.MULTILINE)
# The rows and loads that examples name need not be there, and a watch has no end.
EXPECTED = {"NotFound", "FailedPrecondition", "DeadlineExceeded"}


@pytest.mark.parametrize("call", [call for call, _ in CALLS], ids=[name for _, name in CALLS])
def test_call_is_understood(stack: RunningStack, call: str) -> None:
    tls = "-max-time 3 -cacert $PENSTOCK_TLS_CA -cert $PENSTOCK_TLS_CERT -key $PENSTOCK_TLS_KEY"
    scripts = sysconfig.get_path("scripts")
    environment = {**stack.environment, "PATH": os.pathsep.join([scripts, os.environ["PATH"]])}
    # -d's quotes hold the JSON, the variables stay bare: as a shell takes the line of the reference.
    script = call.replace("$TLS", tls)
    result = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    code = re.search(r"Code: (\w+)", result.stderr)
    assert result.returncode == 0 or (code is not None and code[1] in EXPECTED), result.stderr

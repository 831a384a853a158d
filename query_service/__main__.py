"""`python -m query_service`: runs the query service with settings from the environment."""

from __future__ import annotations

import functools
import os
import sys

from query_service.app import serve
from shared.rpc.lifecycle import run

if __name__ == "__main__":
    sys.exit(run(functools.partial(serve, dict(os.environ))))

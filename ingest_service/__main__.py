"""`python -m ingest_service`: runs the ingest service with settings from the environment; `--check` checks them."""

from __future__ import annotations

import argparse
import functools
import os
import sys

from ingest_service.app import check, serve
from shared.rpc.lifecycle import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m ingest_service", description=__doc__, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="check settings, contracts and sources, and end")
    app = check if parser.parse_args().check else serve
    sys.exit(run(functools.partial(app, dict(os.environ))))

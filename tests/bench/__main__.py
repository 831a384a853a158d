"""`make bench`: one table of ratios to baselines, measured in one run on the real stack.

ROWS= sets the size (default 1,000,000), ONLY= chooses figures by name, comma between. Exit code 1 where a check failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import grpc

from shared.errors import PenstockError
from shared.local.environment import without_proxy
from tests.bench import behaviour, counts, crowd, formats, latency, loads, pages, small_files, streams
from tests.bench.frames import CheckFailed
from tests.bench.lab import Lab, open_lab
from tests.bench.machine import machine_line
from tests.bench.table import Figure, markdown

DEFAULT_ROWS = 1_000_000

# In this order the table need be filled anew only where a figure is about filling it.
FIGURES: Mapping[str, Callable[[Lab], Figure]] = {
    "memory_csv": behaviour.memory_csv,
    "memory_ndjson": behaviour.memory_ndjson_gzip,
    "memory_parquet": behaviour.memory_parquet,
    "memory_parquet_one_group": behaviour.memory_parquet_one_group,
    "event_loop": behaviour.event_loop,
    "first_load_in_order": loads.first_load_in_order,
    "first_load": loads.first_load,
    "stream": streams.stream_handwritten,
    "stream_copy": streams.stream_copy,
    "stream_masked": streams.stream_masked,
    "stream_partitioned": streams.stream_partitioned,
    "many_streams": crowd.many_streams,
    "list": pages.list_pages,
    "list_cached": pages.list_cached,
    "list_filtered": pages.list_filtered,
    "list_ordered": pages.list_ordered,
    "get": pages.get,
    "count": counts.count,
    "count_capped": counts.count_capped,
    "list_loading": latency.list_loading,
    "list_cached_loading": latency.list_cached_loading,
    "same_content": loads.same_content,
    "one_per_cent": loads.one_per_cent,
    "small_file": loads.small_file,
    "queryable": behaviour.queryable,
    "small_files": small_files.files_a_second,
    **formats.FIGURES,
}


def main(environ: Mapping[str, str] = os.environ) -> int:
    """0 when every figure was measured and every check held."""
    chosen = choose(environ.get("ONLY", ""))
    rows = int(environ.get("ROWS") or DEFAULT_ROWS)
    os.environ.update(without_proxy(environ))
    begin = time.monotonic()
    with open_lab(rows) as lab:
        machine = machine_line(lab.settings["PENSTOCK_DATABASE_URL"], rows)
        figures, failures = measure(lab, chosen)
        checks = lab.checks
    print(f"\n{machine}\n\n{markdown(figures)}\n")
    print("Each ratio is one of medians (of calls a second: of sums), of both in turn in this run, mTLS on both sides.")
    print(f"{checks} checks of counts and hashes held, {len(failures)} failed, {time.monotonic() - begin:.0f} s.")
    return 1 if failures else 0


def choose(only: str) -> Sequence[str]:
    """The names of the figures to measure; all of them where none is named."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        sys.exit(f"ONLY={only}: there is no {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    return [name for name in FIGURES if not names or name in names]


def measure(lab: Lab, names: Sequence[str]) -> tuple[Sequence[Figure], Sequence[str]]:
    """The figures, and the names of those that failed; one that fails does not keep the others from being measured."""
    figures, failures = [], []
    for name in names:
        begin = time.monotonic()
        try:
            figure = FIGURES[name](lab)
        except (CheckFailed, PenstockError, grpc.RpcError, subprocess.CalledProcessError, TimeoutError) as exc:
            failures.append(name)
            lab.loaded = lab.baseline_loaded = False
            say(f"{name}: FAILED: {exc}")
        else:
            figures.append(figure)
            say(f"{name}: {' '.join(cell for cell in figure.cells[1:4] if cell)} ({time.monotonic() - begin:.0f} s)")
    return figures, failures


def say(line: str) -> None:
    """Progress, apart from the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

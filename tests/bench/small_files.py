"""The figure of many small files: how many a second come from the queue into one dataset, against a loader by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench import files, handwritten_loader
from tests.bench.lab import Lab
from tests.bench.table import Figure, Target, rate, rate_ratio
from tests.bench.timing import alternate

FILES = int(os.environ.get("FILES") or 200)
ROWS = 50
DATASET = "spare_orders"
_TIMEOUT_S = 300.0
_POLL_S = 0.005
_REPOSITORY = Path(__file__).resolve().parents[2]


def files_a_second(lab: Lab) -> Figure:
    """From the first receive to the last commit; all files lie in S3 and their events in the queue before that."""
    wiring = lab.stack.emulator.wire("bench-by-hand")

    def ours() -> float:
        lab.forget(DATASET, new_epoch=False)
        with _standing_still(lab.ingest_pid):
            _put_all(lab.s3, lab.settings["PENSTOCK_BUCKET"])
        begin = time.perf_counter()
        _await_version(lab, FILES)
        elapsed_s = time.perf_counter() - begin
        lab.expect(_count(lab, f"data.{DATASET}"), FILES * ROWS, "rows of the small files")
        return elapsed_s

    def theirs() -> float:
        lab.psql.run(f"TRUNCATE {handwritten_loader.TABLE};")
        _put_all(lab.s3, wiring.bucket)
        elapsed_s = _by_hand(lab, wiring.queue_url)
        lab.expect(_count(lab, handwritten_loader.TABLE), FILES * ROWS, "rows of the small files, by hand")
        return elapsed_s

    times, baseline = alternate(ours, theirs)
    return Figure(
        name=f"{FILES} files of {ROWS} rows from queue to commit : a loader by hand, COPY + INSERT ON CONFLICT a file",
        ours=rate(FILES, times, "files/s"),
        baseline=rate(FILES, baseline, "files/s"),
        value=rate_ratio(times, baseline),
        target=Target(),
    )


def _put_all(s3: Any, bucket: str) -> None:
    for number in range(FILES):
        body = files.csv_bytes(range(number * ROWS, (number + 1) * ROWS))
        s3.put_object(Bucket=bucket, Key=f"{DATASET}/small-{number}.csv", Body=body)


@contextmanager
def _standing_still(pid: int) -> Iterator[None]:
    """The process does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _await_version(lab: Lab, version: int) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    statement = "SELECT version FROM penstock.datasets WHERE name = %s"
    while lab.database.execute(statement, [DATASET]).fetchone() != (version,):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{DATASET} was not at version {version} after {_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)


def _by_hand(lab: Lab, queue_url: str) -> float:
    run = subprocess.run(
        [sys.executable, "-m", handwritten_loader.__name__, str(FILES)],
        env={**os.environ, **lab.settings, handwritten_loader.QUEUE_URL: queue_url},
        cwd=_REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
    )
    return float(run.stdout)


def _count(lab: Lab, table: str) -> int:
    row = lab.database.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])

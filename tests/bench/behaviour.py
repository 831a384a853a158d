"""The figures of how the ingest service behaves: memory, event loop, and the time from upload to the first answer."""

from __future__ import annotations

import statistics
import time

import grpc

from shared.client.channel import ClientTls, open_channel
from shared.contract.model import MethodKind
from tests.bench import files
from tests.bench.files import RowsFile
from tests.bench.lab import Lab
from tests.bench.table import Figure, Target
from tests.bench.watching import forget_peak, health_checked, peak_mib

MEMORY_MIB = 512
PARQUET_GROUPS = 10
FILES = 50
FILE_BYTES = 1_000_000
_QUERYABLE_TIMEOUT_S = 60.0
_POLL_S = 0.002


def memory_csv(lab: Lab) -> Figure:
    """Peak resident memory while the CSV is loaded."""
    return _memory(lab, lab.base, "CSV")


def memory_ndjson_gzip(lab: Lab) -> Figure:
    """Peak resident memory while the same rows come as compressed NDJSON."""
    source = files.write_ndjson_gzip(lab.directory / "base.ndjson.gz", files.shuffled(lab.rows))
    figure = _memory(lab, source, "NDJSON.gz")
    source.path.unlink()
    return figure


def memory_parquet(lab: Lab) -> Figure:
    """Peak resident memory while the same rows come as Parquet."""
    return _memory_parquet(lab, PARQUET_GROUPS, f"Parquet in {PARQUET_GROUPS} row groups")


def memory_parquet_one_group(lab: Lab) -> Figure:
    """The same where one row group holds all rows."""
    return _memory_parquet(lab, 1, "Parquet in one row group")


def event_loop(lab: Lab) -> Figure:
    """The longest that a health check waits for the ingest service while it loads."""
    uri = lab.upload("base.csv", lab.base.path)
    lab.forget()
    lab.loaded = False
    tls = ClientTls.from_environment(lab.settings)
    with open_channel(lab.settings["PENSTOCK_INGEST_ADDRESS"], tls) as channel, health_checked(channel) as waits:
        lab.populate(uri)
    ordered = sorted(waits.seconds)
    longest_ms, p99_ms = ordered[-1] * 1000, ordered[int(len(ordered) * 0.99)] * 1000
    return Figure(
        name="longest answer of the ingest process's event loop to a health check while it loads",
        ours=f"{longest_ms:.0f} ms (p99 {p99_ms:.0f} ms of {len(ordered)})",
        value=longest_ms,
        target=Target(),
    )


def queryable(lab: Lab) -> Figure:
    """From the begin of an upload to the first Get that finds the file's last row, through S3 event and queue."""
    lab.need_orders()
    lab.loaded = False
    rows = FILE_BYTES // (len(files.csv_bytes([lab.rows])) - len(files.csv_bytes([])))
    times_ms = [_upload_to_answer(lab, number, rows) * 1000 for number in range(FILES)]
    p50, p99 = statistics.median(times_ms), max(times_ms)
    return Figure(
        name=f"upload to queryable, {FILES} files of 1 MB into the table of {lab.rows:,} rows, p50 / p99",
        ours=f"{p50:.0f} ms / {p99:.0f} ms",
        value=p50,
        target=Target(aim="150 ms / 1 s"),
    )


def _memory_parquet(lab: Lab, row_groups: int, kind: str) -> Figure:
    source = files.write_parquet(lab.directory / "base.parquet", lab.base, row_groups=row_groups)
    figure = _memory(lab, source, kind)
    source.path.unlink()
    return figure


def _memory(lab: Lab, source: RowsFile, kind: str) -> Figure:
    uri = lab.upload(source.path.name, source.path)
    lab.forget()
    lab.loaded = False
    forget_peak(lab.ingest_pid)
    lab.expect(lab.populate(uri).rows_inserted, lab.rows, f"rows of the {kind}")
    peak = peak_mib(lab.ingest_pid)
    return Figure(
        name=f"peak RSS of the ingest process, first load of {source.size_bytes / 1e6:.0f} MB of {kind}",
        ours=f"{peak:.0f} MiB",
        value=peak,
        target=Target(at_most=MEMORY_MIB, unit=" MiB"),
    )


def _upload_to_answer(lab: Lab, number: int, rows: int) -> float:
    first = 10**9 + number * rows  # rows that no other figure has made
    body = files.csv_bytes(range(first, first + rows))
    request = lab.method(MethodKind.GET).input_class(id=files.order_id(first + rows - 1)).SerializeToString()
    call = lab.raw_call(MethodKind.GET)
    begin = time.perf_counter()
    lab.s3.put_object(Bucket=lab.settings["PENSTOCK_BUCKET"], Key=f"orders/{number}.csv", Body=body)
    while time.perf_counter() - begin < _QUERYABLE_TIMEOUT_S:
        try:
            call(request, timeout=_QUERYABLE_TIMEOUT_S)
        except grpc.RpcError as exc:
            if not isinstance(exc, grpc.Call) or exc.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            time.sleep(_POLL_S)
        else:
            return time.perf_counter() - begin
    raise TimeoutError(f"orders/{number}.csv was not queryable after {_QUERYABLE_TIMEOUT_S:.0f} s")

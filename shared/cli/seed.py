"""`penstock seed [--undo]`: the sample data into a running stack through Populate, and back out through Unload."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
import grpc
from penstock.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from shared.client.channel import ClientTls, open_channel
from shared.contract.build import load_contracts
from shared.errors import ConfigError
from shared.local.environment import read_environment, without_proxy
from shared.local.samples import Sample, samples
from shared.local.stack import DEFAULT_DIRECTORY, ENV_FILE

INGEST_ADDRESS = "PENSTOCK_INGEST_ADDRESS"
# Under no dataset's prefix: the event of the upload must not load what Populate is asked to load.
PREFIX = "seed"
TIMEOUT_S = 600.0
GOOD_STATES = frozenset({ingest_pb2.LOAD_STATE_SUCCEEDED, ingest_pb2.LOAD_STATE_ALREADY_APPLIED})


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `penstock seed`."""
    parser = subparsers.add_parser("seed", help="load the sample data through Populate, or take it back")
    parser.add_argument("--undo", action="store_true", help="take the sample data back through Unload")
    parser.add_argument("--dir", type=Path, help="the stack's folder (default: the environment, else .penstock)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """0 when every sample was loaded (or taken back), else 1."""
    os.environ.update(without_proxy(os.environ))
    settings = find_settings(arguments.dir, os.environ)
    chosen = served_samples(arguments.dir)
    with ingest_stub(settings) as stub, closing(s3_client(settings)) as s3:
        act = take_back if arguments.undo else load
        loads = [act(stub, s3, settings["PENSTOCK_BUCKET"], sample) for sample in chosen]
    for result in loads:
        print(describe(result))
    return 0 if all(result.state in GOOD_STATES for result in loads) else 1


def find_settings(directory: Path | None, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The settings of the stack in `directory`; of the environment where none is named; of the default folder last."""
    if directory is None and environ.get(INGEST_ADDRESS):
        return environ
    return read_environment((directory or DEFAULT_DIRECTORY) / ENV_FILE)


def served_samples(directory: Path | None) -> Sequence[Sample]:
    """The samples whose datasets the stack's contracts have."""
    descriptor_set = (directory or DEFAULT_DIRECTORY) / "contracts.binpb"
    datasets = load_contracts(descriptor_set if descriptor_set.is_file() else None).datasets
    chosen = [sample for sample in samples() if sample.dataset in datasets]
    if not chosen:
        raise ConfigError("this stack's contracts have none of the sample datasets", reason="NO_SAMPLES")
    return chosen


@contextmanager
def ingest_stub(settings: Mapping[str, str]) -> Iterator[ingest_pb2_grpc.IngestServiceStub]:
    """A stub of the ingest service; failed calls become one line that names their status."""
    with open_channel(settings[INGEST_ADDRESS], ClientTls.from_environment(settings)) as channel:
        try:
            yield ingest_pb2_grpc.IngestServiceStub(channel)
        except grpc.RpcError as exc:
            call: Any = exc
            message = f"the ingest service answered {call.code().name}: {call.details()}"
            raise ConfigError(message, reason="CALL_FAILED") from exc


def s3_client(settings: Mapping[str, str]) -> Any:
    """An S3 client with the stack's settings, whatever this shell's own account is."""
    return boto3.client(
        "s3",
        endpoint_url=settings.get("AWS_ENDPOINT_URL"),
        region_name=settings.get("AWS_REGION"),
        aws_access_key_id=settings.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=settings.get("AWS_SECRET_ACCESS_KEY"),
    )


def load(stub: ingest_pb2_grpc.IngestServiceStub, s3: Any, bucket: str, sample: Sample) -> ingest_pb2.Load:
    """Uploads the sample and has it loaded; the load in its final state."""
    key = f"{PREFIX}/{sample.file_name}"
    s3.put_object(Bucket=bucket, Key=key, Body=sample.data)
    request = ingest_pb2.PopulateRequest(uri=f"s3://{bucket}/{key}", dataset=sample.dataset)
    loads: list[ingest_pb2.Load] = []
    for response in stub.Populate(request, timeout=TIMEOUT_S):
        if response.HasField("progress"):
            show_progress(sample.dataset, response.progress)
        loads.extend(response.loads)
    if len(loads) != 1:
        raise ConfigError(f"Populate of {request.uri} ended with {len(loads)} loads, not 1", reason="NO_RESULT")
    return loads[0]


def take_back(stub: ingest_pb2_grpc.IngestServiceStub, s3: Any, bucket: str, sample: Sample) -> ingest_pb2.Load:
    """Has the rows of the sample's object taken back, and removes the object."""
    key = f"{PREFIX}/{sample.file_name}"
    request = ingest_pb2.UnloadRequest(uri=f"s3://{bucket}/{key}", dataset=sample.dataset)
    response = stub.Unload(request, timeout=TIMEOUT_S)
    s3.delete_object(Bucket=bucket, Key=key)
    return response.load


def show_progress(dataset: str, progress: ingest_pb2.LoadProgress) -> None:
    """One line on standard error that a terminal overwrites; nothing where it is not a terminal."""
    if sys.stderr.isatty():
        phase = ingest_pb2.LoadPhase.Name(progress.phase).removeprefix("LOAD_PHASE_").lower()
        share = f"{progress.bytes_read / progress.bytes_total:.0%}" if progress.bytes_total else ""
        print(f"\r\x1b[K{dataset}: {phase} {share} {progress.rows_read} rows\r", end="", file=sys.stderr, flush=True)


def describe(result: ingest_pb2.Load) -> str:
    """A load in one line."""
    state = ingest_pb2.LoadState.Name(result.state).removeprefix("LOAD_STATE_")
    counts = {
        "read": result.rows_read,
        "inserted": result.rows_inserted,
        "updated": result.rows_updated,
        "unchanged": result.rows_unchanged,
        "deleted": result.rows_deleted,
        "rejected": result.rows_rejected,
    }
    rows = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no rows"
    why = f" ({result.reason}: {result.message})" if result.reason else ""
    return f"{result.dataset}: {state}, {rows}, dataset version {result.dataset_version}{why}"

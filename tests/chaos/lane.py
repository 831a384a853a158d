"""Runs sequences of the state machine, one after the other, on one site with a Postgres of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from ingest_service.ledger import loads
from ingest_service.load import LoadLimits
from shared.contract.model import ContractSet
from shared.local.service import LocalService
from shared.postgres import roles
from tests.chaos import verdict
from tests.chaos.buckets import Buckets, open_buckets
from tests.chaos.site import VISIBILITY_TIMEOUT_S, Site, kill
from tests.chaos.steps import (
    Delete,
    DeleteVersion,
    Deliver,
    Freeze,
    Put,
    Repeat,
    RestartDatabase,
    Script,
    Settle,
    Step,
    Stop,
)
from tests.e2e.running_stack import eventually

_PATIENCE_S = 120.0
_EVERYTHING = Deliver(shuffle=0, share=1.0)
# The processes of loads that gave a sign of life lately.
_RUNNING = """
SELECT split_part(owner, '/', 2) AS pid FROM penstock.loads
WHERE state = 'RUNNING' AND heartbeat_at > now() - make_interval(secs => %s)
"""


@dataclass(kw_only=True)
class Lane:
    """See above. `pods`: the ingest processes that share the queue; `frozen`: since when some of them stand still."""

    site: Site
    buckets: Buckets
    contracts: ContractSet
    settings: Mapping[str, str]
    pods: list[LocalService] = field(default_factory=list)
    frozen: dict[LocalService, float] = field(default_factory=dict)

    def run(self, script: Script) -> None:
        """Raises AssertionError where a table is not what it must be, or something does not come to its end."""
        self.buckets.begin(f"seed-{script.seed}")
        self._empty()
        for step in script.steps:
            self._staff(script.pods)
            self._do(step)

    def _do(self, step: Step) -> None:
        queue_url = self.site.wiring.queue_url
        match step:
            case Put():
                self.buckets.put(step)
            case Delete():
                self.buckets.delete(step)
            case DeleteVersion():
                self.buckets.delete_version(step)
            case Deliver():
                self.buckets.deliver(step, queue_url)
            case Repeat():
                self.buckets.repeat(step, queue_url)
            case Stop():
                self._stop(step)
            case Freeze():
                self._freeze(step)
            case RestartDatabase():
                self._restart_database(step)
            case Settle():
                self._settle()

    def _empty(self) -> None:
        """As if nothing had ever been loaded."""
        tables = ["penstock.objects", "penstock.loads", "penstock.rejects"]
        for dataset in self.contracts.datasets.values():
            tables += [f"data.{dataset.name}", f"data.{dataset.name}__deleted"]
            tables += [f"data.{dataset.name}__shadow"] if dataset.mirrors else []
        with self.site.connect() as connection:
            connection.execute(f"TRUNCATE {', '.join(tables)}".encode())
            connection.execute("UPDATE penstock.datasets SET version = 0, row_count = 0, snapshot_object = NULL")

    def _staff(self, count: int) -> None:
        while len(self.pods) > count:
            self.pods.pop().stop()
        while len(self.pods) < count:
            self.pods.append(self.site.launch("ingest_service", roles.INGEST, self.settings))

    def _stop(self, step: Stop) -> None:
        pod = self.pods.pop(step.pod % len(self.pods))
        time.sleep(step.after_s)  # the moment is what the sequence leaves to chance, here and below
        if step.drained and pod not in self.frozen:
            pod.stop()
        else:
            kill(pod)
            self.frozen.pop(pod, None)

    def _freeze(self, step: Freeze) -> None:
        pod = self.pods[step.pod % len(self.pods)]
        if pod not in self.frozen:
            pod.wait()
            time.sleep(step.after_s)
            os.kill(pod.process.pid, signal.SIGSTOP)
            self.frozen[pod] = time.monotonic()

    def _restart_database(self, step: RestartDatabase) -> None:
        self._await_pods()  # one that is only starting would not start without a database
        time.sleep(step.after_s)
        if step.killed:
            self.site.server.kill()
        else:
            self.site.server.stop()
        self.site.server.start()

    def _settle(self) -> None:
        self.buckets.deliver(_EVERYTHING, self.site.wiring.queue_url)
        self._await_pods()
        thawed = self._thaw()
        eventually(lambda: self._messages() == (0, 0), _PATIENCE_S, every_s=0.2)
        assert self._messages(dead=True) == (0, 0), "there is a dead letter"
        for pod in thawed:  # what it holds of messages that were given to others is over when it has ended
            self.pods.remove(pod)
            pod.stop()
        eventually(lambda: not self._is_working(), _PATIENCE_S)
        asyncio.run(_sweep(self.site.server.url(self.site.database)))
        verdict.check(self.site, self.buckets, self.contracts)

    def _await_pods(self) -> None:
        for pod in self.pods:
            if pod not in self.frozen:
                pod.wait()

    def _thaw(self) -> list[LocalService]:
        """Lets those that stand still go on, when their messages are the others' by now."""
        thawed = list(self.frozen)
        for pod in thawed:
            time.sleep(max(0.0, self.frozen.pop(pod) + VISIBILITY_TIMEOUT_S + 1 - time.monotonic()))
            os.kill(pod.process.pid, signal.SIGCONT)
        return thawed

    def _messages(self, *, dead: bool = False) -> tuple[int, int]:
        return self.site.counts(self.buckets.sqs, dead=dead)

    def _is_working(self) -> bool:
        """Whether a load runs. One that gives no more signs of life does not: its end was lost with the database."""
        running = self.site.ask(_RUNNING, 2 * LoadLimits().heartbeat_s)
        return bool({str(pod.process.pid) for pod in self.pods} & {row["pid"] for row in running})


async def _sweep(database_url: str) -> None:
    """Ends what killed processes have left, as the next one does after two minutes."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database_url, timeout=10)
    try:
        await loads.sweep_abandoned(connection, 0.0)
    finally:
        await connection.close(timeout=10)


@contextmanager
def open_lane(site: Site, contracts: ContractSet, directory: Path) -> Iterator[Lane]:
    """A lane whose processes feed every object of two new buckets into all datasets of `contracts`."""
    directory.mkdir(parents=True)
    with open_buckets(site.emulator) as buckets:
        sources = directory / "sources.yaml"
        routes = (
            f"  - {{dataset: {name}, bucket: {bucket}}}\n"
            for name in contracts.datasets
            for bucket in (buckets.versioned, buckets.plain)
        )
        sources.write_text("sources:\n" + "".join(routes))
        descriptors = directory / "contracts.binpb"
        descriptors.write_bytes(contracts.descriptors.SerializeToString())
        settings = {
            "PENSTOCK_CONTRACTS": str(descriptors),
            "PENSTOCK_SOURCES": str(sources),
            "AWS_ENDPOINT_URL_S3": site.emulator.endpoint_url,
            "AWS_ENDPOINT_URL_SQS": site.emulator.endpoint_url,
        }
        yield Lane(site=site, buckets=buckets, contracts=contracts, settings=settings)

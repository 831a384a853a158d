"""Bad input, and what it gets: one file of tests for each way in.

test_bad_values.py     values that a column cannot hold: types, ranges, NaN and infinity, too large to index
test_bad_rows.py       rows that cannot be read: ragged, quotes, encodings, NUL, JSON that is none, duplicate keys
test_bad_files.py      files that cannot be read, or only look so: headers, compression, extensions, empty ones
test_bad_objects.py    objects that are gone or forbidden, keys of every kind, queue messages that nobody can parse
test_bad_requests.py   requests to the query service: tokens, sizes, unknown fields
test_bad_callers.py    callers without a certificate, with another CA's, with an expired one
test_huge_input.py     (slow) 50 MB lines, decompression bombs, 100 MB requests, on a running stack, with its memory
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ingest_service.load import Loader
from ingest_service.objects import ObjectStore, ReadPolicy
from shared.contract.build import load_contracts
from shared.contract.model import ContractSet
from shared.local.postgres import EmbeddedPostgres
from shared.postgres import migrate
from shared.postgres.pool import open_pool
from tests.integration.bad_input.intake import Intake, contract_text
from tests.integration.consumer.conftest import FAST, access, bucket, config, emulator, queues, s3, sqs, until
from tests.integration.merge.lab import cloned
from tests.integration.query.conftest import lab, lab_template
from tests.integration.rpc.conftest import authority, client_files, dial, server_files

__all__ = ["access", "bucket", "config", "emulator", "queues", "s3", "sqs", "until"]
__all__ += ["authority", "client_files", "dial", "lab", "lab_template", "server_files"]


@pytest.fixture(scope="session")
def intake_template(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ContractSet]]:
    """The name of a migrated database, and its contracts."""
    folder = tmp_path_factory.mktemp("bad_input")
    protos = folder / "protos"
    protos.mkdir()
    (protos / "bad.proto").write_text(contract_text())
    contracts = load_contracts(protos)
    with cloned(postgres, "template0") as name:
        migrate.bring_up(postgres.url(name), protos, contracts, folder / "migrations")
        yield name, contracts


@pytest.fixture
async def intake(
    postgres: EmbeddedPostgres, intake_template: tuple[str, ContractSet], s3: Any, bucket: str
) -> AsyncIterator[Intake]:
    """A loader over a database of this test's own, with some rows in both datasets."""
    template, contracts = intake_template
    store = ObjectStore(s3, ReadPolicy(missing_retries_s=(0.01,), resume_backoff=FAST))
    role = {"role": "penstock_ingest"}
    with cloned(postgres, template) as name, ThreadPoolExecutor(2) as executor:
        async with open_pool(
            postgres.url(name), application_name="bad input", max_size=6, server_settings=role
        ) as pool:
            loader = Loader(pool=pool, store=store, executor=executor, owner="here")
            intake = Intake(
                contracts=contracts, s3=s3, bucket=bucket, pool=pool, store=store, executor=executor, loader=loader
            )
            await intake.fill()
            yield intake

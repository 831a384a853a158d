"""A migrated lab per test process, and a clone of it per test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from shared.local.postgres import EmbeddedPostgres
from tests.conftest import new_database
from tests.integration.query.lab import Client, Lab, migrated_lab, serving


@pytest.fixture(scope="session")
def lab_template(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with migrated_lab(postgres, tmp_path_factory.mktemp("query_lab")) as template:
        yield template


@pytest.fixture
def lab(postgres: EmbeddedPostgres, lab_template: Lab) -> Iterator[Lab]:
    with new_database(postgres, lab_template.database) as url:
        yield Lab(url=url, contracts=lab_template.contracts)


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[Client]:
    async with serving(lab) as running:
        yield running

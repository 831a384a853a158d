"""A migrated database per test, cloned from one template per test process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shared.contract.model import Dataset
from shared.local.postgres import EmbeddedPostgres
from tests.integration.merge.lab import MIRROR_CONTRACT, SNAPSHOT_CONTRACT, Lab, cloned, migrated_template


@contextmanager
def _fresh(postgres: EmbeddedPostgres, template: str, dataset: Dataset) -> Iterator[Lab]:
    with cloned(postgres, template) as name:
        yield Lab(url=postgres.url(name), dataset=dataset)


@pytest.fixture(scope="session")
def lab_template(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Dataset]]:
    """The template's name and its dataset."""
    with migrated_template(postgres, tmp_path_factory.mktemp("lab")) as template:
        yield template


@pytest.fixture
def lab(postgres: EmbeddedPostgres, lab_template: tuple[str, Dataset]) -> Iterator[Lab]:
    """A fresh, migrated, empty dataset."""
    with _fresh(postgres, *lab_template) as lab:
        yield lab


@pytest.fixture(scope="session")
def snapshot_template(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Dataset]]:
    """The same with FILE_POLICY_SNAPSHOT."""
    with migrated_template(postgres, tmp_path_factory.mktemp("snapshots"), SNAPSHOT_CONTRACT) as template:
        yield template


@pytest.fixture
def snapshots(postgres: EmbeddedPostgres, snapshot_template: tuple[str, Dataset]) -> Iterator[Lab]:
    """A fresh, migrated, empty SNAPSHOT dataset."""
    with _fresh(postgres, *snapshot_template) as lab:
        yield lab


@pytest.fixture(scope="session")
def mirror_template(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Dataset]]:
    """The same with FILE_POLICY_MIRROR."""
    with migrated_template(postgres, tmp_path_factory.mktemp("mirrors"), MIRROR_CONTRACT) as template:
        yield template


@pytest.fixture
def mirrors(postgres: EmbeddedPostgres, mirror_template: tuple[str, Dataset]) -> Iterator[Lab]:
    """A fresh, migrated, empty MIRROR dataset."""
    with _fresh(postgres, *mirror_template) as lab:
        yield lab

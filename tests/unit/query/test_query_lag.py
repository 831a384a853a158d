"""How long a replica has lacked a version: what counts is the oldest one missing, not that there always is one."""

from __future__ import annotations

from uuid import UUID

from query_service.replicas import Lag
from query_service.versions import Standing

OLD, NEW = UUID(int=1), UUID(int=2)


def at(version: int, epoch: UUID = OLD) -> Standing:
    return Standing(epoch=epoch, version=version)


def test_what_is_missing_is_missing_since_it_was_first_found() -> None:
    lag = Lag()
    assert lag.behind_s("a", at(1), at(1), 10.0) == 0
    assert lag.behind_s("a", at(1), at(2), 11.0) == 0
    assert lag.behind_s("a", at(1), at(9), 15.0) == 4
    assert lag.behind_s("a", at(9), at(9), 16.0) == 0


def test_always_being_a_little_behind_is_no_long_lag() -> None:
    lag = Lag()
    assert [lag.behind_s("a", at(n), at(n + 1), float(n)) for n in range(20)] == [0.0] * 20
    assert lag.behind_s("a", at(19), at(30), 25.0) == 6.0


def test_a_replica_that_is_ahead_of_what_was_heard_is_not_behind() -> None:
    assert Lag().behind_s("a", at(3), at(2), 1.0) == 0


def test_versions_of_another_epoch_are_missing_however_high() -> None:
    lag = Lag()
    lag.behind_s("a", at(100), at(1, NEW), 1.0)
    assert lag.behind_s("a", at(101), at(1, NEW), 3.0) == 2.0


def test_datasets_are_looked_at_one_by_one() -> None:
    lag = Lag()
    lag.behind_s("a", at(1), at(2), 1.0)
    lag.behind_s("b", at(1), at(2), 5.0)
    assert (lag.behind_s("a", at(1), at(2), 6.0), lag.behind_s("b", at(1), at(2), 6.0)) == (5.0, 1.0)

"""What one caller may ask: calls at once, calls a second, each refused with when to come back."""

from __future__ import annotations

import pytest

from shared.errors import ResourceExhausted
from shared.rpc.admission import Admission
from shared.settings import CallerLimits, EnvironReader, RpcSettings


class Clock:
    """Time that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refused(admission: Admission, caller: str) -> ResourceExhausted:
    with pytest.raises(ResourceExhausted) as caught:
        admission.enter(caller)
    return caught.value


def call(admission: Admission, caller: str, count: int = 1) -> None:
    for _ in range(count):
        admission.enter(caller)
        admission.leave(caller)


def test_a_caller_has_so_many_calls_at_once_and_others_have_theirs() -> None:
    admission = Admission(CallerLimits(calls=2), Clock())
    admission.enter("greedy")
    admission.enter("greedy")
    error = refused(admission, "greedy")
    assert (error.reason, error.metadata, error.retry_after_s) == ("TOO_MANY_CALLS", {"identity": "greedy"}, 1.0)
    admission.enter("modest")
    admission.leave("greedy")
    admission.enter("greedy")


def test_a_server_has_so_many_calls_at_once_whoever_calls() -> None:
    admission = Admission(CallerLimits(calls=2, per_second=1, burst=2), Clock(), most_calls=2)
    admission.enter("a")
    admission.enter("b")
    error = refused(admission, "c")
    assert (error.reason, error.metadata, error.retry_after_s) == ("TOO_MANY_CALLS", {}, 1.0)
    assert "2 calls are running here" in error.message
    admission.leave("a")
    admission.enter("c")  # and what was refused has cost it nothing
    admission.leave("c")
    admission.enter("c")


def test_the_rate_refills_with_time_and_says_when() -> None:
    clock = Clock()
    admission = Admission(CallerLimits(per_second=10, burst=3), clock)
    call(admission, "greedy", 3)
    error = refused(admission, "greedy")
    assert error.reason == "RATE_LIMITED"
    assert error.retry_after_s == pytest.approx(0.1)
    call(admission, "modest")
    clock.now += 0.1
    call(admission, "greedy")
    assert refused(admission, "greedy").retry_after_s == pytest.approx(0.1)
    clock.now += 3600
    call(admission, "greedy", 3)
    refused(admission, "greedy")


def test_a_refused_call_costs_no_token() -> None:
    clock = Clock()
    admission = Admission(CallerLimits(per_second=1), clock)
    call(admission, "a")
    for _ in range(100):
        refused(admission, "a")
    clock.now += 1.001
    call(admission, "a")


def test_without_limits_nobody_is_refused() -> None:
    call(Admission(CallerLimits(), Clock()), "a", 10_000)


def test_a_bounded_number_of_callers_is_remembered() -> None:
    admission = Admission(CallerLimits(calls=5, per_second=1), Clock(), most_callers=100)
    for number in range(1000):
        call(admission, f"caller {number}")
    assert len(admission) == 100


def test_half_of_the_rpcs_are_one_callers_most_where_callers_can_be_told_apart() -> None:
    tls = {f"PENSTOCK_TLS_{part}": "x" for part in ("CA", "CERT", "KEY")}
    assert RpcSettings.from_environ(tls).caller_limits == CallerLimits(calls=1000)
    own = {"PENSTOCK_MAX_CONCURRENT_RPCS": "10", "PENSTOCK_CALLER_RATE": "2.5", "PENSTOCK_CALLER_BURST": "7"}
    assert RpcSettings.from_environ(tls | own).caller_limits == CallerLimits(calls=5, per_second=2.5, burst=7)
    assert RpcSettings.from_environ({"PENSTOCK_TLS": "off"}).caller_limits == CallerLimits()


def test_a_rate_that_is_no_number_is_told() -> None:
    reader = EnvironReader({"PENSTOCK_TLS": "off", "PENSTOCK_CALLER_RATE": "nan"})
    RpcSettings.read(reader)
    assert reader.problems == [
        "PENSTOCK_CALLER_RATE='nan' does not work: set it to a number from 0 to 1e+06, or leave it out for 0.0"
    ]

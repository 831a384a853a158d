"""What a sequence of the state machine does: to the buckets, to their events, and to the processes. Pure.

A sequence follows from its seed alone. Which of the moments that it leaves to chance a fault meets does not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

# Two buckets with two keys each.
PLACES = 4
ROW_NUMBERS = 6
LABELS = ("x", "y")
# To start a process takes as long as a sequence does, so several in a row have the same number of them.
_SEEDS_A_STAFF = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """A put, an overwrite or a re-creation of the object at that place."""

    place: int
    labels: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """The object at that place is deleted, if it is there."""

    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteVersion:
    """In the versioned bucket: one of the object's versions or delete markers is deleted for good, the `back`-th from
    the newest on, modulo their number."""

    place: int
    back: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Of the events that wait, `share` come in the order of `shuffle`, each in `copies` messages; `together`: all in
    one message."""

    shuffle: int
    share: float
    copies: int = 1
    together: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """Up to `count` events that came before come again."""

    shuffle: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """After `after_s` a process is killed, or asked to end (`drained`); another one is started at once."""

    after_s: float
    pod: int
    drained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """After `after_s` a process stands still until its messages have gone to the other one."""

    after_s: float
    pod: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartDatabase:
    """After `after_s` the database server is stopped, or killed, and started again."""

    after_s: float
    killed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """Everything is delivered and done: the tables must equal the model."""


Step: TypeAlias = "Put | Delete | DeleteVersion | Deliver | Repeat | Stop | Freeze | RestartDatabase | Settle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One sequence, ending settled, and how many processes share the queue."""

    seed: int
    pods: int
    steps: Sequence[Step]

    def __str__(self) -> str:
        return "\n".join([f"seed {self.seed}, {self.pods} processes:", *(f"  {step}" for step in self.steps)])


def script(seed: int) -> Script:
    """The sequence of that seed: 6 to 16 steps, in about half of them faults."""
    chance = random.Random(seed)
    pods = 1 + seed // _SEEDS_A_STAFF % 2
    steps = [_ordinary(chance) for _ in range(chance.randint(6, 16))]
    for fault in _faults(chance, pods):
        steps.insert(chance.randint(2, len(steps)), fault)
    return Script(seed=seed, pods=pods, steps=[*steps, Settle()])


def _ordinary(chance: random.Random) -> Step:
    kinds = (_put, _delete, _delete_version, _deliver, _repeat, lambda _: Settle())
    return chance.choices(kinds, weights=(10, 4, 3, 8, 2, 1))[0](chance)


def _put(chance: random.Random) -> Step:
    numbers = chance.sample(range(ROW_NUMBERS), chance.randint(0, 4))
    return Put(place=chance.randrange(PLACES), labels={number: chance.choice(LABELS) for number in sorted(numbers)})


def _delete(chance: random.Random) -> Step:
    return Delete(place=chance.randrange(PLACES))


def _delete_version(chance: random.Random) -> Step:
    return DeleteVersion(place=chance.randrange(PLACES // 2), back=chance.choice((0, 0, 1, 2)))


def _deliver(chance: random.Random) -> Step:
    return Deliver(
        shuffle=chance.randrange(1000),
        share=chance.choice((0.3, 0.7, 1.0)),
        copies=chance.choices((1, 2, 3), weights=(6, 2, 1))[0],
        together=chance.random() < 0.15,
    )


def _repeat(chance: random.Random) -> Step:
    return Repeat(shuffle=chance.randrange(1000), count=chance.randint(1, 3))


def _faults(chance: random.Random, pods: int) -> list[Step]:
    faults: list[Step] = []
    if chance.random() < 0.4:
        faults += [_stop(chance) for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.15:
        faults.append(RestartDatabase(after_s=_moment_s(chance), killed=chance.random() < 0.5))
    if pods > 1 and chance.random() < 0.08:
        faults.append(Freeze(after_s=_moment_s(chance), pod=chance.randrange(pods)))
    return faults


def _stop(chance: random.Random) -> Step:
    return Stop(after_s=_moment_s(chance), pod=chance.randrange(2), drained=chance.random() < 0.2)


def _moment_s(chance: random.Random) -> float:
    """A load of these files takes some 30 ms, a message's three loads a tenth of a second."""
    return round(chance.choice((0.0, chance.uniform(0, 0.1), chance.uniform(0, 0.5))), 3)

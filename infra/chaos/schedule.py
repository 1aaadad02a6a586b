"""A random schedule of faults, which depends on its seed alone; pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal, TypeVar

Name = TypeVar("Name", bound=str)
Kind = Literal["kill", "term", "freeze", "join", "leave", "burst", "load"]

# How often each process is hit, relative to the others. Workers are numbered from 1 and share their weight.
WEIGHTS: dict[str, int] = {
    "stream-apps": 36,
    "producer": 14,
    "sink": 14,
    "kafka": 8,
    "database": 8,
    "api": 5,
    "registry": 5,
    "redis": 2,
}
# What happens to a process that is hit.
PROCESS_KINDS: dict[Kind, int] = {"kill": 45, "freeze": 40, "term": 15}
# What happens instead of hitting a process.
OTHER_KINDS: dict[Kind, int] = {"join": 8, "burst": 6, "load": 6}
OTHER_SHARE = 0.2
# Now and then all workers are frozen together under a burst of orders, so that a backlog piles up; amid it, soon after
# they continue, one of them is frozen for longer than its session, or killed.
PILE_UP_SHARE = 0.12
PILE_UP_SECONDS = (3.0, 9.0)
AMID_SECONDS = (0.05, 1.5)
AMID_FREEZE_SECONDS = (8.0, 25.0)

QUIET_SECONDS = 4.0
PAUSE_SECONDS_MEAN = 3.5
PAUSE_SECONDS_MIN = 0.3
# A process that has just been started again is left alone; else nothing would ever run.
RESTART_SECONDS = 5.0
FREEZE_SECONDS_MIN = 1.0
FREEZE_SECONDS_MAX = 60.0
# A shorter run freezes for less, so that something else happens, too.
FREEZE_SHARE_MAX = 0.3


@dataclass(frozen=True)
class Fault:
    """One fault: when it begins, seconds from the start; what is done to which process; how long it lasts."""

    at_s: float
    kind: Kind
    target: str
    seconds: float = 0.0

    @property
    def end_s(self) -> float:
        """When it is over, in seconds from the start."""
        return self.at_s + self.seconds

    def text(self) -> str:
        """Return it as a person reads it."""
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.target}{lasting}"


def schedule(seed: int, seconds: float, workers: int) -> list[Fault]:
    """Return the faults of a run in order; all are over before `seconds`. `workers` are those that run throughout."""
    chance = random.Random(f"{seed}:{seconds}:{workers}")
    faults: list[Fault] = []
    busy_until: dict[str, float] = {}
    now = QUIET_SECONDS
    while now < seconds - 1:
        is_pile_up = chance.random() < PILE_UP_SHARE
        begun = _pile_up(chance, now, workers) if is_pile_up else [_fault(chance, now, seconds, workers)]
        free = all(busy_until.get(fault.target, 0.0) <= now for fault in begun)
        for fault in begun if free and max(fault.end_s for fault in begun) < seconds else ():
            faults.append(fault)
            busy_until[fault.target] = fault.end_s + (1.0 if fault.seconds else RESTART_SECONDS)
            if fault.kind == "join":
                faults.append(Fault(fault.end_s, "leave", fault.target))
        now = round(now + max(PAUSE_SECONDS_MIN, chance.expovariate(1 / PAUSE_SECONDS_MEAN)), 2)
    return sorted(faults, key=lambda fault: fault.at_s)


def _pile_up(chance: random.Random, now: float, workers: int) -> list[Fault]:
    """Return a backlog of all workers, and what happens to one of them amid it."""
    lasting = round(chance.uniform(*PILE_UP_SECONDS), 2)
    frozen = [Fault(now, "freeze", _worker(number), lasting) for number in range(1, workers + 1)]
    amid = round(now + lasting + chance.uniform(*AMID_SECONDS), 2)
    victim = _worker(chance.randint(1, workers))
    long = round(chance.uniform(*AMID_FREEZE_SECONDS), 2)
    hit = Fault(amid, "freeze", victim, long) if chance.random() < 0.6 else Fault(amid, "kill", victim)
    return [*frozen, Fault(now, "burst", "source", lasting), hit]


def _fault(chance: random.Random, now: float, seconds: float, workers: int) -> Fault:
    """Return a fault that begins now."""
    left = seconds - now - 0.5
    if chance.random() < OTHER_SHARE:
        kind = _choice(chance, OTHER_KINDS)
        target = {"join": "joined-worker", "burst": "source", "load": "machine"}[kind]
        return Fault(now, kind, target, round(min(chance.uniform(3, 15), left), 2))
    target = _choice(chance, WEIGHTS)
    if target == "stream-apps":
        target = _worker(chance.randint(1, workers))
    kind = _choice(chance, PROCESS_KINDS)
    if kind != "freeze":
        return Fault(now, kind, target)
    longest = min(FREEZE_SECONDS_MAX, max(2.0, FREEZE_SHARE_MAX * seconds))
    drawn = math.exp(chance.uniform(math.log(FREEZE_SECONDS_MIN), math.log(longest)))
    return Fault(now, kind, target, round(min(drawn, left), 2))


def _worker(number: int) -> str:
    return "stream-apps" if number == 1 else f"stream-apps-{number}"


def _choice(chance: random.Random, weights: dict[Name, int]) -> Name:
    return chance.choices(list(weights), list(weights.values()))[0]

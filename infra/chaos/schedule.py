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

QUIET_SECONDS = 4.0
PAUSE_SECONDS_MEAN = 2.5
PAUSE_SECONDS_MIN = 0.3
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
        fault = _fault(chance, now, seconds, workers, busy_until)
        if fault is not None:
            faults.append(fault)
            busy_until[fault.target] = fault.end_s + 1
            if fault.kind == "join":
                faults.append(Fault(fault.end_s, "leave", fault.target))
        now += max(PAUSE_SECONDS_MIN, chance.expovariate(1 / PAUSE_SECONDS_MEAN))
    return sorted(faults, key=lambda fault: fault.at_s)


def _fault(
    chance: random.Random, now: float, seconds: float, workers: int, busy_until: dict[str, float]
) -> Fault | None:
    """Return a fault that begins now; None when what was chosen is still busy with another one."""
    if chance.random() < OTHER_SHARE:
        kind = _choice(chance, OTHER_KINDS)
        lasting = min(chance.uniform(3, 15), seconds - now - 0.5)
        target = {"join": "joined-worker", "burst": "source", "load": "machine"}[kind]
    else:
        target = _choice(chance, WEIGHTS)
        if target == "stream-apps":
            number = chance.randint(1, workers)
            target = target if number == 1 else f"{target}-{number}"
        kind = _choice(chance, PROCESS_KINDS)
        lasting = 0.0
        if kind == "freeze":
            longest = min(FREEZE_SECONDS_MAX, max(2.0, FREEZE_SHARE_MAX * seconds))
            drawn = math.exp(chance.uniform(math.log(FREEZE_SECONDS_MIN), math.log(longest)))
            lasting = min(drawn, seconds - now - 0.5)
    free = busy_until.get(target, 0.0) <= now
    return Fault(round(now, 2), kind, target, round(lasting, 2)) if free else None


def _choice(chance: random.Random, weights: dict[Name, int]) -> Name:
    return chance.choices(list(weights), list(weights.values()))[0]

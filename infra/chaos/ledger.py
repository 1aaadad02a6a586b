"""Checks that every gap on the ledger is explained by a fault of the schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from infra.chaos.findings import Findings
from infra.chaos.published import Gap
from infra.chaos.schedule import Fault
from marketdata.clock import SECOND_NS

# A gap is noticed some seconds after its cause, and begins at the last good value before it.
BEFORE_NS = 5 * SECOND_NS
AFTER_NS = 30 * SECOND_NS


class Happened(NamedTuple):
    """A fault as it was done: from when to when, UTC nanoseconds, and when the platform was whole again, if ever."""

    fault: Fault
    began: int
    ended: int
    recovered: int | None = None


def compare(gaps: Iterable[Gap], happened: Iterable[Happened], findings: Findings) -> None:
    """Compare; a gap overlaps the time of the fault that explains it."""
    faults = list(happened)
    entries = list(gaps)
    unexplained = 0
    for gap in entries:
        start = min(gap.ts_from or gap.detected, gap.detected)
        end = max(gap.ts_to or gap.detected, gap.detected)
        if not any(
            one.began - BEFORE_NS <= end and start <= max(one.ended, one.recovered or 0) + AFTER_NS for one in faults
        ):
            unexplained += 1
            findings.add("gap_unexplained", f"{gap.gap_id} ({gap.reason}) from {start} to {end}")
    findings.set(
        "gaps",
        all=len(entries),
        open=sum(gap.state == "open" for gap in entries),
        unexplained=unexplained,
    )

"""Does what a schedule says, each fault at its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from infra.chaos.ledger import Happened
from infra.chaos.platform import Platform, Report
from infra.chaos.record import Control
from infra.chaos.schedule import Fault
from marketdata.clock import SECOND_NS

BURST_FACTOR = 8

End = Callable[[], None]


class Performer:
    """Performs one schedule; `log` gets a line for each fault and its end, as does `report`."""

    def __init__(self, platform: Platform, control: Control, rate: float, log: TextIO, report: Report) -> None:
        self._platform = platform
        self._control = control
        self._rate = rate
        self._log = log
        self._report = report
        self._start = 0.0
        self._ends: list[tuple[float, Fault, End]] = []

    def perform(self, planned: list[Fault], seconds: float) -> list[Happened]:
        """Perform; return after `seconds` what was done, with its times. Nothing is frozen any more then."""
        self._start = time.monotonic()
        happened: list[Happened] = []
        for fault in planned:
            self._wait(fault.at_s)
            began = time.time_ns()
            end = self._begin(fault)
            if end is None:
                self._note(f"left out, it is not running: {fault.text()}")
                continue
            self._note(fault.text())
            if fault.kind in {"freeze", "burst"}:
                self._ends.append((fault.end_s, fault, end))
            happened.append(Happened(fault, began, began + int(fault.seconds * SECOND_NS)))
        self._wait(seconds)
        self._platform.release()
        self._note("no more faults")
        return happened

    def _wait(self, until_s: float) -> None:
        """Wait until a time from the start, ending on the way what is due."""
        while self._ends:
            self._ends.sort(key=lambda one: one[0])
            at_s, fault, end = self._ends[0]
            if at_s > until_s:
                break
            time.sleep(max(0.0, self._start + at_s - time.monotonic()))
            end()
            self._ends.pop(0)
            self._note(f"over: {fault.text()}")
        time.sleep(max(0.0, self._start + until_s - time.monotonic()))

    def _begin(self, fault: Fault) -> End | None:
        """Begin a fault; return what ends it, None when there is no such process now."""
        platform, done = self._platform, True
        match fault.kind:
            case "kill":
                done = platform.kill(fault.target)
            case "term":
                done = platform.term(fault.target)
            case "leave":
                done = platform.leave()
            case "join":
                platform.join()
            case "load":
                platform.burn(fault.seconds)
            case "freeze":
                identity = platform.freeze(fault.target)
                return (lambda: platform.resume(identity)) if identity else None
            case "burst":
                self._control.set_rate(self._rate * BURST_FACTOR)
                return lambda: self._control.set_rate(self._rate)
        return _nothing if done else None

    def _note(self, text: str) -> None:
        line = f"{time.time():.3f} +{time.monotonic() - self._start:7.2f} s  {text}"
        print(line, file=self._log, flush=True)
        self._report(line)


def _nothing() -> None:
    """Do nothing: this fault has no end of its own."""

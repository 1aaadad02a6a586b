"""One run: load, faults as scheduled, settling, and the comparison of everything with the exchange's record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from typing import Any, NamedTuple

import psycopg

from infra.chaos.compare import TOPICS, compare
from infra.chaos.derivatives import Derivatives
from infra.chaos.findings import Findings
from infra.chaos.ledger import Happened
from infra.chaos.perform import Performer
from infra.chaos.platform import JOINED, PRODUCTS, Platform, Report
from infra.chaos.published import Topics
from infra.chaos.record import Control
from infra.chaos.schedule import schedule
from infra.chaos.settle import Live, await_first_trades, settle
from infra.chaos.watch import Watch
from marketdata.clock import SECOND_NS
from marketdata.errors import TickstreamError

# These have no process that recovers.
_WITHOUT_RECOVERY = frozenset({"join", "leave", "burst", "load"})


class Options(NamedTuple):
    """What a run is asked for.

    `settle_s` is how long the platform may take to be whole after the last fault; `keep` keeps its data after a
    violation.
    """

    engine: str
    seed: int
    seconds: float
    workers: int
    rate: float
    port_base: int
    settle_s: float
    keep: bool


def run(options: Options, report: Report) -> dict[str, Any]:
    """Run and return the result: figures, violations by kind and `ok`.

    Raises StackError when the platform cannot be started, Unavailable when nothing is stored before any fault, and
    httpx.HTTPError when the exchange does not answer.
    """
    planned = schedule(options.seed, options.seconds, options.workers)
    findings = Findings()
    began = time.monotonic()
    wanted = options._asdict() | {"report": report}
    with (
        Platform(**{name: wanted[name] for name in ("engine", "workers", "rate", "seed", "port_base", "report")}) as up,
        closing(Control(up.ports["exchange_control"])) as control,
        closing(Topics(up.kafka())) as topics,
        (up.log_folder / "chaos.log").open("w") as log,
    ):
        await_first_trades(up)
        report(f"loaded; {len(planned)} faults in {options.seconds:.0f} s, see {log.name}")
        derivatives = Derivatives(up.kafka())
        with Watch(up, options.seed) as watch:
            live = Live(up, control, topics, watch, derivatives, findings, report)
            with derivatives:
                happened = Performer(up, control, options.rate, log, report).perform(planned, options.seconds)
            last_ns = max([one.ended for one in happened], default=time.time_ns())
            settled_s = settle(live, last_ns, options.settle_s)
        happened = [_recovered(one, watch) for one in happened]
        report(f"settled after {settled_s} s; comparing")
        try:
            topics.hold(TOPICS)
            settled_ns = time.time_ns()
            records = {symbol: control.fetch(symbol) for symbol in PRODUCTS}
            compare(live, records, happened, settled_ns, options.settle_s)
        except (TickstreamError, psycopg.Error) as error:
            # Bytes that are no record, a transaction that stays open, a server that does not return.
            findings.add("not_comparable", str(error))
        up.keeps_data = options.keep and bool(findings.violations)
    _note_faults(happened, findings)
    return {
        **{name: value for name, value in options._asdict().items() if name not in {"port_base", "keep"}},
        "ok": not findings.violations,
        "violations": dict(findings.violations),
        **findings.figures,
        "memory": {name: memory._asdict() for name, memory in watch.memory().items()},
        "settled_s": settled_s,
        "took_s": round(time.monotonic() - began, 1),
        "examples": findings.examples,
    }


def _recovered(one: Happened, watch: Watch) -> Happened:
    if one.fault.kind in _WITHOUT_RECOVERY or one.fault.target == JOINED:
        return one._replace(recovered=one.ended)
    after_s = watch.recovered_after(one.fault.target, one.ended)
    return one._replace(recovered=None if after_s is None else one.ended + int(after_s * SECOND_NS))


def _note_faults(happened: Iterable[Happened], findings: Findings) -> None:
    """Note what was done, and how long the platform took to be whole again.

    `slowest_s` counts from the end of the last fault before it was whole, `longest_outage_s` from the end of the first.
    """
    faults = list(happened)
    kinds: Counter[str] = Counter()
    slowest = longest = (0.0, "")
    for one in faults:
        kinds[f"{one.fault.kind} {one.fault.target}"] += 1
        whole = one.recovered
        if whole is None:
            findings.add("never_recovered", one.fault.text())
            continue
        last = max((other for other in faults if other.ended <= whole), key=lambda other: other.ended)
        slowest = max(slowest, (round((whole - last.ended) / SECOND_NS, 1), last.fault.text()))
        longest = max(longest, (round((whole - one.ended) / SECOND_NS, 1), one.fault.text()))
    findings.set("faults", all=len(faults), kinds=dict(sorted(kinds.items())))
    findings.set(
        "recovery", slowest_s=slowest[0], slowest=slowest[1], longest_outage_s=longest[0], longest_outage=longest[1]
    )

"""Waits, with a limit, until the platform is whole after the last fault; what is not in time is a violation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import psycopg

from infra.chaos.derivatives import Derivatives
from infra.chaos.findings import Findings
from infra.chaos.platform import PRODUCTS, Platform, Report
from infra.chaos.published import Topics, query
from infra.chaos.record import Control, same_levels
from infra.chaos.watch import Watch
from marketdata.clock import SECOND_NS
from marketdata.errors import TickstreamError, Unavailable
from marketdata.events import Trades
from marketdata.topics import TRADES

FIRST_TRADES_SECONDS_MAX = 180.0
LOOK_SECONDS = 0.25
READ_PAUSE_SECONDS = 2.0
DEPTH = 20


@dataclass(frozen=True)
class Live:
    """A running platform with all that looks at it."""

    platform: Platform
    control: Control
    topics: Topics
    watch: Watch
    derivatives: Derivatives
    findings: Findings
    report: Report


def await_first_trades(platform: Platform) -> None:
    """Return when trades of every product are stored, so that everything afterwards can be accounted for.

    Raises Unavailable when that takes too long.
    """

    def stored() -> bool:
        found = query(platform.endpoints.database_url, "SELECT count(DISTINCT symbol) FROM trades")
        return bool(found[0][0] == len(PRODUCTS))

    if not until(stored, FIRST_TRADES_SECONDS_MAX):
        raise Unavailable(f"trades of every product were not stored within {FIRST_TRADES_SECONDS_MAX:.0f} s")


def settle(live: Live, last_ns: int, limit_s: float) -> float:
    """Wait until all is whole again, at the end without orders; return the seconds that it took.

    `last_ns` is when the last fault ended. In this order: every process is ready; trades after the last fault are
    stored; once there are no more orders, heartbeats of every product come through the stream; and every book over REST
    is valid and the exchange's own.
    """
    began = time.monotonic()
    findings = live.findings

    def left_s() -> float:
        return max(1.0, limit_s - (time.monotonic() - began))

    if not until(lambda: not _unready(live.platform), left_s()):
        findings.add("not_ready", ", ".join(_unready(live.platform)))
    if not until(lambda: bool(live.watch.samples) and live.watch.samples[-1].stored_ns > last_ns, left_s()):
        findings.add("not_flowing", "trades after the last fault are not stored")
    live.control.set_rate(0)
    quiet_ns = time.time_ns() + SECOND_NS
    live.report(f"no more orders after {time.monotonic() - began:.1f} s; waiting for what is on its way")
    passed: set[str] = set()

    def through() -> bool:
        # Heartbeats go on: one that was received after the last order has everything before it.
        events = (record.event for record in live.topics.read(TRADES))
        passed.update(event.symbol for event in events if isinstance(event, Trades) and event.ts_recv > quiet_ns)
        return passed >= set(PRODUCTS)

    if not until(through, left_s(), READ_PAUSE_SECONDS):
        findings.add("not_through", f"md.trades has nothing new of {sorted(set(PRODUCTS) - passed)}")
    wrong: dict[str, str] = {}

    def restored() -> bool:
        wrong.clear()
        wrong.update(_wrong_books(live))
        return not wrong

    if not until(restored, left_s()):
        for symbol, why in wrong.items():
            findings.add("rest_book_not_restored", f"{symbol}: {why}")
    return round(time.monotonic() - began, 1)


def until(true: Callable[[], bool], limit_s: float, pause_s: float = LOOK_SECONDS) -> bool:
    """Return whether something came true within a time; what cannot be asked is not true yet."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if true():
                return True
        except (psycopg.Error, httpx.HTTPError, TickstreamError):
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)


def _unready(platform: Platform) -> list[str]:
    rows = platform.rows().values()
    return [f"{row.name} is {row.state} ({row.note})" for row in rows if row.state != "ready"]


def _wrong_books(live: Live) -> Iterator[tuple[str, str]]:
    """Yield each product whose book over REST is not valid, or not the exchange's own, which stands still."""
    url = f"http://127.0.0.1:{live.platform.ports['api']}/api/v1/market"
    with httpx.Client(timeout=5, trust_env=False) as http:
        for symbol in PRODUCTS:
            try:
                answer = http.get(f"{url}/{symbol}/orderbook", params={"depth": DEPTH})
                body = answer.json()
            except (httpx.HTTPError, ValueError) as error:
                yield symbol, f"no answer: {error!r}"
                continue
            if answer.status_code != httpx.codes.OK or not body["valid"]:
                yield symbol, f"{answer.status_code} {body.get('reason') or body.get('detail')}"
                continue
            right = live.control.book(symbol, DEPTH)
            shown = {side: [(price, size) for price, size in body["data"][side]] for side in ("bids", "asks")}
            if not all(same_levels(shown[side], right[side]) for side in right):
                yield symbol, f"another book than the exchange's at sequence {body['sequence']}"

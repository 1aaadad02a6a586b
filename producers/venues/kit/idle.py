"""The passage of time for products without events: until when nothing else was traded, and books stand. Pure.

A candle closes when event time has passed its end by the grace period. Trades and the venue's heartbeats move that
time. Where neither comes, the shell states that time passed, from what it knows of the connection:

1. A connection delivers in order. Once a frame (or the pong to our ping) is here, so is everything that the venue sent
   before it. The shell reports each to `Idle.came` before the feed takes the frame.
2. When a minute and the grace period are over by the venue's clock, `LiveFeed.time_passed` publishes an empty `Trades`
   event for each product whose own events have not shown that yet: at most one a minute and product. Its time is the
   end of the grace period, whenever the frame came, so that live, replay and `pipe` publish the same.
   On a live line, products whose last event is older than `CONFIRM_NS` get one sooner, and so do their books: readers
   regard a value as stale that nothing has confirmed for some seconds.
3. It is valid where the product's trades are. Where trades are missing or trading is halted it has that reason, and
   only moves the time.
4. The venue's clock is ours less the least lag of its times behind ours within the last two minutes. It is never ahead
   of ours.
5. In a recording, a silence longer than the venue ever keeps in health means that frames may be missing, because the
   recorder stopped. It vouches for nothing: trades are not valid from before it until after it. Where every frame of
   the connection is numbered, the feed itself detects what is missing. Where trades are numbered, the next one shows
   it; until then nothing is stated.
6. What shows later that something is missing takes back what was stated meanwhile: a frame whose own number is not the
   next one proves nothing of the time before it, and a skipped number of a trade means that trades may be missing since
   the last one. The loss is dated from there, so that final candles since are revised.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.feed import Output
from producers.venues.kit import books, trades
from producers.venues.kit.calls import Call
from producers.venues.kit.products import LATE_NS, Product
from producers.venues.kit.venue import LiveFeed, Venue

# Minutes that one frame closes at most; a longer silence in a recording means that frames may be missing.
MINUTES_MAX = 60

# On a live line, the last event of a product is confirmed when it is older than this, and at most this often: so twice
# this time is well below what makes a value stale for readers (10 s).
CONFIRM_NS = 3 * SECOND_NS

# After this long without an event of its own, the next one states nothing of the time before.
UNSTATED_NS = 2 * MINUTE_NS

# What shows after a silence that no trade is missing: every frame has a number, every trade has one, nothing.
Proof = Literal["frames", "trades", "none"]

_NEVER = 2**63


def proof_of(venue: Venue) -> Proof:
    """Return what shows after a silence that no trade of this venue is missing."""
    if venue.sequence == "connection":
        return "frames"
    return "trades" if venue.numbers_trades else "none"


class Idle:
    """The time of one line. `recorded`: a recording is played, in which frames may be missing during a silence.

    `skipped_ns` is the last silence in which frames may be missing, in nanoseconds; 0 until there is one.
    """

    __slots__ = (
        "_due", "_feed", "_lag", "_lag_before", "_proof", "_quiet_due", "_recorded", "_ts_venue", "skipped_ns", "ts",
    )  # fmt: skip

    def __init__(self, feed: LiveFeed, proof: Proof, *, recorded: bool) -> None:
        self._feed = feed
        self._proof = proof
        self._recorded = recorded
        self._lag = self._lag_before = _NEVER
        self._ts_venue: int | None = None
        self._due = 0  # by the venue's clock
        self._quiet_due = _NEVER  # by ours
        self.ts = 0
        self.skipped_ns = 0

    def opened(self, ts: int) -> None:
        """Begin with a new connection."""
        self.ts = ts
        self._lag = self._lag_before = _NEVER
        self._due = 0
        self._quiet_due = _NEVER if self._recorded else ts + CONFIRM_NS

    def came(self, ts: int) -> list[Output]:
        """Return what a frame or a pong that came at `ts` (our clock, UTC ns) shows; call it before the feed."""
        before = self.ts
        if ts <= before:
            return []
        self.ts = ts
        ts_venue = self._feed.ts_venue
        if ts_venue is not None and ts_venue != self._ts_venue:  # a time of the frame that came before
            self._ts_venue = ts_venue
            if before - ts_venue < self._lag:
                self._lag = max(0, before - ts_venue)
        silence_ns = self._feed.silence_ns
        if self._recorded and ts - before > (silence_ns or _NEVER):
            return self._after_silence(before)
        if ts >= self._due and (passed := self._passed()):
            return passed
        return self._confirm() if ts >= self._quiet_due else []

    def _confirm(self) -> list[Output]:
        """Confirm what is published of products without an event of their own."""
        self._quiet_due = self.ts + CONFIRM_NS
        now = self._venue_time(self.ts)
        return self._feed.time_passed(self.ts, now) if now else []

    def _venue_time(self, ts: int) -> int:
        lag = min(self._lag, self._lag_before)
        if lag != _NEVER:
            return ts - lag
        return ts if self._feed.ts_venue is None else 0

    def _passed(self) -> list[Output]:
        """State each minute that is over."""
        now = self._venue_time(self.ts)
        if now < self._due or not now:
            # The first frames may have shown no lag, or only old times.
            self._due = min(self._due, _last_due(now) + MINUTE_NS)
            return []
        due = _last_due(now)
        begin = self._due or due
        self._due = due + MINUTE_NS
        if self._lag != _NEVER:
            self._lag, self._lag_before = _NEVER, self._lag
        out: list[Output] = []
        if due - begin > MINUTES_MAX * MINUTE_NS:
            if self._recorded:
                return self._skip(now)
            begin = due - MINUTES_MAX * MINUTE_NS
        for ts_event in range(begin, due + 1, MINUTE_NS):
            out += self._feed.time_passed(self.ts, ts_event)
        return out

    def _after_silence(self, before: int) -> list[Output]:
        """Return what a frame shows after a silence in which frames may be missing."""
        if self._proof == "frames":
            return self._passed()
        self.skipped_ns = self.ts - before
        now = self._venue_time(self.ts)
        self._due = _last_due(now) + MINUTE_NS if now else 0
        return [] if self._proof == "trades" or not now else self._skip(now)

    def _skip(self, now: int) -> list[Output]:
        self.skipped_ns = max(self.skipped_ns, 1)
        return self._feed.time_passed(self.ts, now, skipped=True)


def _last_due(now: int) -> int:
    """Return the newest end of a grace period after a minute."""
    return now - (now - LATE_NS) % MINUTE_NS


def time_passed(
    call: Call, products: Iterable[Product], ts_event: int, *, skipped: bool, books_of: Iterable[Product] = ()
) -> list[Output]:  # fmt: skip
    """Return a feed's events of the time `ts_event` (the venue's clock, UTC ns) for products without newer ones.

    `skipped`: trades may be missing since each product's last good event. Between the minutes, only products whose last
    event is older than `CONFIRM_NS` get one, and the valid books of `books_of`.
    """
    is_minute = ts_event == _last_due(ts_event)
    quiet_since = ts_event if is_minute or skipped else ts_event - CONFIRM_NS
    for product in () if is_minute or skipped else books_of:
        if product.book_valid and (product.ts_book_whole or 0) < quiet_since:
            books.heartbeat(call, product, ts_event - LATE_NS)
    for product in products:
        whole = product.ts_trades_whole
        if whole is None and not product.trades_lost:
            continue
        newest = max(product.ts_trade or 0, product.ts_trades_vouched or 0)
        is_unstated = newest < ts_event - UNSTATED_NS and product.complete_from is None and not product.trades_lost
        if whole is not None and (skipped or is_unstated):
            call.out.append(trades.gap_at(call, product, whole))
        if newest < quiet_since:
            trades.pass_time(call, product, ts_event)
    return call.out

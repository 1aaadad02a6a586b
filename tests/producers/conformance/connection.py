"""Drives a feed against a venue's fake, second by second, as the shell does: no socket, no clock, no sleeping."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from marketdata.clock import SECOND_NS as SECOND
from marketdata.events import BookUpdate, Candle, Derivative, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Refused, Send
from producers.venues import find_venue
from producers.venues.kit.idle import Idle, proof_of
from producers.venues.kit.venue import Endpoint, LiveFeed
from tests.producers.conformance.fake_venue import Asked, FakeVenue, Fate, Mark
from tickstream.pipe import Pipeline

E = TypeVar("E", BookUpdate, Derivative, FeedStatus, Quote, Trades)
T0 = 1_786_309_200 * SECOND  # 2026-08-09T21:00:00Z, a whole minute
LAG = SECOND // 100  # of the venue's clock behind ours
MESSAGES_MAX = 10_000


class Connection:
    """One feed and its venue. `fates` says what becomes of (channel, product); all else is accepted.

    `early`: data come before the answer to the subscription. `out` has every output, `sent` every message of ours.
    """

    def __init__(
        self, venue: str, fake: FakeVenue, *, endpoint: Endpoint | None = None,
        fates: Mapping[tuple[str, str], Fate] | None = None, early: bool = False,
        products: tuple[str, ...] | None = None, market: str = "",
    ) -> None:  # fmt: skip
        self.fake, self.fates, self._early = fake, dict(fates or {}), early and not fake.answers_first
        found = find_venue(venue)
        make = found.make if endpoint is None else endpoint.make
        if market and found.make_of_market is not None:
            make = partial(found.make_of_market, market=market)
        self.feed: LiveFeed = make(line=f"{venue}/0", products=products or fake.names, token=fake.token)
        self.ts = T0
        self.out: list[Output] = []
        self.sent: list[bytes] = []
        self.subscribed: set[tuple[str, str]] = set()
        self.traded: Counter[str] = Counter()
        self._idle = Idle(self.feed, proof_of(found), recorded=False)
        self._symbols: dict[str, str] = {}
        self._due: deque[Callable[[int], list[bytes]]] = deque()

    def open(self) -> None:
        """Connect."""
        self._idle.opened(self.ts)
        self._due.append(self.fake.greeting)
        self._take(self.feed.opened(self.ts))
        self._deliver()

    def run(self, seconds: int, *, trade_at: int | None = None) -> None:
        """Let time pass; at one second everything that is subscribed trades."""
        for second in range(1, seconds + 1):
            self.ts += SECOND
            self._due.append(self.fake.alive)
            self._deliver()
            self._take(self._idle.came(self.ts))  # at the latest by the answer to the shell's ping
            for channel, name in sorted(self.subscribed):
                if channel == self.fake.trades and second == trade_at:
                    self._due.append(partial(self._trade, name))
            self._take(self.feed.ticked(self.ts))
            self._deliver()

    def relent(self) -> None:
        """Let the venue accept from now on what it refused."""
        refused, self.fates = self.fates, {}
        for channel, name in refused:
            frames = self.fake.accepted_later(name, self._venue_ts)
            if frames:
                self.subscribed.add((channel, name))
                self._due.append(lambda _, frames=frames: frames)  # type: ignore[misc]
        self._deliver()

    def mark(self, name: str, price: str, mark: Mark) -> None:
        """Let a product trade now, in the way of a mark."""
        self.traded[name] += 1
        frames = self.fake.marked(name, self.traded[name], self._venue_ts, price, mark)
        if self.fake.marks_by_rest:
            for body in frames:
                self._take(self.feed.fetched(Fetch("", "trades", name), body, self.ts))
            return
        self._due.append(lambda _: frames)
        self._deliver()

    def symbol(self, name: str) -> str:
        """Return our symbol of a product, or an empty text before it was announced."""
        return self._symbols.get(name, "")

    def statuses(self, kind: str, name: str) -> list[FeedStatus]:
        """Return what was stated about a product, or about all where the venue never announced it."""
        if not self.symbol(name):
            return [one for one in self.out if isinstance(one, FeedStatus) and one.kind == kind]
        return [one for one in self._of(FeedStatus, name) if one.kind == kind]

    def books(self, name: str) -> list[BookUpdate]:
        """Return every event of a product's book."""
        return self._of(BookUpdate, name)

    def trades(self, name: str) -> list[Trades]:
        """Return every event of a product's trades."""
        return self._of(Trades, name)

    def quotes(self, name: str) -> list[Quote]:
        """Return every quote of a product."""
        return self._of(Quote, name)

    def derivatives(self, name: str) -> list[Derivative]:
        """Return what was sent about a derivative."""
        return self._of(Derivative, name)

    def minutes(self, name: str) -> dict[int, Candle]:
        """Return the last revision of each closed minute of a product, by its number since the beginning."""
        pipeline = Pipeline()
        made = [event for trades in self.trades(name) for _, event in pipeline.push(trades)]
        return {(one.start - T0) // (60 * SECOND): one for one in made
                if isinstance(one, Candle) and one.interval == "1m" and one.state != "open"}  # fmt: skip

    def ends(self) -> list[Output]:
        """Return what asked for a new connection, or gave up."""
        return [one for one in self.out if isinstance(one, Reconnect | Refused)]

    @property
    def _venue_ts(self) -> int:
        return self.ts - LAG

    def _of(self, kind: type[E], name: str) -> list[E]:
        return [one for one in self.out if isinstance(one, kind) and one.symbol == self.symbol(name)]

    def _deliver(self) -> None:
        """Let the feed receive what the venue sends, in the order in which the venue sends it."""
        while self._due:
            for frame in self._due.popleft()(self._venue_ts):
                self._take(self._idle.came(self.ts))
                self._take(self.feed.received(frame, self.ts))

    def _trade(self, name: str, ts: int) -> list[bytes]:
        self.traded[name] += 1
        return self.fake.trade(name, self.traded[name], ts)

    def _take(self, out: list[Output]) -> None:
        self.out += out
        for output in out:
            if isinstance(output, Instrument):
                self._symbols[output.venue_symbol] = output.symbol
        for output in out:
            if isinstance(output, Send):
                self._answer(output.frame)
            elif isinstance(output, Fetch):
                body = self.fake.rest(output, self.traded[output.symbol], self._venue_ts)
                if body is not None:
                    self._take(self.feed.fetched(output, body, self.ts))

    def _fate(self, one: Asked) -> Fate:
        fate = self.fates.get((one.channel, one.name), "accepted")
        return fate if one.verb == "subscribe" else "accepted"

    def _answer(self, message: bytes) -> None:
        self.sent.append(message)
        assert len(self.sent) < MESSAGES_MAX, "the feed sends without an end"
        asked = self.fake.asked(message)
        begun = [one for one in self.fake.accepted(asked, self._fate) if one.verb == "subscribe"]
        self.subscribed -= {(one.channel, one.name) for one in asked if one.verb == "unsubscribe"}
        self.subscribed |= {(one.channel, one.name) for one in begun}
        data = [partial(self.fake.snapshot, one.name) for one in begun if one.channel == self.fake.book]
        answer = partial(self.fake.answer, message, self._fate)
        if self._early:
            data += [partial(self._trade, one.name) for one in begun if one.channel == self.fake.trades]
        self._due += [*data, answer] if self._early else [answer, *data]

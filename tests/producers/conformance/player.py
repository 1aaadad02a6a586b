"""Plays recorded lines through a feed and follows what it publishes, as a consumer does.

The undisturbed run is the truth about the books.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from marketdata.book import L2Book, Level
from marketdata.events import BookUpdate, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues import make_feed
from producers.venues.kit.venue import LiveFeed
from runtime.recordings import Recorded
from tests.producers.conformance.cases import SECOND, Case, recorded
from tickstream.pipe import answers

Sides = tuple[list[Level], list[Level]]  # bids and asks


class Player:
    """Plays lines through a feed and holds the rules that no output may break, whatever came before it."""

    def __init__(self, case: Case, watch: Callable[[str, Sides], None] | None = None) -> None:
        self.case = case
        self.watch = watch  # is called with each valid book
        self.feed: LiveFeed = make_feed(case.venue)
        self.out: list[Output] = []
        self.books: dict[str, L2Book] = {}
        self.valid: dict[str, bool] = {}
        self.announced: set[str] = set()
        self.trades: dict[str, set[str]] = {}
        self.repairs_due: set[str] = set()
        self._asked: list[Fetch] = []
        self._unasked: list[Recorded] = []

    def open(self, ts: int) -> list[Output]:
        """Open a connection."""
        return self.take(self.feed.opened(ts), ts)

    def play(self, line: Recorded) -> list[Output]:
        """Give the feed one line, with the REST answers that it asks for; return its outputs."""
        if line.t == "http":
            self._unasked.append(line)
            return self._answer(line.ts_recv)
        return self.take(self.feed.received(line.frame, line.ts_recv), line.ts_recv)

    def take(self, out: list[Output], ts: int) -> list[Output]:
        """Hold every output to the rules, and follow it as a consumer does."""
        self.out += out
        for output in out:
            self._hold(output)
        if any(isinstance(output, Send | Fetch | Reconnect) for output in out):
            self.repairs_due.clear()
        for output in out:
            if isinstance(output, FeedStatus) and output.kind == "unsubscribed":
                self.repairs_due.discard(output.symbol)  # it is requested again later, see test_subscriptions
        asked = [output for output in out if isinstance(output, Fetch)]
        self._asked += asked
        return out + self._answer(ts) if asked else out

    def _answer(self, ts: int) -> list[Output]:
        for request in self._asked:
            for line in self._unasked:
                if answers(request, line.conn or ""):
                    self._asked.remove(request)
                    self._unasked.remove(line)
                    return self.take(self.feed.fetched(request, line.frame, max(ts, line.ts_recv)), ts)
        return []

    def _hold(self, output: Output) -> None:
        if isinstance(output, Instrument):
            self.announced.add(output.symbol)
        elif isinstance(output, Trades | BookUpdate | Quote):
            assert output.symbol in self.announced, "a symbol without an Instrument"
        if isinstance(output, Trades):
            ids = [trade.trade_id for trade in output.trades if trade.action == "new"]
            sent = self.trades.setdefault(output.symbol, set())
            assert len(set(ids)) == len(ids), "a trade came twice"
            assert not sent.intersection(ids), "a trade came twice"
            sent.update(ids)
        if isinstance(output, BookUpdate):
            self._follow(output)

    def _follow(self, output: BookUpdate) -> None:
        symbol = output.symbol
        book = self.books.setdefault(symbol, L2Book())
        if output.kind == "snapshot":
            book.bids.replace(output.bid_prices, output.bid_sizes)
            book.asks.replace(output.ask_prices, output.ask_sizes)
        elif output.kind == "clear":
            assert not output.valid
            assert output.reason
            book.clear()
            self.repairs_due.add(symbol)
        else:
            assert self.valid.get(symbol), "a change or a heartbeat of a book that nobody may trust"
            book.bids.apply(output.bid_prices, output.bid_sizes)
            book.asks.apply(output.ask_prices, output.ask_sizes)
        self.valid[symbol] = output.kind != "clear"
        if self.watch is not None and output.kind in {"snapshot", "update"}:
            self.watch(symbol, self.levels(symbol))

    def levels(self, symbol: str) -> Sides:
        """Return the levels of a symbol's book as far as the venue proves them."""
        book = self.books[symbol]
        return book.bids.top(self.case.proven), book.asks.top(self.case.proven)


class Had(NamedTuple):
    """A book that a symbol had when the line at `place` had come."""

    place: int
    levels: Sides


@cache
def truth(case: Case) -> dict[str, list[Had]]:
    """Return every book that the venue had, by symbol, oldest first: what the undisturbed run shows."""
    shown: list[tuple[str, Sides]] = []
    player, lines = Player(case, lambda *book: shown.append(book)), recorded(case)
    player.open(lines[0].ts_recv)
    books: dict[str, list[Had]] = {}
    for place, line in enumerate(lines):
        player.play(line)
        for symbol, levels in shown:
            books.setdefault(symbol, []).append(Had(place, levels))
        shown.clear()
    return books


class Judge:
    """Holds each book that is shown to the truth.

    It is right when the venue had it by the last line that came, and no older than one shown before. It need not be
    the newest: often only the next frame can show that one is lost, and until then the book is what it was.
    """

    def __init__(self, case: Case) -> None:
        self.seen = 0
        self._books = truth(case)
        self._at: dict[str, int] = {}

    def __call__(self, symbol: str, levels: Sides) -> None:
        """Judge a book that was just shown."""
        books = self._books.get(symbol, [])
        for at in range(self._at.get(symbol, 0), len(books)):
            if books[at].place > self.seen:
                break
            if books[at].levels == levels:
                self._at[symbol] = at
                return
        raise AssertionError(f"a wrong book of {symbol} as valid")


def disturbed(case: Case, order: list[int], spoilt: dict[int, bytes] | None = None) -> Player:
    """Play the lines in this order, some spoilt; every book that is shown must be right."""
    judge = Judge(case)
    player, lines = Player(case, judge), recorded(case)
    player.open(lines[0].ts_recv)
    for place in order:
        line = lines[place]
        judge.seen = max(judge.seen, place)
        if spoilt and place in spoilt:
            player.take(player.feed.received(spoilt[place], line.ts_recv), line.ts_recv)
        else:
            player.play(line)
    player.take(player.feed.ticked(lines[-1].ts_recv + SECOND), lines[-1].ts_recv + SECOND)
    assert not player.repairs_due, "a book was cleared and nothing asked for a new one"
    return player

"""Plays recorded frames through a feed of ours, as a consumer that keeps books and reads the best bid and ask.

    python -m bench.feed_player measure|changing|withhold TASK

Where the feed follows its books itself to check them, those are read; a consumer in the same process needs no others.
"""

from __future__ import annotations

import sys

from bench.feed_task import LEVELS, Played, Task, Watch, serve
from marketdata.book import L2Book
from marketdata.events import BookUpdate, Instrument, Trades
from marketdata.feed import Feed, Fetch, Output
from producers.venues import make_feed
from producers.venues.kit.books import KeepsBooks
from runtime.recordings import answers

_BOOKS = frozenset({"snapshot", "update"})


class Consumer:
    """Reads what one feed says."""

    def __init__(self, feed: Feed, bodies: list[tuple[str, str]], played: Played, watch: Watch | None) -> None:
        self._feed = feed
        self._keeper = feed if isinstance(feed, KeepsBooks) else None
        self._bodies = bodies
        self._played = played
        self._watch = watch
        self._names: dict[str, str] = {}
        self._books: dict[str, tuple[L2Book, bool]] = {}  # whether it is the feed's own

    def take(self, place: int, ts: int, outputs: list[Output]) -> None:
        """Follow the books, read their best levels, and answer what the feed asks for at once."""
        self._played.events += len(outputs)
        for output in outputs:
            if isinstance(output, BookUpdate):
                if output.kind in _BOOKS:
                    self._book(place, output)
            elif isinstance(output, Trades):
                for trade in output.trades:
                    self._played.sides[trade.trade_id] = trade.side
            elif isinstance(output, Instrument):
                self._names[output.symbol] = output.venue_symbol
            elif isinstance(output, Fetch) and output.purpose == "snapshot":
                self._answer(place, ts, output)

    def _book(self, place: int, event: BookUpdate) -> None:
        symbol = event.symbol
        if event.kind == "snapshot":
            kept = self._keeper.kept_book(self._names[symbol]) if self._keeper is not None else None
            book, is_kept = self._books[symbol] = (kept, True) if kept is not None else (L2Book(), False)
            if not is_kept:
                book.bids.replace(event.bid_prices, event.bid_sizes)
                book.asks.replace(event.ask_prices, event.ask_sizes)
        else:
            book, is_kept = self._books[symbol]
            if not is_kept:
                book.bids.apply(event.bid_prices, event.bid_sizes)
                book.asks.apply(event.ask_prices, event.ask_sizes)
        bid, ask = book.best()
        self._played.books += 1
        self._played.one_sided += bid is None or ask is None
        if self._watch is not None:
            self._watch(place, symbol, (book.bids.top(LEVELS), book.asks.top(LEVELS)))

    def _answer(self, place: int, ts: int, request: Fetch) -> None:
        for at, (address, body) in enumerate(self._bodies):
            if answers(request.path, address):
                del self._bodies[at]
                self.take(place, ts, self._feed.fetched(request, body.encode(), ts))
                return


def play(task: Task, withheld: int | None, watch: Watch | None) -> Played:
    """Play the frames from a new start, one feed a connection."""
    played = Played()
    bodies = list(task.bodies)
    feeds: dict[str, tuple[Feed, Consumer]] = {}
    for place, (conn, ts, frame) in enumerate(frames_of(task)):
        known = feeds.get(conn)
        if known is None:
            feed: Feed = make_feed(task.venue, line=f"{task.venue}/{conn}")
            known = feeds[conn] = feed, Consumer(feed, bodies, played, watch)
            known[1].take(place, ts, feed.opened(ts))
        if place != withheld:
            known[1].take(place, ts, known[0].received(frame, ts))
    return played


_FRAMES: list[tuple[str, int, bytes]] = []


def frames_of(task: Task) -> list[tuple[str, int, bytes]]:
    """Return the frames as our connections give them: as bytes."""
    if not _FRAMES:
        _FRAMES.extend((conn, ts, frame.encode()) for conn, ts, frame in task.frames)
    return _FRAMES


if __name__ == "__main__":
    serve(play, sys.argv[1:])

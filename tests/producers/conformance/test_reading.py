"""A recording is read completely, and in the same way however it is played."""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal

import pytest

from marketdata.events import EVENTS, BookUpdate, Instrument, Quote, Trades
from marketdata.feed import Send
from producers.live.settings import ProducerSettings
from producers.venues import find_venue, make_feed
from producers.venues.kit.books import KeepsBooks
from runtime.recordings import Recorded
from tests.producers.conformance.cases import CASES, CODEC, EACH, SECOND, Case, recorded
from tests.producers.conformance.player import Player

# No trade of these recordings meets a book of the same connection.
NO_BOOK_BESIDE_TRADES = {"kraken", "bitfinex"}


@pytest.mark.parametrize("case", {case.venue: case for case in CASES}.values(), ids=lambda case: case.venue)
def test_side_of_a_trade_is_the_one_that_its_book_shows(case: Case) -> None:
    """An aggressor buys above the middle and sells below it; few books are so late that it looks the other way."""
    longer = case._replace(frames=2_500)
    player, lines = Player(longer), recorded(longer)
    player.open(lines[0].ts_recv)
    shown: Counter[bool] = Counter()
    for line in lines:
        books = {symbol: (book.bids.top(1), book.asks.top(1)) for symbol, book in player.books.items()}
        for event in player.play(line):
            if not isinstance(event, Trades) or not all(books.get(event.symbol, [()])):
                continue
            bids, asks = books[event.symbol]
            middle = (Decimal(bids[0][0]) + Decimal(asks[0][0])) / 2
            # Older ones are those of before the connection, which it begins with.
            for trade in event.trades if event.ts_recv - event.ts_event < 2 * SECOND else ():
                shown[(Decimal(trade.price) > middle) == (trade.side == "buy")] += Decimal(trade.price) != middle
    assert (case.venue in NO_BOOK_BESIDE_TRADES) == (not shown.total())
    assert shown[True] > 5 * shown[False] or not shown.total()


@EACH
def test_recorded_frames_are_read_without_a_loss(case: Case) -> None:
    """No gap, no dead letter, no wrong checksum; every event survives Avro; there is something to test with."""
    lines = recorded(case)
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines:
        player.play(line)
    counts = player.feed.counts
    assert [counts[name] for name in ("gaps", "dead_letters", "checksums_wrong", "duplicates")] == [0] * 4
    assert counts["book_updates"] > 10
    for event in player.out:
        if isinstance(event, EVENTS):
            assert CODEC.decode(CODEC.encode(event)) == event


@EACH
def test_same_bytes_give_the_same_events(case: Case) -> None:
    """The feed reads no clock and no chance."""
    runs = []
    for _ in range(2):
        player = Player(case)
        player.open(recorded(case)[0].ts_recv)
        for line in recorded(case):
            player.play(line)
        runs.append(player.out)
    assert runs[0] == runs[1]


_SPACED = re.compile(r'("(?:[^"\\]|\\.)*")|([,:])')


@EACH
def test_spaces_within_a_frame_mean_nothing(case: Case) -> None:
    """Recorders that read and write JSON put them in; the events are the same."""
    published = []
    for space in ("", " "):
        player = Player(case)
        player.open(recorded(case)[0].ts_recv)
        for line in recorded(case)[:60]:
            spaced = _SPACED.sub(lambda found, space=space: found[1] or found[2] + space, line.data)  # type: ignore[misc]
            player.play(Recorded(line.t, line.ts_recv, line.conn, spaced))
        published.append(player.out)
    assert published[0] == published[1]


@EACH
def test_products_that_are_named_are_read_as_all_are(case: Case) -> None:
    """Named as the settings give them; the usual ones are names that the venue has."""
    venue, lines = find_venue(case.venue), recorded(case)
    everything, named = Player(case), Player(case)
    published = []
    for player in (everything, named):
        player.open(lines[0].ts_recv)
        for line in lines:
            player.play(line)
        # The products of REST come earlier where they are named, and each change of one comes with heartbeats.
        published.append([o for o in player.out if (isinstance(o, BookUpdate) and o.kind != "heartbeat")
                     or isinstance(o, Quote) or (isinstance(o, Trades) and o.trades)])  # fmt: skip
        names = dict.fromkeys(o.venue_symbol for o in player.out if isinstance(o, Instrument))
        settings = ProducerSettings(products=tuple(names))
        make = venue.make_recorded or venue.make
        named.feed = make(line=f"{case.venue}/0", products=settings.products_of(venue), token=None)
    assert published[0] == published[1]
    usual = make_feed(case.venue, products=ProducerSettings().products_of(venue))
    asked = b"".join(output.frame for output in usual.opened(0) if isinstance(output, Send)).decode()
    assert all(name in asked or name.lower() in asked for name in venue.products)


@EACH
def test_books_that_a_feed_keeps_are_those_that_consumers_follow(case: Case) -> None:
    """Who runs beside the feed may read them instead of following the changes once more."""
    lines, names = recorded(case), dict[str, str]()
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines:
        out = player.play(line)
        names |= {event.symbol: event.venue_symbol for event in out if isinstance(event, Instrument)}
        for event in out:
            if isinstance(event, BookUpdate) and event.valid and isinstance(player.feed, KeepsBooks):
                kept = player.feed.kept_book(names[event.symbol])
                followed = player.books[event.symbol]
                assert kept is None or (kept.bids.top(), kept.asks.top()) == (followed.bids.top(), followed.asks.top())

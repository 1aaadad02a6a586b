"""Nothing vouches for a channel that its venue has not acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from marketdata.events import BookUpdate, FeedStatus, Instrument, Trades
from producers.live.settings import ProducerSettings
from producers.venues import find_venue, make_feed
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from runtime.recordings import Recorded
from tests.producers.conformance.cases import CASES, SECOND, Case, recorded
from tests.producers.conformance.player import Player

SUBSCRIBING = [
    case for case in CASES if isinstance(make_feed(case.venue, products=find_venue(case.venue).products), VenueFeed)
]


def with_names(case: Case) -> tuple[VenueFeed, tuple[str, ...]]:
    """Return a feed that subscribes the products of a recording, and their names."""
    venue, lines = find_venue(case.venue), recorded(case)
    everything = Player(case)
    everything.open(lines[0].ts_recv)
    for line in lines:
        everything.play(line)
    seen = {o.venue_symbol: o.kind for o in everything.out if isinstance(o, Instrument)}
    names = ProducerSettings(products=tuple(seen)).products_of(venue) or ()
    make = venue.make_recorded or venue.make
    if venue.make_of_market is not None:
        make = partial(venue.make_of_market, market="spot" if "spot" in seen.values() else "linear")
    feed = make(line=f"{case.venue}/0", products=names, token=None)
    assert isinstance(feed, VenueFeed), "a venue's feed derives from VenueFeed"
    return feed, names


def without(case: Case, carrier: int) -> Iterator[Recorded]:
    """Yield the frames that bring nothing of a channel: neither its data nor an answer about its subscription.

    `carrier` is 0 for books, 1 for trades. Where one channel carries both, nothing of either is left.
    """
    feed, _ = with_names(case)
    feed.opened(recorded(case)[0].ts_recv)
    data = (BookUpdate, Trades)[carrier]
    for line in recorded(case):
        if line.t != "recv" or "subscri" in line.data:
            continue
        before = list(feed._subscriptions), feed.counts["subscriptions"]
        out = feed.received(line.frame, line.ts_recv)
        brings = any(isinstance(o, data) and (o.kind != "heartbeat" if isinstance(o, BookUpdate) else o.trades)
                     for o in out)  # fmt: skip
        if not brings and (list(feed._subscriptions), feed.counts["subscriptions"]) == before:
            yield line


@pytest.mark.parametrize("case", SUBSCRIBING, ids=lambda case: case.venue)
@pytest.mark.parametrize("carrier", [0, 1], ids=["books", "trades"])
@pytest.mark.parametrize("answer", ["refused", "none"])
def test_nothing_vouches_for_a_channel_that_is_not_acknowledged(case: Case, carrier: int, answer: str) -> None:
    """Refused or never answered, while all else goes on: no valid book, no minute that says "no trades", a status."""
    feed, names = with_names(case)
    lines = recorded(case)
    channel = feed._carriers[carrier]
    out = feed.opened(lines[0].ts_recv)
    if answer == "refused":
        for name in names:
            feed._refused(Call(feed._line, lines[0].ts_recv, None), channel, name, detail="made here")
    ts = ts_tick = lines[0].ts_recv
    for line in without(case, carrier):
        ts = line.ts_recv
        out += feed.received(line.frame, ts)
        if ts - ts_tick >= SECOND:
            ts_tick = ts
            out += feed.ticked(ts)
    for second in range(1, 130):  # the connection stays alive, for longer than any deadline
        feed._liveness.ts_heard = ts + second * SECOND
        out += feed.ticked(ts + second * SECOND)
        out += feed.time_passed(ts + second * SECOND, ts + second * SECOND)
    if carrier == 0:
        assert not [o for o in out if isinstance(o, BookUpdate) and o.valid]
    else:
        assert not [o for o in out if isinstance(o, Trades) and o.valid and not o.trades]
    stated = {o.channel for o in out if isinstance(o, FeedStatus) and o.kind == "unsubscribed"}
    assert answer == "refused" or channel in stated or not feed.acknowledges

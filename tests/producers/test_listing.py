"""The products of a line: no more than there may be, and asked for again when a trade is off the tick."""

from __future__ import annotations

import json

import pytest

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import DeadLetter, FeedStatus, Instrument, Trades
from marketdata.feed import Fetch, Output
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.instruments import Listing
from producers.venues.kraken.names import describe
from producers.venues.okx.feed import OkxFeed
from stream_apps.operators.ingest_trades import IngestTrades

T0 = 1_800_000_000 * SECOND_NS
LIST = Fetch("api/v5/public/instruments?instType=SPOT", "products")


def test_names_without_end_cost_no_memory() -> None:
    """One too many is refused by name; those that are known go on."""
    call = Call(Line("kraken", "kraken/0"), 0, None)
    listing = Listing(None, describe, limit=2)
    for name in ("A/USD", "B/USD", "A/USD"):
        assert listing.find(call, name) is not None
    with pytest.raises(BadEvent, match="C/USD"):
        listing.find(call, "C/USD")
    assert listing.names() == ("A/USD", "B/USD")


class Line0:
    """One line of OKX, and behind it what takes its trades."""

    def __init__(self) -> None:
        self.feed = OkxFeed(line="okx/0", products=("BTC-USDT",))
        self.instruments: dict[str, Instrument] = {}
        self.trades = IngestTrades()
        self.state = self.trades.start("okx:BTC-USDT")
        self.number = 0
        self.changes: list[str] = []

    def list_tick(self, tick: str, at: int) -> None:
        """Give the venue's list of products."""
        listed = {"instId": "BTC-USDT", "tickSz": tick, "lotSz": "0.01", "minSz": "0.01", "state": "live"}
        self._take(self.feed.fetched(LIST, json.dumps({"data": [listed]}).encode(), T0 + at * SECOND_NS))

    def trade(self, price: str, at: int) -> list[str]:
        """Make a trade; return what came of it behind the feed: its price, or why it was refused."""
        self.number += 1
        ts = T0 + at * SECOND_NS
        trade = {"instId": "BTC-USDT", "tradeId": str(self.number), "px": price, "sz": "1", "side": "buy",
                 "ts": str(ts // 1_000_000), "count": "1"}  # fmt: skip
        frame = {"arg": {"channel": "trades", "instId": "BTC-USDT"}, "data": [trade]}
        return self._take(self.feed.received(json.dumps(frame).encode(), ts))

    def asks(self, at: int) -> bool:
        """Tell whether the feed asks for the list of products now."""
        self.feed.received(b"pong", T0 + at * SECOND_NS)
        return LIST in self.feed.ticked(T0 + at * SECOND_NS)

    def _take(self, told: list[Output]) -> list[str]:
        came: list[str] = []
        for event in told:
            if isinstance(event, Instrument):
                self.instruments[event.key] = event
            elif isinstance(event, FeedStatus) and event.kind == "venue_changed":
                self.changes.append(event.detail)
            elif isinstance(event, Trades):
                for passed in self.trades.step(self.state, event)[1]:
                    if isinstance(passed, Trades):
                        came += [trade.price for trade in passed.trades]
                    elif isinstance(passed, DeadLetter):
                        came.append(passed.reason)
        return came


def test_no_trade_is_lost_because_the_venue_changed_its_tick() -> None:
    """Each trade off the tick is published and counted, and the venue is asked for the tick that holds now."""
    line = Line0()
    assert LIST in line.feed.opened(T0)
    line.list_tick("0.1", at=0)
    assert line.trade("100.1", at=1) == ["100.1"]
    assert line.trade("100.15", at=70) == ["100.15"]
    assert line.asks(at=71)
    assert not line.asks(at=72)
    assert line.trade("100.16", at=72) == ["100.16"]
    line.list_tick("0.05", at=73)
    assert line.trade("100.15", at=74) == ["100.15"]
    assert line.instruments["okx:BTC-USDT"].tick_size == "0.05"
    assert line.trade("100.151", at=75) == ["100.151"]
    assert line.feed.counts["off_tick"] == 3
    assert line.changes == ["tick_size: 0.1 before, 0.05 now"]


def test_products_are_asked_for_at_most_once_a_minute_and_every_ten_at_least() -> None:
    """A trade off the tick does not wait for the ten minutes."""
    line = Line0()
    line.feed.opened(T0)
    line.list_tick("0.1", at=0)
    line.trade("100.15", at=10)
    assert [at for at in range(10, 1_300, 10) if line.asks(at)] == [60, 660, 1_260]

"""The market's state: what may be trusted, what is merged, and that everything is bounded."""

from __future__ import annotations

from typing import Any

import pytest

from api.core.changes import BookChanged, CandleChanged, Change, TickerChanged, Traded
from api.core.market import ANOMALIES_MAX, CANDLES_MAX, Market
from api.core.symbol_state import STATUSES_MAX, TRADES_MAX, SymbolState
from api.core.ticker import AMENDMENTS_MAX
from api.core.trust import TRUSTED, Trust, fresh
from marketdata.book import L2Book
from marketdata.book_state import BooksState
from marketdata.events import Anomaly, BookUpdate, Candle, FeedStatus, Quote, Trade, Trades

TS = 1_786_309_548_228_568_123
WHO: dict[str, Any] = {"venue": "coinbase", "symbol": "BTC-USD"}
FROM = WHO | {"line": "coinbase/0"}


def update(
    kind: str, bids: dict[str, str] | None = None, asks: dict[str, str] | None = None, **more: Any
) -> BookUpdate:
    """Return a change of the book."""
    fields = {"ts_event": TS, "ts_recv": TS} | more
    return BookUpdate(
        **FROM, kind=kind, bid_prices=list(bids or {}), bid_sizes=list((bids or {}).values()),
        ask_prices=list(asks or {}), ask_sizes=list((asks or {}).values()), **fields,
    )  # fmt: skip


def quote(source: str, **fields: Any) -> Quote:
    """Return a quote."""
    return Quote(**FROM, **({"ts_event": TS, "ts_recv": TS} | fields), source=source)


def trades(number: int, price: str = "100", **more: Any) -> Trades:
    """Return one trade."""
    trade = Trade(trade_id=str(number), ts_event=TS + number, price=price, size="1", side="buy")
    return Trades(**FROM, ts_event=TS + number, ts_recv=TS + number, trades=(trade,), **more)


def state(market: Market) -> SymbolState:
    """Return the only symbol's state."""
    found = market.find("coinbase", "BTC-USD")
    assert found is not None
    return found


def kinds(changes: list[Change]) -> list[type]:
    """Return what kinds of change these are."""
    return [type(change) for change in changes]


SNAPSHOT = update("snapshot", {"100": "1", "99": "2"}, {"101": "1", "102": "2"})


def test_a_book_may_be_trusted_from_snapshot_to_clear() -> None:
    """Unknown, then valid, then invalid for the clear's reason, then valid again."""
    market = Market()
    assert market.apply(update("update", {"100": "1"})) == []
    assert market.ignored == {"delta_before_snapshot": 1}
    assert state(market).book.trust == Trust(False, "resyncing")
    market.apply(SNAPSHOT)
    assert state(market).book.trust == TRUSTED
    (change,) = market.apply(update("clear", valid=False, reason="gap"))
    assert isinstance(change, BookChanged)
    assert change.trust_changed
    assert state(market).book.trust == Trust(False, "gap")
    assert state(market).book.book.best() == (None, None)
    assert market.apply(update("update", {"100": "1"})) == []
    market.apply(SNAPSHOT)
    assert state(market).book.trust == TRUSTED


def test_a_heartbeat_between_clear_and_snapshot_does_not_make_a_book_valid() -> None:
    """The stream may be alive, but the book is still unknown."""
    market = Market()
    market.apply(SNAPSHOT)
    market.apply(update("clear", valid=False, reason="disconnected"))
    assert market.apply(update("heartbeat")) == []
    assert state(market).book.trust == Trust(False, "disconnected")


def test_a_halt_and_its_end_are_seen_in_the_book() -> None:
    """Halted is invalid though the levels are known; the resume makes the same levels valid."""
    market = Market()
    market.apply(SNAPSHOT)
    (change,) = market.apply(update("heartbeat", valid=False, reason="halted"))
    assert isinstance(change, BookChanged)
    assert state(market).book.trust == Trust(False, "halted")
    assert market.apply(update("heartbeat", valid=False, reason="halted")) == []
    market.apply(update("heartbeat"))
    assert state(market).book.trust == TRUSTED
    assert state(market).book.book.best() == (("100", "1"), ("101", "1"))


def test_a_crossed_book_is_invalid_and_a_locked_one_is_not() -> None:
    """Equal prices may be; a bid above the ask may not."""
    market = Market()
    market.apply(SNAPSHOT)
    market.apply(update("update", {"101": "1"}))
    assert state(market).book.trust == TRUSTED
    market.apply(update("update", {"101.5": "1"}))
    assert state(market).book.trust == Trust(False, "crossed")
    market.apply(update("update", {"101.5": "0"}))
    assert state(market).book.trust == TRUSTED


@pytest.mark.parametrize(
    ("reason", "updates", "follows"),
    [("", 7, TRUSTED), ("gap", 0, Trust(False, "gap")), ("halted", 7, TRUSTED)],
)
def test_a_checkpoint_is_the_state_of_its_stream(reason: str, updates: int, follows: Trust) -> None:
    """A restored book goes on as the one that was saved: after a clear it waits for a snapshot."""
    market = Market()
    levels = ["100"] if updates else []
    saved = BooksState(
        book=L2Book.unpack([levels, levels, [], []]), updates=updates, marked=reason, reason=reason,
        sequence=7, ts_event=TS, ts_recv=TS + 1, line="coinbase/0",
    )  # fmt: skip
    market.restore("coinbase", "BTC-USD", saved)
    book = state(market).book
    assert book.trust == Trust(not reason, reason)
    assert (book.sequence, book.ts_event, book.ts_recv, book.line) == (7, TS, TS + 1, "coinbase/0")
    market.apply(update("update", {"99": "1"}))
    assert state(market).book.trust == follows


def test_the_ticker_takes_prices_from_the_book_and_statistics_from_the_venue() -> None:
    """A generic ticker's bid and ask never replace those of the book."""
    market = Market()
    market.apply(SNAPSHOT)
    market.apply(
        quote("venue", bid="1", ask="2", last="100.5", volume_24h="7", high_24h="110", low_24h="90", change_24h="-1")
    )
    market.apply(quote("book", bid="100", bid_size="1", ask="101", ask_size="1"))
    ticker = state(market).ticker
    assert ticker is not None
    assert ticker.data == {
        "bid": "100", "bid_size": "1", "ask": "101", "ask_size": "1", "last": "100.5",
        "volume_24h": "7", "high_24h": "110", "low_24h": "90", "change_24h": "-1",
    }  # fmt: skip
    assert ticker.trust == TRUSTED


def test_the_last_price_is_the_latest_of_trades_and_venue() -> None:
    """Whichever is later by the venue's clock."""
    market = Market()
    market.apply(quote("venue", bid="1", ask="2", last="5", ts_event=TS + 2))
    market.apply(trades(1, "100"))
    assert state(market).ticker.data["last"] == "5"  # type: ignore[union-attr]
    changes = market.apply(trades(3, "101"))
    assert kinds(changes) == [Traded, TickerChanged]
    assert state(market).ticker.data["last"] == "101"  # type: ignore[union-attr]


def test_an_invalid_book_makes_the_ticker_invalid_at_once() -> None:
    """Before the quote that says so arrives on its own topic."""
    market = Market()
    market.apply(SNAPSHOT)
    market.apply(quote("book", bid="100", bid_size="1", ask="101", ask_size="1"))
    assert kinds(market.apply(update("clear", valid=False, reason="gap"))) == [BookChanged, TickerChanged]
    assert state(market).ticker.trust == Trust(False, "gap")  # type: ignore[union-attr]


def test_a_ticker_that_says_the_same_is_no_news() -> None:
    """A heartbeat of the ticker channel is not sent on."""
    market = Market()
    assert kinds(market.apply(quote("venue", bid="1", ask="2"))) == [TickerChanged]
    assert market.apply(quote("venue", bid="1", ask="2", ts_event=TS + 5)) == []


def test_statistics_come_from_candles_where_the_venue_sends_none() -> None:
    """Volume, high, low and change of the one-minute candles."""
    market = Market()
    market.apply(quote("venue", bid="1", ask="2"))
    market.apply(candle(0, open="10", high="12", low="9", close="11", volume="3"))
    market.apply(quote("venue", bid="1", ask="3"))
    data = state(market).ticker.data  # type: ignore[union-attr]
    assert (data["volume_24h"], data["high_24h"], data["low_24h"], data["change_24h"]) == ("3", "12", "9", "10")


def test_trust_ends_with_age_and_a_reason_is_never_hidden_by_it() -> None:
    """Older than the limit is stale; what is invalid for another reason keeps that one."""
    assert fresh(TRUSTED, TS, TS + 10, 10) == TRUSTED
    assert fresh(TRUSTED, TS, TS + 11, 10) == Trust(False, "stale")
    assert fresh(Trust(False, "gap"), TS, TS + 11, 10) == Trust(False, "gap")


def test_a_beating_book_keeps_its_ticker_fresh() -> None:
    """No change of the best prices is not the same as no data."""
    market = Market()
    market.apply(SNAPSHOT)
    market.apply(quote("book", bid="100", bid_size="1", ask="101", ask_size="1"))
    market.apply(update("heartbeat", ts_recv=TS + 99))
    assert state(market).ticker_ts_recv == TS + 99


def candle(minute: int, interval: str = "1m", **fields: Any) -> Candle:
    """Return the candle of a minute."""
    start = minute * 60_000_000_000
    return Candle(**WHO, interval=interval, start=start, end=start + 60_000_000_000, ts_event=TS, ts_recv=TS, **fields)


def test_a_book_whose_checkpoint_is_missing_is_known_and_not_trusted() -> None:
    """It waits for its next snapshot, also where nothing was known of the symbol before."""
    market = Market()
    market.invalidate("coinbase", "BTC-USD", "resyncing")
    assert state(market).book.trust == Trust(False, "resyncing")
    assert market.apply(update("update", {"100": "1"})) == []
    market.apply(SNAPSHOT)
    assert state(market).book.trust == TRUSTED
    market.invalidate("coinbase", "BTC-USD", "resyncing")
    assert state(market).book.book.pack() == [[], [], [], []]


def test_an_anomaly_is_kept_once_as_it_is_now() -> None:
    """Each of its events is a change with a number of its own."""
    market = Market()
    for one, phase in (("a", "start"), ("b", "start"), ("a", "peak"), ("a", "end")):
        market.apply(
            Anomaly(**WHO, ts_event=TS, ts_recv=TS, anomaly_id=one, kind="gap", severity="info", metric="m",
                    value="1", limit="0", evidence={}, phase=phase)
        )  # fmt: skip
    kept = state(market).anomalies
    assert [(name, each.number, each.anomaly.phase) for name, each in kept.items()] == [
        ("b", 2, "start"),
        ("a", 4, "end"),
    ]


def test_everything_is_bounded() -> None:
    """Ten times more of everything than is kept."""
    market = Market()
    for number in range(TRADES_MAX * 3):
        market.apply(trades(number))
    for number in range(CANDLES_MAX * 10):
        market.apply(candle(number))
    for number in range(ANOMALIES_MAX * 10):
        market.apply(
            Anomaly(**WHO, ts_event=TS, ts_recv=TS, anomaly_id=str(number), kind="gap", severity="info", metric="m",
                    value="1", limit="0", evidence={})
        )  # fmt: skip
        market.apply(FeedStatus(**FROM, ts_event=TS, ts_recv=TS, kind="connected"))
    found = state(market)
    assert (len(found.trades), len(found.anomalies), len(found.statuses)) == (TRADES_MAX, ANOMALIES_MAX, STATUSES_MAX)
    assert sorted(found.candles["1m"]) == [
        (minute * 60_000_000_000, -1) for minute in range(CANDLES_MAX * 9, CANDLES_MAX * 10)
    ]
    assert found.trades_floor == TS + TRADES_MAX * 2 - 1


def test_repaired_trades_are_history_and_no_news() -> None:
    """They are kept for REST, counted for no stream, and told to nobody."""
    market = Market()
    market.apply(trades(5))
    changes = market.apply(trades(3, origin="repair"))
    assert Traded not in kinds(changes)
    assert [each.trade.trade_id for each in state(market).trades] == ["5", "3"]
    assert state(market).trade_number == 1


def test_bars_by_recipe_are_kept_by_start_and_number() -> None:
    """Two of the same start are both kept, an unknown interval without a recipe is ignored, and names are learned."""
    market = Market()
    for number in (0, 1, 1):
        market.apply(candle(5, "tick:2", recipe="two", recipe_hash="x", number=number))
    assert sorted(state(market).candles["tick:2"]) == [(300_000_000_000, 0), (300_000_000_000, 1)]
    assert market.recipes == {"two": "tick:2"}
    assert market.apply(candle(5, "2m")) == []
    assert market.ignored == {"unknown_interval": 1}


def test_a_backfill_of_candles_is_no_news_but_its_corrections_are() -> None:
    """Years of candles push no live one out and wake no subscriber; one that is known is still corrected."""
    market = Market()
    market.apply(candle(10_000, close="4", valid=False, reason="gap"))
    assert market.apply(candle(1, origin="backfill", close="4")) == []
    assert kinds(market.apply(candle(10_000, origin="backfill", revision=1, close="5"))) == [CandleChanged]
    assert [kept.candle.close for kept in state(market).candles["1m"].values()] == ["5"]


def test_a_symbol_with_data_comes_before_one_that_is_only_listed() -> None:
    """A venue that lists a symbol without sending it makes no ambiguity."""
    market = Market()
    market.apply(SNAPSHOT)
    market.state("other", "BTC-USD")
    assert market.venues_of("BTC-USD") == ["coinbase"]
    assert market.venues_of("ETH-USD") == []


def amend(number: int, action: str, price: str = "1", identity: str = "", original: str = "") -> Trades:
    """Return the frame of a correction or a cancel of a trade."""
    trade = Trade(trade_id=identity or str(number), ts_event=TS + 10**9, price=price, size="1", side="unknown",
                  action=action, original_id=original)  # fmt: skip
    return Trades(**FROM, ts_event=TS + 10**9, ts_recv=TS + 10**9, trades=(trade,))


def last_price(market: Market) -> str | None:
    """Return the last price of the ticker."""
    ticker = state(market).ticker
    assert ticker is not None
    return ticker.data["last"]


def test_what_was_taken_back_is_the_last_trade_no_more() -> None:
    """A cancel brings back the one before, a correction its price; both tell the ticker's watchers so."""
    market = Market()
    market.apply(quote("venue", bid="1", ask="2"))
    for number, price in enumerate(["100", "101", "999"]):
        market.apply(trades(number, price))
    assert any(isinstance(change, TickerChanged) for change in market.apply(amend(2, "cancel")))
    assert last_price(market) == "101"
    market.apply(amend(1, "correct", "102", identity="c", original="1"))
    assert (last_price(market), state(market).last.ts_event) == ("102", TS + 1)  # type: ignore[union-attr]
    market.apply(amend(1, "correct", "103", identity="c"))  # which keeps its id
    assert last_price(market) == "103"
    market.apply(amend(0, "cancel"))
    assert last_price(market) == "103"
    market.apply(amend(1, "cancel", identity="c"))
    assert last_price(market) is None


def test_a_trade_that_was_taken_back_before_it_came_never_is_the_last() -> None:
    """Lines may bring them in either order; one that was corrected has the price of its correction."""
    market = Market()
    market.apply(quote("venue", bid="1", ask="2"))
    market.apply(trades(0, "100"))
    market.apply(amend(1, "cancel"))
    market.apply(trades(1, "999"))
    assert last_price(market) == "100"
    market.apply(amend(2, "correct", "104", identity="c", original="2"))
    market.apply(trades(2, "999"))
    assert last_price(market) == "104"


def test_amendments_are_bounded_and_may_go_in_circles() -> None:
    """However many there are, and whatever they amend."""
    market = Market()
    for number in range(AMENDMENTS_MAX + 10):
        market.apply(amend(number, "correct", identity=str(number + 1), original=str(number)))
    assert len(state(market).amendments) == AMENDMENTS_MAX
    for one, two in (("a", "b"), ("b", "a")):
        market.apply(amend(0, "correct", identity=two, original=one))
    circle = Trade(trade_id="a", ts_event=TS, price="1", size="1", side="buy")
    market.apply(Trades(**FROM, ts_event=TS, ts_recv=TS, trades=(circle,)))
    assert state(market).last is not None

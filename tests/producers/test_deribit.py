"""The Deribit feed: books by chained numbers, trades by their sequence, greeks and funding, refused channels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from marketdata.errors import BadEvent
from marketdata.events import BookUpdate, DeadLetter, Derivative, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Send
from producers.venues.deribit.feed import DeribitFeed
from producers.venues.deribit.names import describe

T0 = 1_790_000_000_000_000_000
MS = T0 // 1_000_000
SECOND = 1_000_000_000
NAME, OPTION = "BTC-PERPETUAL", "BTC-29MAR30-50000-C"


def notify(kind: str, data: Any, name: str = NAME) -> bytes:
    """Return a notification of a channel."""
    params = {"channel": f"{kind}.{name}.100ms", "data": data}
    return json.dumps({"jsonrpc": "2.0", "method": "subscription", "params": params}).encode()


def book(number: int, previous: int | None = None, bids: Any = (), asks: Any = ()) -> bytes:
    """Return a snapshot, or a change where there is a number before."""
    values = {"type": "snapshot" if previous is None else "change", "timestamp": MS + number, "instrument_name": NAME,
              "change_id": number, "bids": bids, "asks": asks}  # fmt: skip
    return notify("book", values if previous is None else values | {"prev_change_id": previous})


def trade(number: int, **more: Any) -> dict[str, Any]:
    """Return a trade as the venue writes it."""
    values = {"trade_seq": number, "trade_id": f"ETH-{9 * number}", "timestamp": MS + number, "instrument_name": NAME,
              "price": 8950.5, "amount": 10.0, "direction": "sell", "mark_price": 8948.9}  # fmt: skip
    return values | more


SNAPSHOT = book(10, bids=[["new", 100.5, 10.0], ["new", 100.0, 20.0]], asks=[["new", 101.0, 5.0]])


def sends(out: list[Output]) -> list[dict[str, Any]]:
    """Return the messages to the venue."""
    return [json.loads(output.frame) for output in out if isinstance(output, Send)]


@pytest.fixture
def feed() -> DeribitFeed:
    """A feed of one perpetual and one option whose channels are all subscribed."""
    made = DeribitFeed(line="deribit/0", products=(NAME, OPTION))
    for order in sends(made.opened(T0)):
        channels = order["params"].get("channels", [])
        made.received(json.dumps({"jsonrpc": "2.0", "id": order["id"], "result": channels}).encode(), T0)
    made.received(SNAPSHOT, T0)
    return made


def test_it_subscribes_books_trades_and_tickers_and_asks_for_heartbeats() -> None:
    """With the interval that needs no log-in, and for the list of instruments over REST."""
    out = DeribitFeed(line="deribit/0", products=(NAME,)).opened(T0)
    first, *orders = sends(out)
    assert (first["method"], first["params"]) == ("public/set_heartbeat", {"interval": 10})
    assert [order["params"]["channels"] for order in orders] == [
        [f"{kind}.{NAME}.100ms"] for kind in ("book", "trades", "ticker")
    ]
    assert [o.purpose for o in out if isinstance(o, Fetch)] == ["products"]


def test_a_test_request_is_answered(feed: DeribitFeed) -> None:
    """Else the venue closes the connection."""
    asked = feed.received(b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}', T0)
    assert [order["method"] for order in sends(asked)] == ["public/test"]
    assert feed.received(b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"heartbeat"}}', T0) == []


def test_changes_have_absolute_amounts_and_delete_removes(feed: DeribitFeed) -> None:
    """As text with the venue's digits."""
    (update,) = feed.received(
        book(12, 10, bids=[["delete", 100.0, 0.0], ["change", 100.5, 7.25]], asks=[["new", 100.75, 1.0]]), T0
    )
    assert isinstance(update, BookUpdate)
    assert (update.kind, update.sequence) == ("update", 12)
    assert (update.bid_prices, update.bid_sizes) == (["100.0", "100.5"], ["0", "7.25"])
    assert (update.ask_prices, update.ask_sizes) == (["100.75"], ["1.0"])


def test_a_change_that_does_not_follow_clears_the_book_and_asks_for_a_new_one(feed: DeribitFeed) -> None:
    """The gap has both numbers; the next snapshot closes it; an old change is a duplicate."""
    out = feed.received(book(15, 13), T0)
    assert [o.kind for o in out if isinstance(o, BookUpdate)] == ["clear"]
    (gap,) = (o for o in out if isinstance(o, FeedStatus) and o.kind == "gap")
    assert (gap.expected, gap.received, gap.channel) == (10, 13, "book")
    assert [order["method"] for order in sends(out)] == ["public/unsubscribe", "public/subscribe"]
    back = feed.received(SNAPSHOT, T0)
    assert [o.kind for o in back if isinstance(o, BookUpdate | FeedStatus)] == ["snapshot", "resynced"]
    assert feed.received(book(9, 8), T0) == []
    assert feed.counts["duplicates"] == 1


def test_a_skipped_trade_is_a_gap_that_rest_fills(feed: DeribitFeed) -> None:
    """By `trade_seq`; the ids do not count, and the trades after the gap are not valid until it is filled."""
    feed.received(notify("trades", [trade(1)]), T0)
    out = feed.received(notify("trades", [trade(3)]), T0)
    (asked,) = (o for o in out if isinstance(o, Fetch))
    assert {o.valid for o in out if isinstance(o, Trades)} == {False}
    body = json.dumps({"result": {"trades": [trade(3), trade(2), trade(1)], "has_more": True}}).encode()
    filled = feed.fetched(asked, body, T0)
    repaired = [o for o in filled if isinstance(o, Trades) and o.trades]
    assert [(o.origin, o.trades[0].trade_id, o.sequence) for o in repaired] == [("repair", "ETH-18", 3)]
    assert [o.kind for o in filled if isinstance(o, FeedStatus)] == ["resynced"]


def test_direction_is_the_takers_and_blocks_are_marked(feed: DeribitFeed) -> None:
    """A block trade updates the volume only; a liquidation says whose."""
    out = feed.received(
        notify("trades", [trade(1), trade(2, block_trade_id="BLOCK-7"), trade(3, liquidation="MT", direction="buy")]),
        T0,
    )
    (event,) = (o for o in out if isinstance(o, Trades))
    plain, block, forced = event.trades
    assert (plain.side, plain.price, plain.size, plain.conditions) == ("sell", "8950.5", "10.0", ())
    assert (block.conditions, block.excluded_from) == (("block",), ("high_low", "open_close"))
    assert (forced.side, forced.liquidation, forced.conditions) == ("buy", True, ("liquidation MT",))


def test_a_ticker_of_an_option_has_greeks_and_volatilities(feed: DeribitFeed) -> None:
    """Percent becomes a fraction; what the venue leaves out is null, and a price of 0 is none."""
    values = {"timestamp": MS, "instrument_name": OPTION, "state": "open", "best_bid_price": 0.0,
              "best_bid_amount": 0.0,
              "best_ask_price": 0.0125, "best_ask_amount": 3.5, "last_price": 0.012, "mark_price": 0.0121,
              "index_price": 64000.5, "open_interest": 12.1, "mark_iv": 57.31, "bid_iv": 0.0, "ask_iv": 60.0,
              "underlying_price": 64100.25, "underlying_index": "BTC-29MAR30", "stats": {"volume": 1.0, "high": None},
              "greeks": {"delta": 0.55, "gamma": 1e-05, "vega": 30.1, "theta": -12.2, "rho": 8.1}}  # fmt: skip
    out = feed.received(notify("ticker", values, OPTION), T0)
    (quote,) = (o for o in out if isinstance(o, Quote))
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (None, None, "0.0125", "3.5")
    (greeks,) = (o for o in out if isinstance(o, Derivative))
    assert (greeks.mark_price, greeks.index_price, greeks.underlying_price) == ("0.0121", "64000.5", "64100.25")
    assert (greeks.mark_iv, greeks.bid_iv, greeks.ask_iv) == ("0.5731", None, "0.600")
    assert (greeks.delta, greeks.gamma, greeks.theta) == ("0.55", "0.00001", "-12.2")
    assert (greeks.funding_rate, greeks.funding_interval, greeks.next_funding_ts) == (None, None, None)


def test_a_perpetuals_ticker_has_its_funding(feed: DeribitFeed) -> None:
    """The rate of eight hours that the venue names current."""
    values = {
        "timestamp": MS,
        "instrument_name": NAME,
        "state": "closed",
        "current_funding": -0.00012,
        "funding_8h": 0.0,
    }
    out = feed.received(notify("ticker", values), T0)
    (event,) = (o for o in out if isinstance(o, Derivative))
    assert (event.funding_rate, event.funding_interval, event.valid) == ("-0.00012", 28_800, False)
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["halted"]


def test_a_channel_that_the_answer_leaves_out_is_refused() -> None:
    """The book that was subscribed stays good; trades are on the ledger, and no heartbeat vouches for them."""
    feed = DeribitFeed(line="deribit/0", products=(NAME,))
    out: list[Output] = []
    for order in sends(feed.opened(T0)):
        channels = [one for one in order["params"].get("channels", []) if not one.startswith("trades")]
        out += feed.received(json.dumps({"id": order["id"], "result": channels}).encode(), T0)
    refused = [o for o in out if isinstance(o, FeedStatus) and o.kind == "unsubscribed"]
    assert [(o.channel, o.reason) for o in refused] == [("trades", "refused")]
    assert [o.channel for o in out if isinstance(o, FeedStatus) and o.kind == "gap"] == ["trades"]
    assert all(not o.valid for o in out if isinstance(o, Trades))
    (snapshot,) = (o for o in feed.received(SNAPSHOT, T0) if isinstance(o, BookUpdate))
    assert snapshot.valid


def test_an_error_is_a_dead_letter_and_refuses_what_was_asked() -> None:
    """With the venue's code and message."""
    feed = DeribitFeed(line="deribit/0", products=(NAME,))
    _, order, *_ = sends(feed.opened(T0))
    out = feed.received(
        json.dumps({"id": order["id"], "error": {"code": 11050, "message": "bad_request"}}).encode(), T0
    )
    assert [o.detail for o in out if isinstance(o, DeadLetter)] == ["11050 bad_request"]
    assert [o.channel for o in out if isinstance(o, FeedStatus) and o.kind == "unsubscribed"] == ["book"]


@pytest.mark.parametrize(
    ("name", "symbol", "kind", "strike"),
    [
        ("BTC-PERPETUAL", "BTC-USD-PERPETUAL", "perpetual", None),
        ("SOL_USDC-PERPETUAL", "SOL-USDC-PERPETUAL", "perpetual", None),
        ("BTC-29MAR24", "BTC-USD-29MAR24", "future", None),
        ("BTC-29MAR24-50000-C", "BTC-USD-29MAR24-50000-C", "option", "50000"),
        ("XRP_USDC-3JUN23-0d625-P", "XRP-USDC-3JUN23-0d625-P", "option", "0.625"),
        ("BTC_USDC", "BTC-USDC", "spot", None),
    ],
)
def test_names_say_what_an_instrument_is(name: str, symbol: str, kind: str, strike: str | None) -> None:
    """Contracts end at 08:00 UTC of their day."""
    found = describe(name)
    assert (found.symbol, found.kind, found.strike) == (symbol, kind, strike)
    assert found.expiry is None or found.expiry % (86_400 * SECOND) == 8 * 3_600 * SECOND


@pytest.mark.parametrize(
    "name", ["BTC", "BTC-FS-29MAR24_PERP", "BTC-CS-29MAR24-50000_60000", "BTC-31FEB24", "btc-perpetual"]
)
def test_combinations_and_impossible_names_are_refused(name: str) -> None:
    """The field and the value are named."""
    with pytest.raises(BadEvent, match="instrument_name"):
        describe(name)


def test_the_list_of_instruments_teaches_ticks_and_contracts(feed: DeribitFeed) -> None:
    """Only of what is subscribed; one that cannot be read costs no other."""
    listed = [{"instrument_name": 7}, {"instrument_name": "ETH-PERPETUAL", "tick_size": 0.05},
              {"instrument_name": NAME, "tick_size": 0.5, "min_trade_amount": 10.0, "contract_size": 10.0,
               "is_active": True, "settlement_currency": "BTC", "instrument_type": "reversed"}]  # fmt: skip
    out = feed.fetched(Fetch("", "products"), json.dumps({"result": listed}).encode(), T0)
    (learned,) = (o for o in out if isinstance(o, Instrument))
    assert (learned.tick_size, learned.contract_multiplier, learned.inverse) == ("0.5", "10.0", True)
    assert [o.reason for o in out if isinstance(o, DeadLetter)] == ["bad_product"]

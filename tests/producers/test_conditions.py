"""What a venue says of a trade is in its conditions, and decides what the trade updates in candles."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from marketdata.clock import SECOND_NS, parse_rfc3339
from marketdata.events import EXCLUSIONS, AnyEvent, Candle, DeadLetter, FeedStatus, Trade, Trades
from producers.venues import make_feed
from producers.venues.alpaca.conditions import exclusions, is_regular
from producers.venues.bybit import messages as bybit
from tickstream.pipe import Pipeline

T0 = 1_786_309_200 * SECOND_NS  # a minute begins
PRICES = ("high_low", "open_close")
LAST = ("open_close",)


def play(venue: str, frames: Iterable[tuple[float, Any]]) -> list[tuple[str, AnyEvent]]:
    """Return what frames become, by topic; each is received some seconds after T0."""
    feed, pipeline = make_feed(venue, line=f"{venue}/0"), Pipeline()
    out = [feed.opened(T0)]
    out += [feed.received(json.dumps(data).encode(), T0 + round(seconds * SECOND_NS)) for seconds, data in frames]
    return [made for outputs in out for one in outputs if isinstance(one, AnyEvent) for made in pipeline.push(one)]


def trades_of(published: list[tuple[str, AnyEvent]]) -> list[Trade]:
    """Return the trades of md.trades."""
    return [one for topic, event in published if topic == "md.trades" and isinstance(event, Trades)
            for one in event.trades]  # fmt: skip


def candle_of(published: list[tuple[str, AnyEvent]]) -> tuple[Any, ...]:
    """Return the last state of the first minute: open, high, low, close, volume and the number of trades."""
    found = [
        event for _, event in published if isinstance(event, Candle) and (event.interval, event.start) == ("1m", T0)
    ]
    one = found[-1]
    return (one.open, one.high, one.low, one.close, one.volume, one.trades)


def test_binance_trades_of_the_insurance_fund_and_of_deleveraging_count_in_no_candle() -> None:
    """They stay in md.trades with their condition, and their ids are no gap."""
    said = [("27000.10", "0.010", "MARKET"), ("24310.00", "1.5", "INSURANCE_FUND"), ("24500.00", "0.7", "ADL"),
            ("30000", "9", "NA"), ("27000.20", "0.020", "MARKET"), ("27000.30", "0.020", "MARKET")]  # fmt: skip
    frames = []
    for number, (price, size, cause) in enumerate(said, start=1):
        seconds = number if number < len(said) else 70
        ms = T0 // 1_000_000 + seconds * 1_000
        frames.append((seconds, {"stream": "btcusdt@trade", "data": {
            "e": "trade", "E": ms, "T": ms, "s": "BTCUSDT", "t": 4_200_000_000 + number, "p": price, "q": size,
            "X": cause, "m": False}}))  # fmt: skip
    published = play("binance_usdm", frames)
    assert candle_of(published) == ("27000.10", "27000.20", "27000.10", "27000.20", "0.03", 2)
    assert [(one.conditions, one.excluded_from) for one in trades_of(published)] == [
        ((), ()), (("INSURANCE_FUND",), EXCLUSIONS), (("ADL",), EXCLUSIONS), (("NA",), EXCLUSIONS), ((), ()), ((), ())
    ]  # fmt: skip
    assert not [event for _, event in published if isinstance(event, FeedStatus) and event.kind == "gap"]


def alpaca(items: list[tuple[int, float, int, Any]], tape: str = "C") -> list[tuple[str, AnyEvent]]:
    """Return what Alpaca trades become: second, price, size and conditions of each."""
    frames: list[tuple[float, Any]] = [
        (0, [{"T": "success", "msg": "connected"}]),
        (0.1, [{"T": "success", "msg": "authenticated"}]),
        (0.2, [{"T": "subscription", "trades": ["AAPL"], "quotes": [], "statuses": []}]),
    ]
    for number, (second, price, size, conditions) in enumerate(items, start=1):
        time = f"2026-08-09T21:{second // 60:02}:{second % 60:02}.000000000Z"
        trade = {
            "T": "t",
            "S": "AAPL",
            "i": number,
            "x": "V",
            "p": price,
            "s": size,
            "c": conditions,
            "z": tape,
            "t": time,
        }
        frames.append((second, [trade]))
    return play("alpaca", frames)


def test_an_alpaca_candle_equals_the_venues_bar() -> None:
    """Odd lots and average prices add volume, derivatively priced trades also high and low."""
    published = alpaca([
        (1, 150.0, 100, ["@"]), (2, 155.0, 3, ["@", "I"]), (3, 151.77, 20_000, ["@", "W"]), (4, 150.02, 100, ["@"]),
        (5, 150.01, 5_000, ["@", "4"]), (63, 150.03, 100, ["@"]),
    ])  # fmt: skip
    assert candle_of(published) == ("150.0", "150.02", "150.0", "150.02", "25203", 5)
    assert [one.conditions for one in trades_of(published)][1] == ("@", "I")


def test_an_alpaca_trade_without_conditions_counts() -> None:
    """The list may be null or absent."""
    published = alpaca([(1, 150.0, 100, None), (2, 151.0, 100, []), (63, 150.0, 1, ["@"])])
    assert candle_of(published) == ("150.0", "151.0", "150.0", "151.0", "200", 2)
    assert not [event for _, event in published if isinstance(event, DeadLetter)]


def test_alpaca_minutes_without_a_trade_that_sets_a_price_have_only_volume() -> None:
    """As a minute of odd lots has."""
    published = alpaca([(1, 155.0, 3, ["@", "I"]), (63, 150.0, 100, ["@"])])
    assert candle_of(published) == (None, None, None, None, "3", 1)


AT_NOON = parse_rfc3339("2026-08-10T16:00:00Z")


@pytest.mark.parametrize(
    ("conditions", "tape", "excluded"),
    [
        (["@"], "C", ()),
        ([" "], "A", ()),
        (["@", "F"], "C", ()),
        (["@", "I"], "A", PRICES),
        (["@", "F", "I"], "C", PRICES),
        (["B"], "A", PRICES),
        (["B"], "B", PRICES),
        (["B"], "C", ()),
        (["W"], "C", PRICES),
        (["W"], "A", ()),
        (["4"], "A", LAST),
        (["P"], "C", LAST),
        (["Z"], "B", LAST),
        (["Z", "I"], "B", PRICES),
        (["U"], "C", PRICES),
        (["C"], "C", PRICES),
        (["N"], "A", PRICES),
        (["R"], "A", PRICES),
        (["V"], "C", PRICES),
        (["7"], "C", PRICES),
        (["H"], "A", PRICES),
        (["L"], "A", ()),
        (["O"], "C", ()),
        (["5"], "C", ()),
        (["6"], "C", ()),
        (["X"], "C", ()),
        (["M"], "C", EXCLUSIONS),
        (["Q"], "A", EXCLUSIONS),
        (["9"], "A", EXCLUSIONS),
        (["T"], "C", PRICES),
        (["?"], "C", ()),
        (["B"], "", ()),
        (["I"], "", PRICES),
    ],
)
def test_sale_conditions_by_tape(conditions: list[str], tape: str, excluded: tuple[str, ...]) -> None:
    """Of several conditions each excludes what it excludes; the order is always the same."""
    assert exclusions(tuple(conditions), tape, AT_NOON) == excluded


@pytest.mark.parametrize(
    ("time", "regular"),
    [
        ("2026-08-10T13:29:59.999999999Z", False),
        ("2026-08-10T13:30:00Z", True),
        ("2026-08-10T19:59:59Z", True),
        ("2026-08-10T20:00:00Z", False),
        ("2026-08-09T16:00:00Z", False),
        ("2026-01-05T14:29:59Z", False),
        ("2026-01-05T14:30:00Z", True),
        ("2026-01-05T20:59:59Z", True),
        ("2026-01-05T21:00:00Z", False),
        ("2026-03-06T14:00:00Z", False),
        ("2026-03-09T13:30:00Z", True),
        ("2026-10-30T13:30:00Z", True),
        ("2026-11-02T13:30:00Z", False),
        ("2026-11-02T14:30:00Z", True),
    ],
)
def test_form_t_sets_prices_outside_of_regular_hours_only(time: str, regular: bool) -> None:
    """Hours of New York, with its summer time; there is no trading on a weekend."""
    ts = parse_rfc3339(time)
    assert is_regular(ts) == regular
    assert exclusions(("@", "T"), "C", ts) == (PRICES if regular else ())
    assert exclusions(("@", "T", "I"), "C", ts) == PRICES


def test_a_gemini_block_trade_has_no_side_and_sets_no_price_and_the_book_stays() -> None:
    """Both trades are published, and the block adds volume."""
    ms = T0 // 1_000_000
    published = play("gemini", [
        (0, {"type": "l2_updates", "symbol": "BTCUSD", "changes": [["buy", "65000", "1"], ["sell", "65010", "1"]],
             "trades": []}),
        (1, {"type": "trade", "symbol": "BTCUSD", "event_id": 501, "timestamp": ms + 1_000, "price": "65005.00",
             "quantity": "0.1", "side": "buy", "tid": 502}),
        (2, {"type": "trade", "symbol": "BTCUSD", "event_id": 503, "timestamp": ms + 2_000, "price": "65006.00",
             "quantity": "25", "side": "block", "tid": 504}),
        (3, {"type": "trade", "symbol": "BTCUSD", "event_id": 505, "timestamp": ms + 3_000, "price": "65004.00",
             "quantity": "1", "side": "auction", "tid": 506}),
    ])  # fmt: skip
    assert [(one.side, one.conditions, one.excluded_from) for one in trades_of(published)] == [
        ("buy", (), ()), ("unknown", ("block",), PRICES), ("unknown", ("auction",), ())
    ]  # fmt: skip
    assert candle_of(published) == ("65005.00", "65005.00", "65004.00", "65004.00", "26.1", 3)
    assert not [
        event for _, event in published if isinstance(event, (DeadLetter, FeedStatus)) and event.reason == "gap"
    ]


@pytest.mark.parametrize(
    ("kind", "conditions", "excluded", "forced"),
    [
        ("fill", (), (), False),
        ("liquidation", ("liquidation",), (), True),
        ("block", ("block",), PRICES, False),
        ("assignment", ("assignment",), PRICES, False),
        ("termination", ("termination",), PRICES, False),
    ],
)
def test_kraken_futures_types(kind: str, conditions: tuple[str, ...], excluded: tuple[str, ...], forced: bool) -> None:
    """A liquidation is a trade in the book; the others are made outside of it."""
    sent = {"feed": "trade", "product_id": "PI_XBTUSD", "uid": "a", "side": "buy", "type": kind, "seq": 1,
            "time": T0 // 1_000_000, "qty": 10, "price": 34_893}  # fmt: skip
    (one,) = trades_of(play("kraken_futures", [(0.1, sent)]))
    assert (one.conditions, one.excluded_from, one.liquidation) == (conditions, excluded, forced)


@pytest.mark.parametrize(
    ("flags", "conditions", "excluded"),
    [
        ({}, (), ()),
        ({"BT": False, "RPI": True}, ("RPI",), ()),
        ({"BT": True, "RPI": False}, ("block",), PRICES),
    ],
)
def test_bybit_block_trades_and_retail_price_improvement(
    flags: dict[str, bool], conditions: tuple[str, ...], excluded: tuple[str, ...]
) -> None:
    """REST has the same flags by other names."""
    names = {"BT": "isBlockTrade", "RPI": "isRPITrade"}
    stream = {"s": "BTCUSDT", "i": "7", "T": 1, "p": "1.5", "v": "2", "S": "Buy"} | flags
    rest = {"execId": "7", "time": "1", "price": "1.5", "size": "2", "side": "Buy"}
    rest_flags = {names[name]: value for name, value in flags.items()}
    one = bybit.read_trade(bybit.TRADE.decode(json.dumps(stream)), 1_000_000)
    assert bybit.read_rest_trade(bybit.REST_TRADE.decode(json.dumps(rest | rest_flags))) == one
    assert (one.conditions, one.excluded_from) == (conditions, excluded)

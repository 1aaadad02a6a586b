"""Answers that are not as documented: an error names what is wrong, and a bad item costs no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from decimal import Decimal
from typing import Any

import databento_dbn
import pytest

from infra.simulator.venues.tape import MINUTE_NS, SECOND_NS
from marketdata import dbn
from marketdata.errors import BadEvent, Refused, Unavailable
from producers.history.rest import checked_trades
from producers.venues.kit.history import Span, TradeHistory
from tests.producers.history.documented import (
    BINANCE_ROW,
    CANDLES,
    EMPTY_DBN,
    KRAKEN_TRADES,
    MS,
    SAME,
    START,
    TS,
    adapter,
    asked,
    body,
    trade_adapter,
)

# What no row may have, of every kind that venues write; `...` is a value that is not there.
WRONG: list[Any] = [None, True, -1, 0, -0.5, 2**63 - 1, 10**30, "", "-1", "1e35", "9" * 33, "NaN", "1e999", "x" * 300,
                    [], {}, [[]], "2096-10-02T07:06:40.5Z", ...]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each value within another: what holds it, and where."""
    for at in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, at
        yield from places(value[at])


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_wrong_value_of_any_answer_is_an_error_that_names_it_or_rows_that_may_be(wrong: Any) -> None:
    """Whatever the value: nothing else is raised, and no trade is returned that no candle may be built from."""
    read: list[tuple[str, str, str | None, Any, bool]] = [(v, n, None, a, False) for v, (n, a, _) in CANDLES.items()]
    read += [(v, n, cursor, a, True) for v, (n, _, a, cursor) in SAME.items()]
    for venue, name, cursor, answer, is_trades in read:
        history = adapter(venue)
        where = asked(history, name)
        plain = json.loads(body(answer))
        for place in range(len(list(places(plain)))):
            spoilt = deepcopy(plain)
            holder, at = list(places(spoilt))[place]
            if wrong is ...:
                del holder[at]
            else:
                holder[at] = wrong
            with suppress(BadEvent, Refused, Unavailable):  # which name what is wrong
                if is_trades:
                    assert isinstance(history, TradeHistory)
                    for trade in checked_trades(history, where, cursor, body(spoilt), TS).items:
                        assert Decimal(trade.price) > 0
                        assert Decimal(trade.size) > 0
                else:
                    history.parse_candles(where, cursor, body(spoilt), TS)


@pytest.mark.parametrize("venue", sorted(CANDLES))
def test_a_candle_of_a_time_that_cannot_be_is_refused(venue: str) -> None:
    """Outside of the range it would be left out, and end the walk, unnoticed."""
    name, answer, _ = CANDLES[venue]
    history = adapter(venue)
    for year, at in (("1996", 846_000_000), ("2096", 3_999_999_960)):
        wrong = body(answer).replace(b"2023", year.encode()).replace(str(START).encode(), str(at).encode())
        try:
            (error,) = [item.error for item in history.parse_candles(asked(history, name), None, wrong, TS).refused]
        except BadEvent as raised:
            error = raised
        assert (error.reason, error.field) == ("time_out_of_bounds", "start")


@pytest.mark.parametrize("bad", [{"price": "0.00000000"}, {"price": "x"}, {"qty": "0"}, {"id": None}, {"time": -1}])
@pytest.mark.parametrize("place", range(4))
def test_a_bad_trade_costs_no_other_one_of_its_page(bad: dict[str, Any], place: int) -> None:
    """It is left out with its bytes and reason, and the time between its neighbours is missing, wherever it is."""
    history = trade_adapter("binance_spot")
    where = asked(history, "BTC-USDT")
    rows = [BINANCE_ROW | {"id": 10 + at, "time": MS + at} for at in range(4)]
    rows[place] |= bad
    page = checked_trades(history, where, "id:10", body(rows), TS)
    pages = [page]
    if place == 3:  # the next page has what came after it
        assert page.cursor == f"id:13:{(MS + 2) * 1_000_000}"
        rest = [rows[3], BINANCE_ROW | {"id": 14, "time": MS + 4}]
        pages.append(checked_trades(history, where, page.cursor, body(rest), TS))
    ids = [trade.trade_id for page in pages for trade in page.items]
    assert ids == [str(10 + at) for at in range(4 if place < 3 else 5) if at != place]
    ((payload, error),) = [item for page in pages for item in page.refused]
    assert json.loads(payload) == rows[place]
    assert error.value
    ((start, end, reason),) = [span for page in pages for span in page.missing]
    assert reason == "bad_item"
    assert start == (where.start if place == 0 else (MS + place - 1) * 1_000_000)
    assert end == (MS + place + 1) * 1_000_000 + 1


def test_a_bad_candle_costs_no_other_one_of_its_page() -> None:
    """One corrupt row is the only minute that is missing."""
    history = adapter("binance_spot")
    ((ms, *rest),) = CANDLES["binance_spot"][1]
    rows = [[ms + at * 60_000, *rest] for at in range(4)]
    rows[2][2] = "x"
    page = history.parse_candles(asked(history, "BTC-USDT"), None, body(rows), TS)
    assert [one.start for one in page.items] == [ms * 1_000_000 + at * MINUTE_NS for at in (0, 1, 3)]
    assert page.missing == (Span(page.items[1].end, page.items[2].start, "bad_item"),)
    assert [item.error.field for item in page.refused] == ["kline"]


def test_a_page_of_nothing_but_bad_items_is_another_format() -> None:
    """A venue that renames its fields is no sequence of bad trades: the page is refused, and the job says so."""
    history = trade_adapter("binance_spot")
    rows = [BINANCE_ROW | {"id": 10 + at, "price": None} for at in range(20)]
    with pytest.raises(BadEvent, match="price"):
        history.parse_trades(asked(history, "BTC-USDT"), "id:10", body(rows), TS)


def test_trades_that_cannot_be_make_no_candles() -> None:
    """The shell holds every venue to it: candles are made of trades before the stream app sees them."""
    history = trade_adapter("kraken")
    where = asked(history, "BTC-USD")
    assert checked_trades(history, where, None, KRAKEN_TRADES.encode(), TS).items
    for field, right, wrong in (
        ("price", '"37000.10"', '"-1"'), ("price", '"37000.10"', '"0"'), ("size", '"0.50"', '"0"'),
        ("ts_event", str(START), "4000000000"), ("ts_event", str(START), "5"),
    ):  # fmt: skip
        page = checked_trades(history, where, None, KRAKEN_TRADES.replace(right, wrong).encode(), TS)
        assert not page.items
        assert [item.error.field for item in page.refused] == [field]
        assert page.missing == (Span(where.start, where.end, "bad_item"),)


def test_databento_refuses_what_is_of_another_symbol_or_of_no_time() -> None:
    """It would be left out as if there had been nothing."""
    history = trade_adapter("databento")
    where = asked(history, "ESU4")
    cursor = f"{where.start}:{where.end}"

    def records(received: int, symbol: str) -> bytes:
        record = (dbn.TRADE_BODY.size // dbn.WORD, dbn.TRADE, 1, 7, where.start, SECOND_NS, 1, ord("T"), ord("B"), 0,
                  0, received, 0, 5)  # fmt: skip
        raw = dbn.RAW_SYMBOL
        name = databento_dbn.SymbolMappingMsg(1, 7, where.start, raw, symbol, raw, symbol, 0, 2**64 - 1)
        return EMPTY_DBN + bytes(name) + dbn.TRADE_BODY.pack(*record)

    assert history.parse_trades(where, cursor, records(where.start, "ESU4"), TS).items
    with pytest.raises(BadEvent, match="bad_symbol: symbol = 'ESZ4'"):
        history.parse_trades(where, cursor, records(where.start, "ESZ4"), TS)
    with pytest.raises(BadEvent, match="time_out_of_bounds: ts_recv"):
        history.parse_trades(where, cursor, records(4 * 10**18, "ESU4"), TS)


def test_candles_between_the_intervals_are_refused() -> None:
    """A candle that begins a second late is not of this interval, whatever the venue calls it; it costs no other."""
    history = adapter("bitfinex")
    sent = f"[[{MS},1,1,1,1,1],[{MS + 1000},1,1,1,1,1],[{MS + 60_000},1,1,1,1,1]]".encode()
    page = history.parse_candles(asked(history, "BTC-USD"), None, sent, TS)
    assert [candle.start for candle in page.items] == [MS * 1_000_000, (MS + 60_000) * 1_000_000]
    assert [item.error.reason for item in page.refused] == ["bad_time"]


def test_okxs_failures_are_later_or_final() -> None:
    """A rate limit is tried again, a wrong name is not."""
    history = adapter("okx")
    for code, error in (("50011", Unavailable), ("51001", Refused)):
        with pytest.raises(error, match=f"{code} why"):
            history.parse_candles(asked(history, "BTC-USDT"), None, body({"code": code, "msg": "why"}), TS)


def test_bybits_failures_are_later_or_final() -> None:
    """A rate limit is tried again, a wrong symbol is not; lists of another market are not taken for ours."""
    history = adapter("bybit")
    where = asked(history, "BTC-USDT")
    for code, error in ((10006, Unavailable), (10001, Refused)):
        with pytest.raises(error, match=f"{code} why"):
            history.parse_candles(where, None, body({"retCode": code, "retMsg": "why", "result": {}}), TS)
    with pytest.raises(BadEvent, match="category = 'linear'"):
        history.parse_candles(where, None, body(CANDLES["bybit"][1]), TS)

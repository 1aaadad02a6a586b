"""What a venue's history hides or no longer has is missing, and the rest is read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from infra.simulator.venues.answers import Answer
from infra.simulator.venues.tape import MINUTE_NS, SECOND_NS
from marketdata.errors import BadEvent
from producers.venues.coinbase.history import CoinbaseHistory
from producers.venues.kit.history import Span
from tests.producers.history.documented import BINANCE_ROW, KRAKEN_TRADES, MS, START, TS, asked, body, trade_adapter

if TYPE_CHECKING:
    from tests.producers.history.conftest import Served


def test_a_bad_trade_at_the_end_of_history_leaves_the_rest_of_the_range_missing() -> None:
    """Nothing shows when it was made, but that it came after the one before it."""
    history = trade_adapter("binance_spot")
    where = asked(history, "BTC-USDT")
    page = history.parse_trades(where, f"id:13:{MS * 1_000_000}", body([BINANCE_ROW | {"id": 13, "qty": "-1"}]), TS)
    assert (page.items, page.cursor, page.reached) == ((), None, where.end)
    assert page.missing == (Span(MS * 1_000_000, where.end, "bad_item"),)


def test_krakens_next_page_is_where_its_last_trade_was() -> None:
    """A place far beyond it would end the walk as if there were no more trades."""
    history = trade_adapter("kraken")
    wrong = KRAKEN_TRADES.replace(f'"last":"{START}', '"last":"4000000000')
    with pytest.raises(BadEvent, match="bad_answer: last = '4000000000123456000'"):
        history.parse_trades(asked(history, "BTC-USD"), None, wrong.encode(), TS)


def test_what_kraken_no_longer_has_is_missing(served: Served) -> None:
    """Its last 720 candles are returned; those before are a span, which trades can fill."""
    start, end = served.minute(10), served.minute(990)
    found, missing = served.candles(served.history("kraken"), start, end)
    (span,) = missing
    assert (span.start, span.reason) == (start, "too_old")
    assert span.end == found[0].start
    assert time.time_ns() - found[0].start <= 721 * MINUTE_NS
    assert len(found) == (end - span.end) // MINUTE_NS
    assert served.history("kraken").candles_kept == 720


def test_more_trades_than_a_page_in_one_second_are_missing(served: Served) -> None:
    """Coinbase sends the newest of a second: the others are a span, and the rest of the range is returned."""
    history = CoinbaseHistory(served.access(), rows_max=1)
    history.budget = served.history("coinbase").budget
    start, end = served.minute(898), served.minute(899)  # a minute with twins
    found, missing = served.trades(history, start, end)
    past = served.venue.trades(start, end)
    seconds = [one.ts // SECOND_NS for one in past]
    twins = [second for second in seconds if seconds.count(second) > 1]
    assert len(twins) == 2
    assert {one.trade_id for one in found} == {
        str(one.number) for at, one in enumerate(past) if seconds[at + 1 : at + 2] != [seconds[at]]
    }
    assert [span for span in missing if span.start == twins[0] * SECOND_NS]


def test_a_server_that_hides_trades_is_found_out_by_the_ids(served: Served) -> None:
    """Coinbase's pages that are shorter than was asked for cost requests, and no trade, the first ones neither."""
    served.venue.rows_max = 4
    history = CoinbaseHistory(served.access(), rows_max=1_000)
    history.budget = served.history("coinbase").budget
    start, end = served.minute(896), served.minute(940)
    found, missing = served.trades(history, start, end)
    assert [one.trade_id for one in found] == [str(one.number) for one in served.venue.trades(start, end)]
    assert not missing


def test_a_full_millisecond_is_missing_and_the_next_one_follows() -> None:
    """Bitfinex pages by the millisecond: what one hides behind a full page cannot be asked for."""
    history = trade_adapter("bitfinex")
    history._limit = 2  # type: ignore[attr-defined]
    where = asked(history, "BTC-USD")
    page = history.parse_trades(where, str(MS * 1_000_000), f"[[1,{MS},1,1],[2,{MS},1,1]]".encode(), TS)
    assert page.cursor == str((MS + 1) * 1_000_000)
    assert page.missing == (Span(MS * 1_000_000, (MS + 1) * 1_000_000, "too_many"),)


def test_a_cursor_that_does_not_move_ends_the_walk(served: Served) -> None:
    """A server that repeats itself costs one page, not an endless loop."""
    again = body({"products": [], "pagination": {"next_cursor": "same", "has_next": True}})
    served.venue.fail(Answer(200, again), Answer(200, again))
    with pytest.raises(BadEvent, match="stuck"):
        served.symbols(served.history("coinbase"))


def test_what_kraken_futures_hides_or_no_longer_has_is_missing() -> None:
    """A millisecond that fills a page, and the time before the first trade of a page that is not full."""
    history = trade_adapter("kraken_futures")
    where = asked(history, "PI_XBTUSD")
    row = {"time": "2023-11-14T22:14:00.000Z", "price": 1, "size": 1, "side": "buy", "type": "fill"}
    full = body({"history": [row | {"uid": str(at)} for at in range(100)]})
    half = history.parse_trades(where, f"{where.start}:8000000", full, TS)
    assert (half.items, half.cursor) == ((), f"{where.start}:4000000")
    last = history.parse_trades(where, f"{where.start}:1000000", full, TS)
    assert len(last.items) == 100
    assert last.missing == (Span(where.start, where.start + 1_000_000, "too_many"),)
    late = body({"history": [row | {"uid": "1", "time": "2023-11-14T22:15:00.000Z"}]})
    page = history.parse_trades(where, None, late, TS)
    assert page.missing == (Span(where.start, where.start + MINUTE_NS, "too_old"),)


def test_coinbase_exchange_finds_the_first_trade_of_a_range_by_halving_its_ids(served: Served) -> None:
    """As many requests as the newest id has binary digits, and one page."""
    history = served.history("coinbase_exchange")
    found, _ = served.trades(history, served.minute(896), served.minute(904))
    assert [one.trade_id for one in found] == [
        str(one.number) for one in served.venue.trades(served.minute(896), served.minute(904))
    ]
    newest = served.venue.tape.first_at(time.time_ns())
    assert len(served.venue.asked) <= newest.bit_length() + 3


def test_bybit_has_only_its_latest_trades(served: Served) -> None:
    """Those before the oldest of them are a span that nobody has any more; the others are all there."""
    history = served.history("bybit")
    now = time.time_ns()
    start = now - 90 * MINUTE_NS
    found, missing = served.trades(history, start, now)
    past = served.venue.trades(start, now)
    assert 0 < len(found) <= 60 < len(past)
    assert [one.trade_id for one in found] == [f"id-{one.number}" for one in past[-len(found) :]]
    ((begin, end, reason),) = missing
    assert (begin, reason) == (start, "too_old")
    assert end == found[0].ts_event + 1_000_000
    last = found[-1].ts_event - 1
    assert served.trades(history, last, now) == ([one for one in found if one.ts_event > last], [])

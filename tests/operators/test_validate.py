"""What is wrong becomes a dead letter that names the field; what is right goes on; nothing else is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import BadEvent
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.operator import Operator
from stream_apps.operators.arbitration import IngestBooks
from stream_apps.operators.ingest import IngestQuotes, IngestStatus, IngestTrades
from stream_apps.operators.validate import Terms, Validator


def instrument(tick: str | None = "0.01", kind: str = "spot", symbol: str = "BTC-USD") -> Instrument:
    """Return an instrument of the symbol that the tests use."""
    return Instrument(
        venue="coinbase",
        symbol=symbol,
        ts_recv=1,
        venue_symbol=symbol,
        base_currency="BTC",
        quote_currency="USD",
        tick_size=tick,
        kind=kind,
    )


def listed(*instruments: Instrument) -> dict[str, Instrument]:
    """Return the mapping that operators take."""
    return {known.key: known for known in instruments}


def test_a_long_column_with_a_price_off_the_tick_is_read_in_no_time() -> None:
    """A thousand prices with zeros at their ends before the wrong one: checked once each, not in every combination."""
    terms = Terms(instrument(tick="0.0001"))
    prices = [f"0.35{number % 100:02}0000" for number in range(1_000)]
    assert terms.are_usual(prices)
    assert not terms.prices([*prices, "0.25974000"], "bid_prices")


BAD_TRADES: list[tuple[dict[str, Any], str, str]] = [
    ({"price": "0"}, "not_positive", "price"),
    ({"price": "0.00"}, "not_positive", "price"),
    ({"price": "-5"}, "not_positive", "price"),
    ({"price": "abc"}, "not_a_decimal", "price"),
    ({"price": "NaN"}, "not_a_decimal", "price"),
    ({"price": "1,2"}, "not_a_decimal", "price"),
    ({"price": ""}, "not_a_decimal", "price"),
    ({"price": "100.001"}, "off_tick", "price"),
    ({"price": "1e40"}, "out_of_range", "price"),
    ({"price": 100}, "bad_type", "price"),
    ({"price": None}, "bad_type", "price"),
    ({"price": ["1"]}, "bad_type", "price"),
    ({"size": "0"}, "not_positive", "size"),
    ({"size": "-1"}, "not_positive", "size"),
    ({"size": "Infinity"}, "not_a_decimal", "size"),
    ({"size": 1.5}, "bad_type", "size"),
    ({"size": "1e-41"}, "out_of_range", "size"),
    ({"side": "BUY"}, "unknown_side", "side"),
    ({"side": ""}, "unknown_side", "side"),
    ({"action": "bust"}, "unknown_action", "action"),
    ({"trade_id": ""}, "bad_trade_id", "trade_id"),
    ({"trade_id": "x" * 200}, "bad_trade_id", "trade_id"),
    ({"ts_event": 0}, "time_out_of_bounds", "ts_event"),
    ({"ts_event": "noon"}, "bad_type", "ts_event"),
    ({"ts_event": 1_786_276_800_000}, "time_out_of_bounds", "ts_event"),
]


@pytest.mark.parametrize(("wrong", "reason", "field"), BAD_TRADES)
def test_a_bad_trade_is_refused_and_the_others_of_its_frame_go_on(
    make: Any, wrong: dict[str, Any], reason: str, field: str
) -> None:
    """The letter names the field and holds the trade alone, so that a redrive repeats nothing."""
    bad = msgspec.structs.replace(make.trade(2, 1), **wrong)
    operator = IngestTrades(listed(instrument()))
    event = make.trades(make.trade(1, 1), bad, make.trade(3, 1), seconds=1)
    _, out = operator.step(operator.start("coinbase:BTC-USD"), event)
    passed, letter = out
    assert isinstance(passed, Trades)
    assert [trade.trade_id for trade in passed.trades] == ["1", "3"]
    assert isinstance(letter, DeadLetter)
    assert (letter.stage, letter.reason, letter.field) == ("validate", reason, field)
    assert len(msgspec.json.decode(letter.payload)["trades"]) == 1
    assert operator.counts[reason] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"ts_event": 1},
        {"ts_event": 1_786_276_800_000_000_000 + 12 * 10**9},
        {"origin": "guess"},
        {"symbol": "DOGE-USD"},
    ],
)
def test_a_frame_that_is_wrong_as_a_whole_is_refused_as_a_whole(make: Any, wrong: dict[str, Any]) -> None:
    """Its letter has no payload: the engine puts in the record's bytes."""
    event = msgspec.structs.replace(make.trades(make.trade(1, 0)), **wrong)
    operator = IngestTrades(listed(instrument()))
    _, out = operator.step(operator.start("k"), event)
    assert [(type(letter), letter.payload) for letter in out if isinstance(letter, DeadLetter)] == [(DeadLetter, b"")]
    assert len(out) == 1


def test_a_time_far_in_the_past_is_legal_and_one_ahead_of_us_only_a_little(make: Any) -> None:
    """Replays and backfills are old; clocks differ by less than ten seconds."""
    operator = IngestTrades({})
    old = make.trades(make.trade(1, -10 * 365 * 86_400), origin="backfill")
    ahead = msgspec.structs.replace(make.trades(make.trade(2, 9)), ts_recv=make.ts(0))
    for event in (old, ahead):
        _, out = operator.step(operator.start("k"), event)
        assert [type(passed) for passed in out] == [Trades]


BAD_BOOKS: list[tuple[dict[str, Any], str]] = [
    ({"bid_prices": ["1", "2"]}, "uneven_columns"),
    ({"bid_prices": ["0"]}, "not_positive"),
    ({"bid_prices": ["1,2"]}, "not_a_decimal"),
    ({"bid_sizes": ["-1"]}, "negative"),
    ({"bid_sizes": ["1,2"]}, "not_a_decimal"),
    ({"ask_sizes": [""]}, "not_a_decimal"),
    ({"ask_sizes": [1]}, "bad_type"),
    ({"ask_prices": [None]}, "bad_type"),
    ({"kind": "delta"}, "unknown_kind"),
    ({"ts_event": 0}, "time_out_of_bounds"),
    ({"origin": ""}, "unknown_origin"),
]


@pytest.mark.parametrize(("wrong", "reason"), BAD_BOOKS)
def test_one_bad_level_spoils_the_change_and_the_book_until_the_next_snapshot(
    make: Any, wrong: dict[str, Any], reason: str
) -> None:
    """The change is refused, the book is cleared in the same step, and later changes wait for a snapshot."""
    operator = IngestBooks(listed(instrument()))
    state = operator.start("coinbase:BTC-USD")
    good = make.book("snapshot", 0, [("99", "1")], [("101", "1")])
    bad = msgspec.structs.replace(make.book("update", 1, [("98", "1")], [("102", "1")]), **wrong)
    state, out = operator.step(state, good)
    assert out == [good]
    state, out = operator.step(state, bad)
    letter, clear = out
    assert isinstance(letter, DeadLetter)
    assert isinstance(clear, BookUpdate)
    assert (letter.reason, letter.payload) == (reason, b"")
    assert (clear.kind, clear.valid, clear.reason) == ("clear", False, "gap")
    state, out = operator.step(state, make.book("update", 2, [("97", "1")]))
    assert out == []
    state, out = operator.step(state, make.book("snapshot", 3, [("97", "1")]))
    assert len(out) == 1


def test_a_book_goes_on_over_a_new_tick_that_nobody_told(make: Any) -> None:
    """A finer tick brings new prices; at a coarser one orders rest at the old prices, in snapshots as well."""
    operator = IngestBooks(listed(instrument(tick="0.05")))
    state = operator.start("coinbase:BTC-USD")
    for number, event in enumerate((
        make.book("snapshot", 0, [("99.97", "1")], [("101", "1")]),
        make.book("update", 1, [("99.98", "1")], [("101.001", "1")]),
        make.book("update", 2, [("99.95", "1")]),
    )):  # fmt: skip
        state, out = operator.step(state, event)
        assert out == [event], number
    assert operator.counts == {"off_tick": 3}


def test_a_quote_off_the_tick_goes_on(make: Any) -> None:
    """It is the best level of the same book."""
    operator = IngestQuotes(listed(instrument()))
    quote = make.quote(0, ask="1.005", bid="1")
    _, out = operator.step(operator.start("coinbase:BTC-USD"), quote)
    assert out == [quote]
    assert operator.counts == {"off_tick": 1}


class Following(dict[str, Instrument]):
    """Instruments of which the latest is still on its way until they are read again."""

    latest: Instrument | None = None

    def read_again(self, key: str) -> None:
        """Read it."""
        if self.latest is not None:
            self[key] = self.latest


@pytest.mark.parametrize(("latest", "passes"), [(None, True), ("0.005", True), ("0.01", False)])
def test_a_trade_is_refused_only_for_the_latest_tick(make: Any, latest: str | None, *, passes: bool) -> None:
    """What its feed told of the instrument just before comes on another topic, and maybe later."""
    known = Following(listed(instrument()))
    known.latest = instrument(tick=latest)
    operator = IngestTrades(known)
    event = make.trades(msgspec.structs.replace(make.trade(1, 0), price="100.005"))
    _, out = operator.step(operator.start("coinbase:BTC-USD"), event)
    assert [type(told) for told in out] == [Trades if passes else DeadLetter]


BAD_QUOTES: list[tuple[dict[str, Any], str]] = [
    ({"bid": "0"}, "not_positive"),
    ({"last": "x"}, "not_a_decimal"),
    ({"bid_size": "-1"}, "negative"),
    ({"volume_24h": "-0.1"}, "negative"),
    ({"change_24h": "--1"}, "not_a_decimal"),
    ({"change_24h": 1}, "bad_type"),
    ({"high_24h": "1,2"}, "not_a_decimal"),
    ({"symbol": "DOGE-USD"}, "unknown_instrument"),
]


@pytest.mark.parametrize(("wrong", "reason"), BAD_QUOTES)
def test_a_bad_quote_is_refused(make: Any, wrong: dict[str, Any], reason: str) -> None:
    """A quote is one value: any wrong part makes it useless."""
    operator = IngestQuotes(listed(instrument()))
    _, out = operator.step(operator.start("k"), msgspec.structs.replace(make.quote(0), **wrong))
    assert [letter.reason for letter in out if isinstance(letter, DeadLetter)] == [reason]
    assert len(out) == 1


def test_a_quote_with_statistics_and_a_falling_price_goes_on(make: Any) -> None:
    """Statistics need not fall on a tick, and a change may be negative."""
    quote = make.quote(0, volume_24h="1e3", high_24h="101.12345", low_24h="98.999", change_24h="-1.25", last="100.10")
    operator = IngestQuotes(listed(instrument()))
    _, out = operator.step(operator.start("k"), quote)
    assert out == [quote]
    assert isinstance(out[0], Quote)


@pytest.mark.parametrize(("kind", "legal"), [("spot", False), ("equity", False), ("future", True), ("perpetual", True)])
def test_only_contracts_have_prices_at_or_below_zero(make: Any, kind: str, legal: bool) -> None:
    """Oil futures settled at -37.63 in April 2020."""
    operator = IngestTrades(listed(instrument(kind=kind)))
    for number, price in enumerate(["-37.63", "0.00"]):
        _, out = operator.step(operator.start("k"), make.trades(make.trade(number, 0, price)))
        assert isinstance(out[0], Trades if legal else DeadLetter)


def test_an_instrument_is_unknown_only_where_the_venue_lists_others(make: Any) -> None:
    """A recording without a product list is taken as it is; the list counts as soon as it is there."""
    known: dict[str, Instrument] = {}
    operator = IngestTrades(known)
    state = operator.start("coinbase:BTC-USD")
    state, out = operator.step(state, make.trades(make.trade(1, 0)))
    assert isinstance(out[0], Trades)
    known |= listed(instrument(symbol="ETH-USD"))
    state, out = operator.step(state, make.trades(make.trade(2, 0)))
    assert isinstance(out[0], DeadLetter)
    assert out[0].reason == "unknown_instrument"
    known |= listed(instrument())
    state, out = operator.step(state, make.trades(make.trade(3, 0)))
    assert isinstance(out[0], Trades)


def test_a_changed_tick_size_counts_at_once(make: Any) -> None:
    """Venues change ticks while they trade."""
    known = listed(instrument(tick="1"))
    operator = IngestTrades(known)
    state, out = operator.step(operator.start("k"), make.trades(make.trade(1, 0, "100.5")))
    assert isinstance(out[0], DeadLetter)
    known |= listed(instrument(tick="0.5"))
    _, out = operator.step(state, make.trades(make.trade(2, 0, "100.5")))
    assert isinstance(out[0], Trades)


DIGITS = st.integers(0, 10**12)


@given(
    tick=st.sampled_from(["0.01", "1", "0.05", "0.25", "10", "0.00000001", "0.010", "1E-3", "3"]),
    ticks=DIGITS,
    excess=st.sampled_from(["0", "0.5", "0.0000000001"]),
    zeros=st.integers(0, 5),
)
def test_a_price_is_right_exactly_when_it_is_a_multiple_of_the_tick(
    tick: str, ticks: int, excess: str, zeros: int
) -> None:
    """In any notation; floats would get some of them wrong."""
    with localcontext(prec=200):
        price = Decimal(tick) * ticks + Decimal(tick) * Decimal(excess)
        right = price > 0 and price % Decimal(tick) == 0
        text = format(price, "f") + ("." if "." not in format(price, "f") and zeros else "") + "0" * zeros
    terms = Validator(listed(instrument(tick=tick)), Counter()).terms("coinbase:BTC-USD")
    for _ in range(2):  # the second time from what is remembered
        assert accepts(terms.price, text) == right
        if price > 0:
            assert terms.prices([text, text], "price") == right


def accepts(check: Callable[[Any, str], None], value: Any) -> bool:
    """Tell whether a check lets a value pass."""
    try:
        check(value, "price")
    except BadEvent:
        return False
    return True


ANYTHING = st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)


@given(data=st.data())
def test_no_value_of_any_type_makes_an_operator_raise(make: Any, data: st.DataObject) -> None:
    """What a feed made wrong is refused, not a crash that stops the partition."""
    known = listed(instrument())
    trade = msgspec.structs.replace(
        make.trade(1, 0), **{data.draw(st.sampled_from(["price", "size"])): data.draw(ANYTHING)}
    )
    column = data.draw(st.sampled_from(["bid_prices", "ask_sizes"]))
    book = msgspec.structs.replace(
        make.book("update", 0, [("1", "1")], [("2", "1")]), **{column: [data.draw(ANYTHING)]}
    )
    field = data.draw(st.sampled_from(["bid", "ask_size", "last", "volume_24h", "change_24h", "high_24h"]))
    quote = msgspec.structs.replace(make.quote(0), **{field: data.draw(ANYTHING)})
    cases: list[tuple[Operator[Any], AnyEvent]] = [
        (IngestTrades(known), make.trades(trade, seconds=0)),
        (IngestBooks(known), book),
        (IngestQuotes(known), quote),
    ]
    for operator, event in cases:
        operator.step(operator.start("coinbase:BTC-USD"), event)


def test_statuses_go_on_also_for_a_whole_connection(make: Any) -> None:
    """A status may be about a symbol that nobody lists, `*` among them."""
    status = FeedStatus(
        venue="coinbase", symbol="*", ts_event=make.ts(0), ts_recv=make.ts(0), line="l", kind="connected"
    )
    operator = IngestStatus(listed(instrument()))
    _, out = operator.step(operator.start("coinbase:*"), status)
    assert out == [status]
    _, out = operator.step(operator.start("coinbase:*"), msgspec.structs.replace(status, kind=""))
    assert [letter.reason for letter in out if isinstance(letter, DeadLetter)] == ["unknown_kind"]

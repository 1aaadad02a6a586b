"""Databento's trades, quotes, levels, statuses, definitions, symbols and bars: every rule that the feed names."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import databento_dbn as codec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata import dbn
from marketdata.events import (
    CandleHistory,
    DeadLetter,
    FeedStatus,
    Instrument,
    Quote,
    Trades,
)
from marketdata.feed import Reconnect
from tests.producers.databento_records import (
    ESM4,
    NANO,
    NONE,
    TS,
    bar,
    books,
    definition,
    feed_of,
    fold,
    live,
    metadata,
    order,
    play,
    trade,
)


def level(bid: int = NANO, ask: int = 2 * NANO, bid_size: int = 3, ask_size: int = 4) -> bytes:
    """Return one level of both sides."""
    return dbn.LEVEL_COUNTED.pack(bid, ask, bid_size, ask_size, 1, 1)


@pytest.mark.parametrize(("side", "aggressor"), [("B", "buy"), ("A", "sell"), ("N", "unknown")])
def test_the_side_of_a_trade_is_the_aggressors(side: str, aggressor: str) -> None:
    """Databento, "Trades": Ask for a sell aggressor, Bid for a buy aggressor, None where no side is specified."""
    for record in (trade(side=side), order("T", 0, 1, 1, side=side)):
        (published,) = [event for event in play(feed_of(), record) if isinstance(event, Trades)]
        assert published.trades[0].side == aggressor


def test_trades_of_one_moment_have_ids_of_their_own_in_every_schema() -> None:
    """Time, sequence and place: the same whether they come with orders, with quotes or alone."""
    ids = []
    for kind in ("orders", "quotes", "alone"):
        feed = feed_of()
        records = {
            "orders": [order("T", 0, 1, 1, side="B", flags=0)] * 2,
            "quotes": [trade(dbn.MBP_1, levels=level())] * 2,
            "alone": [trade()] * 2,
        }[kind]
        published = [event for event in play(feed, *records) if isinstance(event, Trades)]
        ids.append([one.trade_id for event in published for one in event.trades])
    assert ids == [[f"{TS}-5-0", f"{TS}-5-1"]] * 3


def test_a_quote_is_told_after_the_event_and_before_a_sampled_trade() -> None:
    """mbp-1 waits for the last record of the event, tbbo has the quote before each trade; no price is no quote."""
    feed = feed_of(metadata(ESM4, schema="mbp-1"))
    assert not [event for event in play(feed, trade(dbn.MBP_1, levels=level())) if isinstance(event, Quote)]
    (quote,) = play(feed, trade(dbn.MBP_1, action="C", flags=dbn.LAST, levels=level(bid=-5 * 10**8, ask=NONE)))
    assert isinstance(quote, Quote)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == ("-0.5", "3", None, None)
    published = play(feed_of(metadata(ESM4, schema="tbbo")), trade(dbn.MBP_1, levels=level()))
    assert [type(event) for event in published] == [Instrument, Quote, Trades]


def test_a_quote_that_may_be_bad_says_so() -> None:
    """F_MAYBE_BAD_BOOK: the quote is published, and not to be trusted."""
    flags = dbn.LAST | dbn.MAYBE_BAD_BOOK
    (quote,) = [
        e for e in play(feed_of(), trade(dbn.MBP_1, action="A", flags=flags, levels=level())) if isinstance(e, Quote)
    ]
    assert (quote.valid, quote.reason) == (False, "gap")


@pytest.mark.parametrize(
    "record",
    [
        trade(price=-NANO), trade(price=0), order("T", 0, -1, 1), order("T", 0, 0, 1),
        trade(dbn.MBP_1, action="A", flags=dbn.LAST, levels=level(bid=0)),
        trade(dbn.MBP_1, action="A", flags=dbn.LAST, levels=level(ask=-NANO)),
        trade(dbn.BBO_1S, price=-NANO, flags=dbn.LAST, levels=level()),
    ],
)  # fmt: skip
def test_only_contracts_have_prices_that_are_not_above_zero(record: bytes) -> None:
    """A share's is a wrong record, which is refused, and asked for again where that can be done."""
    shares = metadata({"AAPL": [(0, 9, "7")]}, dataset="XNAS.ITCH")
    out = play(feed_of(shares), record)
    assert [event.reason for event in out if isinstance(event, DeadLetter)] == ["not_positive"]
    assert not any(isinstance(event, Trades | Quote) for event in out)
    gateway = live()
    gateway.received(shares, TS)
    assert isinstance(gateway.received(record, TS)[-1], Reconnect)
    assert any(isinstance(event, Trades | Quote) for event in play(feed_of(), record))


@pytest.mark.parametrize("kind", [dbn.STATUS, dbn.OHLCV_1M, dbn.SYSTEM, dbn.DEFINITION])
def test_record_of_a_wrong_length_may_have_been_any_kind(kind: int) -> None:
    """Its kind may be what is wrong, so that it was an order: the book is lost."""
    record = order("A", 1, 100, 3, side="B") + b"\0" * 12
    feed = feed_of()
    play(feed, order("R"))
    out = play(feed, bytes([len(record) // 4, kind]) + record[2:])
    assert [event.reason for event in out if isinstance(event, DeadLetter)] == ["bad_length"]
    assert [event.kind for event in books(out)] == ["clear"]


def test_ten_levels_are_told_as_what_changed() -> None:
    """The first record is the book, later ones what differs; a gap in the channel clears it until the next."""
    empty = level(NONE, NONE, 0, 0)

    def ten(*levels: bytes, flags: int = dbn.LAST) -> bytes:
        return trade(dbn.MBP_10, action="A", flags=flags, levels=b"".join(levels) + empty * (10 - len(levels)))

    events = play(
        feed_of(),
        ten(level(5 * NANO, 6 * NANO), level(4 * NANO, 7 * NANO)),
        ten(level(5 * NANO, 6 * NANO, bid_size=9), level(3 * NANO, 7 * NANO)),
    )
    update = books(events)[-1]
    assert (update.bid_prices, update.bid_sizes, update.ask_prices) == (["5", "3", "4"], ["9", "3", "0"], [])
    feed = feed_of()
    play(feed, ten(level()))
    events = play(feed, ten(level(), flags=dbn.LAST | dbn.MAYBE_BAD_BOOK), ten(level()))
    assert [event.kind for event in books(events)] == ["clear", "snapshot"]


@given(st.integers(-(2**63), 2**63 - 2))
@settings(max_examples=50, deadline=None)
def test_a_price_is_exact_and_has_no_zeros_that_say_nothing(price: int) -> None:
    """Whole numbers of 1e-9, to the last digit."""
    text = dbn.Prices().text(price)
    whole, _, part = text.lstrip("-").partition(".")
    assert (-1 if price < 0 else 1) * int(whole + part.ljust(9, "0")) == price
    assert not part.endswith("0")
    assert "." not in text or part


def test_unknown_is_not_no_where_a_status_says_whether_it_trades() -> None:
    """Yes and no count; unknown leaves it to the action, and where that does not say either nothing changes."""
    feed = feed_of()

    def status(action: str, trading: str) -> list[str]:
        number = next(int(one) for one in codec.StatusAction.variants() if one.name == action)
        record = dbn.STATUS_BODY.pack(10, dbn.STATUS, 1, 7, TS, TS, number, 50, 0, ord(trading), ord("~"), ord("~"))
        return [event.kind for event in play(feed, record) if isinstance(event, FeedStatus)]

    assert status("SSR_CHANGE", "~") == []
    assert status("HALT", "~") == ["halted"]
    assert status("SSR_CHANGE", "~") == []
    assert status("NONE", "Y") == ["resumed"]
    assert status("TRADING", "N") == ["halted"]
    assert status("TRADING", "~") == ["resumed"]
    assert status("PRE_OPEN", "N") == ["halted"]
    assert status("TRADING", "?") == []  # a dead letter
    assert feed.counts["dead_letters"] == 1


@pytest.mark.parametrize(
    ("version", "made"), [(1, codec.InstrumentDefMsgV1), (2, codec.InstrumentDefMsgV2), (3, codec.InstrumentDefMsg)]
)
def test_a_definition_of_any_version_makes_an_instrument(version: int, made: Any) -> None:
    """The tick of a future, its currency, and the symbol where no mapping has it."""
    record = definition(made)
    assert len(record) == made.size_hint
    instrument = play(feed_of(metadata(version=version)), record)[-1]
    assert isinstance(instrument, Instrument)
    assert (instrument.symbol, instrument.kind, instrument.tick_size) == ("ESU4", "future", "0.25")
    assert (instrument.base_currency, instrument.quote_currency) == ("ES", "USD")
    assert (instrument.expiry, instrument.strike, instrument.contract_multiplier, instrument.settlement_currency) == (
        TS + dbn.DAY_NS, None, "50", "USD",
    )  # fmt: skip


def test_a_symbol_is_the_mappings_of_its_date() -> None:
    """A continuous contract means another instrument the next day: its book starts again, under the same name."""
    feed = feed_of(metadata({"ES.c.0": [(0, 1, "7"), (1, 2, "8")]}))
    later = TS + dbn.DAY_NS
    first = play(feed, order("R"), order("A", 1, 100, 3, side="B"))
    new_day = order("R", instrument=8, ts=later), order("A", 1, 50, 3, side="B", instrument=8, ts=later)
    second = play(feed, *new_day, ts=later)
    assert {event.symbol for event in books(first + second)} == {"ES.c.0"}
    assert [event.kind for event in books(second)] == ["clear", "snapshot", "update"]
    assert fold(first + second)[0].bids.top() == [("50", "3")]


def test_venues_of_one_dataset_are_told_apart() -> None:
    """The venue stands behind the symbol; where the dataset is the venue's own it does not."""
    feed = feed_of(metadata({"AAPL": [(0, 9, "7")]}, dataset="DBEQ.BASIC"))
    published = play(feed, *(trade(publisher=number) for number in (2, 40, 41, 65_000)))
    assert [event.symbol for event in published if isinstance(event, Trades)] == [
        "AAPL", "AAPL@XCIS", "AAPL@IEXG", "AAPL@65000",
    ]  # fmt: skip
    assert {event.kind for event in published if isinstance(event, Instrument)} == {"equity"}


def test_two_instruments_of_one_name_at_once_do_not_share_a_book() -> None:
    """Asked for by a name that means many, the second has its number behind the name."""
    feed = feed_of(metadata({"ES.FUT": [(0, 9, "7"), (0, 9, "8")]}))
    published = play(feed, order("R"), order("R", instrument=8), order("A", 1, 5, 1, side="B"))
    assert [event.symbol for event in books(published)] == ["ES.FUT", "ES.FUT#8", "ES.FUT"]


def test_a_mapping_of_the_gateway_names_what_follows() -> None:
    """Live streams have no mappings in their metadata, but records."""
    feed = feed_of(metadata())
    raw = dbn.RAW_SYMBOL
    mapping = codec.SymbolMappingMsg(1, 7, TS, raw, "ESM4", raw, "ESM4", 0, 2**64 - 1)
    assert [event.symbol for event in play(feed, bytes(mapping), trade()) if isinstance(event, Trades)] == ["ESM4"]


def test_a_mapping_costs_the_same_however_many_instruments_there_are() -> None:
    """Each connection maps all of them again; of each venue the number then means the new symbol."""
    steps: list[int] = []
    for count in (10, 300):
        feed = feed_of(metadata())
        raw = dbn.RAW_SYMBOL
        for number in range(1, count + 1):
            play(feed, bytes(codec.SymbolMappingMsg(1, number, TS, raw, f"A{number}", raw, f"A{number}", 0, 2**64 - 1)))
            play(feed, *(order("R", instrument=number, publisher=publisher) for publisher in (2, 3)))
        mapping = bytes(codec.SymbolMappingMsg(1, 7, TS, raw, "B7", raw, "B7", TS, 2**64 - 1))
        lines = Counter[str]()

        def count_lines(_: object, event: str, __: object, lines: Counter[str] = lines) -> Any:
            lines[event] += 1
            return count_lines

        before = sys.gettrace()
        sys.settrace(count_lines)
        try:
            feed.received(mapping, TS)
        finally:
            sys.settrace(before)
        steps.append(lines["line"])
        published = play(feed, *(order("R", instrument=7, publisher=publisher) for publisher in (2, 3)))
        assert {event.symbol.partition("@")[0] for event in published if isinstance(event, Instrument)} == {"B7"}
        assert len(books(published)) == 2
    assert steps[0] == steps[1]


def test_bars_of_a_file_are_candles_of_history() -> None:
    """One candle each; seconds have no interval of ours, and are counted."""
    feed = feed_of()
    candle = play(feed, bar(dbn.OHLCV_1M), bar(dbn.OHLCV_1S))[-1]
    assert isinstance(candle, CandleHistory)
    assert (candle.opens, candle.highs, candle.lows, candle.closes) == (["1"], ["3"], ["0.5"], ["2"])
    assert (candle.interval, candle.volumes, feed.counts["ignored"]) == ("1m", ["12"], 1)

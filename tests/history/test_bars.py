"""Candles made from trades and from shorter candles equal those of the venue, and never overwrite what is better."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from infra.simulator.venues.tape import MINUTE_NS, Tape
from marketdata.events import Candle, Trade
from producers.history.candles import (
    CANDLES_A_RECORD,
    Minutes,
    Name,
    Stored,
    filled,
    final_candle,
    next_revision,
    records,
    roll_up,
)
from producers.venues.kit.history import Span

DAY_NS = 1440 * MINUTE_NS
START = 20_000 * DAY_NS
NAME = Name("coinbase", "BTC-USD", "backfill")


@pytest.fixture(scope="module")
def minutes() -> dict[int, Candle]:
    """The candles of a day's trades."""
    made = Minutes(*NAME)
    for one in Tape(START - DAY_NS).between(START, START + DAY_NS):
        side = "buy" if one.bought else "sell"
        made.add([Trade(trade_id=str(one.number), ts_event=one.ts, price=one.price, size=one.size, side=side)])
    return made.take(START, START + DAY_NS)


@pytest.mark.parametrize(
    ("interval", "length"), [("1m", 1), ("5m", 5), ("15m", 15), ("1h", 60), ("4h", 240), ("1d", 1440)]
)
def test_trades_make_the_candles_that_the_venue_has(minutes: dict[int, Candle], interval: str, length: int) -> None:
    """Prices, sums and counts, and a marker where nothing was traded."""
    made = minutes if interval == "1m" else roll_up(minutes, "1m", interval)
    truth = list(Tape(START - DAY_NS).candles(length * MINUTE_NS, START, START + DAY_NS))
    assert sorted(made) == [one.start for one in truth]
    for one in truth:
        candle = made[one.start]
        prices = (candle.open, candle.high, candle.low, candle.close)
        assert prices == ((one.open, one.high, one.low, one.close) if one.trades else (None,) * 4)
        sums = (candle.volume, candle.quote_volume, candle.buy_volume)
        expected = (one.volume, one.quote_volume, one.buy_volume)
        assert [Decimal(each or -1) for each in sums] == list(map(Decimal, expected))
        assert candle.trades == one.trades


def made_of(*trades: Trade) -> list[tuple[str | None, str | None, str, int | None]]:
    """Return open and close, volume and trades of two minutes."""
    made = Minutes(*NAME)
    made.add(trades)
    found = made.take(START, START + 2 * MINUTE_NS)
    return [(one.open, one.close, one.volume, one.trades) for one in found.values()]


def one_of(name: str, at_s: int, price: str, action: str = "new", original: str = "") -> Trade:
    """Return a trade, or what amends one."""
    return Trade(trade_id=name, ts_event=START + at_s * 10**9, price=price, size="2", side="buy", action=action,
                 original_id=original)  # fmt: skip


def test_corrections_and_cancels_change_the_minute_of_the_trade_that_they_amend() -> None:
    """Whichever comes first, also one after the other, whenever they arrived themselves."""
    trades = [one_of("a", 1, "5"), one_of("b", 2, "6"), one_of("c", 3, "7")]
    assert made_of(*trades) == [("5", "7", "6", 3), (None, None, "0", 0)]
    cancel, correct = one_of("c", 70, "7", "cancel"), one_of("d", 80, "4", "correct", "a")
    again, same = one_of("e", 81, "3", "correct", "d"), one_of("e", 82, "2", "correct")
    for all_of_them in ([*trades, cancel, correct], [cancel, correct, *trades]):
        assert made_of(*all_of_them) == [("4", "6", "4", 2), (None, None, "0", 0)]
    assert made_of(*trades, correct, again, same) == [("2", "7", "6", 3), (None, None, "0", 0)]
    assert made_of(*trades, correct, one_of("d", 83, "4", "cancel")) == [("6", "7", "4", 2), (None, None, "0", 0)]
    cancels = [one_of(name, 70, "1", "cancel") for name in "abc"]
    assert made_of(*trades, *cancels) == [(None, None, "0", 0)] * 2


def test_an_amendment_of_a_minute_that_was_taken_changes_no_other() -> None:
    """Its trade is not here any more; a later one with the same id is another trade."""
    made = Minutes(*NAME)
    made.add([one_of("a", 1, "5")])
    made.take(START, START + MINUTE_NS)
    made.add([one_of("a", 61, "5", "cancel"), one_of("b", 62, "6")])
    assert made.take(START + MINUTE_NS, START + 2 * MINUTE_NS)[START + MINUTE_NS].trades == 1
    made.add([one_of("a", 121, "7")])
    assert made.take(START + 2 * MINUTE_NS, START + 3 * MINUTE_NS)[START + 2 * MINUTE_NS].trades == 1


def test_what_is_missing_is_no_marker_and_makes_no_longer_candle(minutes: dict[int, Candle]) -> None:
    """A span that the venue does not have stays missing, in the hour too."""
    gone = Span(START + 61 * MINUTE_NS, START + 62 * MINUTE_NS, "too_old")
    kept = {start: candle for start, candle in minutes.items() if candle.open is not None and start != gone.start}
    minutes = filled(NAME, "1m", kept, (START, START + 180 * MINUTE_NS), [gone])
    assert sorted(minutes) == [
        start for start in sorted(minutes) if start < START + 180 * MINUTE_NS and start != gone.start
    ]
    assert sorted(roll_up(minutes, "1m", "1h")) == [START, START + 120 * MINUTE_NS]


def test_neighbours_share_a_record_and_revisions_do_not(minutes: dict[int, Candle]) -> None:
    """A record has one interval and one revision, and at most a day of minutes."""
    candles = list(minutes.values())
    assert [len(one.opens) for one in records(candles, "x", START)] == [CANDLES_A_RECORD]
    candles[700] = msgspec.structs.replace(candles[700], revision=1)
    parts = records(candles[:-1], "x", START)
    assert [(len(one.opens), one.revision) for one in parts] == [(700, 0), (1, 1), (738, 0)]
    assert [one.start for one in parts] == [START, START + 700 * MINUTE_NS, START + 701 * MINUTE_NS]


def test_a_sum_with_an_unknown_part_is_unknown() -> None:
    """Unknown is null, zero is zero: a minute without trades adds nothing, one without a count hides the sum."""
    known = msgspec.structs.replace(
        final_candle(NAME, "1m", START), open="1", high="1", low="1", close="1", volume="5", quote_volume="5", trades=2
    )
    parts = {START + place * MINUTE_NS: final_candle(NAME, "1m", START + place * MINUTE_NS) for place in range(5)}
    (counted,) = roll_up(parts | {START: known}, "1m", "5m").values()
    assert (counted.volume, counted.quote_volume, counted.buy_volume, counted.trades) == ("5", "5", "0", 2)
    uncounted = msgspec.structs.replace(known, start=START + MINUTE_NS, buy_volume=None, trades=None)
    (partly,) = roll_up(parts | {START: known, START + MINUTE_NS: uncounted}, "1m", "5m").values()
    assert (partly.volume, partly.quote_volume, partly.buy_volume, partly.trades) == ("10", "10", None, None)


def stored(**changes: Any) -> Stored:
    """Return a stored candle of two trades."""
    fields: dict[str, Any] = {
        "interval": "1m", "start_ns": START, "state": "final", "revision": 3, "valid": True, "reason": "",
        "open": "1", "high": "2", "low": "1", "close": "2", "volume": "5", "quote_volume": "0", "buy_volume": "0",
        "trades": 2,
    }  # fmt: skip
    return Stored(**(fields | changes))


CANDLE = msgspec.structs.replace(
    final_candle(NAME, "1m", START), open="1.0", high="2", low="1", close="2", volume="5", trades=2
)
MORE = msgspec.structs.replace(CANDLE, volume="7", trades=3)


@pytest.mark.parametrize(
    ("candle", "known", "revision"),
    [
        (CANDLE, None, 0),
        (CANDLE, stored(), None),  # the same in other digits
        (MORE, stored(), 4),  # a trade that was missed
        (CANDLE, stored(volume="7", trades=3), None),  # the venue knows less than we do
        (msgspec.structs.replace(MORE, trades=0), stored(), None),  # the venue's own candle, uncounted
        (final_candle(NAME, "1m", START), stored(), None),
        (CANDLE, stored(valid=False, reason="gap"), 4),
        (final_candle(NAME, "1m", START), stored(valid=False, reason="gap", trades=0), 4),
        (CANDLE, stored(valid=False, reason="halted", trades=0), None),
        (CANDLE, stored(state="open", valid=False, reason="gap"), None),
        (CANDLE, stored(valid=False, reason="amended", trades=3), 4),
    ],
)
def test_history_replaces_only_what_is_missing_invalid_or_poorer(
    candle: Candle, known: Stored | None, revision: int | None
) -> None:
    """A valid live candle is only replaced by one of more trades; a halt and an open candle are left alone."""
    assert next_revision(candle, known) == revision


@pytest.mark.parametrize("candle", [CANDLE, final_candle(NAME, "1m", START)])
def test_a_candle_whose_trades_were_amended_later_is_replaced_by_fewer_or_none(candle: Candle) -> None:
    """Even by the same numbers, so that it is newer than the amendment; never a halt, nor one that is open."""
    assert next_revision(candle, stored(volume="7", trades=3), changed=True) == 4
    assert next_revision(CANDLE, stored(), changed=True) == 4
    assert next_revision(candle, stored(valid=False, reason="halted", trades=0), changed=True) is None
    assert next_revision(candle, stored(state="open"), changed=True) is None

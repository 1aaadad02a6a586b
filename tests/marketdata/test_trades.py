"""Bars, rolling medians, keys and loops over trades give exactly the same results compiled and in plain Python."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata import compiled, plain_keys, plain_ohlcv, plain_prices, plain_window
from marketdata.clock import AHEAD_NS_MAX, TS_MIN
from marketdata.events import CONDITIONS_MAX, EXCLUSIONS, HIGH_LOW, OPEN_CLOSE, VOLUME, Trade

# Without a C compiler there is no compiled code to test.
BARS: list[Any] = [plain_ohlcv.Bar] if compiled.trades is None else [plain_ohlcv.Bar, compiled.trades.Bar]
WINDOWS: list[Any] = [plain_window.Window] if compiled.trades is None else [plain_window.Window, compiled.trades.Window]
SETS: list[Any] = [plain_keys.KeySet] if compiled.trades is None else [plain_keys.KeySet, compiled.trades.KeySet]
NEEDS_COMPILED = pytest.mark.skipif(compiled.trades is None, reason="nothing is compiled here")

DIGITS = st.integers(0, 10**20) | st.integers(0, 200) | st.integers(10**17, 10**18 + 10)
ODD = ["0", "-0", "00.10", "1.", ".5", "1e3", "-2.5E-7", "0.000000000000000001", "0.0000000000000000001", "9" * 30]


@st.composite
def decimals(draw: st.DrawFn, *, positive: bool = False) -> str:
    """Return a decimal as venues write them: of any length, with zeros at its ends, some with an exponent."""
    if draw(st.integers(0, 9)) == 0:
        text = draw(st.sampled_from(ODD))
    else:
        places = draw(st.integers(0, 20))
        digits = str(draw(DIGITS)).zfill(places + 1)
        text = (digits[:-places] + "." + digits[-places:] if places else digits) + draw(
            st.sampled_from(["", "", "0", "000"] if places else [""])
        )
        text = draw(st.sampled_from(["", "", "-"])) + text
    return text.removeprefix("-") if positive else text


# Any set of exclusions, in any order.
EXCLUDED = st.lists(st.sampled_from(EXCLUSIONS), max_size=3, unique=True).map(tuple)


@st.composite
def trades(draw: st.DrawFn) -> Trade:
    """Return a trade of a few moments, with a number or another id."""
    return Trade(
        trade_id=draw(st.integers(0, 20).map(str) | st.sampled_from(["a", "007", "999999999999999999", "1" * 19])),
        ts_event=draw(st.integers(100, 110)),
        price=draw(decimals()),
        size=draw(decimals(positive=True)),
        side=draw(st.sampled_from(["buy", "sell", "unknown"])),
        excluded_from=draw(st.just(()) | EXCLUDED),
    )


def naive(some: list[Trade]) -> list[Decimal | None]:
    """Return open, high, low, close, volume and cost of trades as the definition says, from sorted lists."""
    ordered = sorted(some, key=lambda one: (one.ts_event, plain_ohlcv.order_of(one.trade_id)))
    ends = [Decimal(one.price) for one in ordered if OPEN_CLOSE not in one.excluded_from]
    prices = [Decimal(one.price) for one in some if HIGH_LOW not in one.excluded_from]
    counted = [one for one in some if VOLUME not in one.excluded_from]
    with localcontext(prec=500):
        volume = sum((Decimal(one.size) for one in counted), Decimal(0))
        cost = sum((Decimal(one.price) * Decimal(one.size) for one in counted), Decimal(0))
    first, last = (ends[0], ends[-1]) if ends else (None, None)
    return [first, max(prices, default=None), min(prices, default=None), last, volume, cost]


def bar_of(kind: Any, some: list[Trade]) -> Any:
    """Return a bar of trades."""
    bar = kind(some[0])
    for trade in some[1:]:
        bar.add_trade(trade)
    return bar


@given(some=st.lists(trades(), min_size=1, max_size=12), data=st.data())
@settings(max_examples=150)
def test_a_bar_is_the_same_compiled_and_plain_after_any_operations(some: list[Trade], data: st.DataObject) -> None:
    """Trade by trade, merged from parts, copied, and restored from a checkpoint: the same prices and exact sums."""
    cut = data.draw(st.integers(1, len(some)))
    again = data.draw(st.sampled_from(some))
    packed = []
    for kind in BARS:
        whole = bar_of(kind, some)
        parts = bar_of(kind, some[:cut])
        if some[cut:]:
            parts.add(kind.unpack(bar_of(kind, some[cut:]).pack()))
        restored = kind.unpack(whole.pack()).copy()
        assert [None if text is None else Decimal(text) for text in whole.figures()[:6]] == naive(some)
        assert not any("e" in text.lower() for text in whole.figures() if text is not None)
        for bar in (whole, parts, restored):
            assert bar.trades == sum(VOLUME not in one.excluded_from for one in some)
            assert bar.items == sum(not one.updates_nothing for one in some)
            assert [bar.is_inner(one) for one in some] == [whole.is_inner(one) for one in some]
            bar.subtract(again)
            bar.add_trade(again)
            bar.amended = True
        assert whole.pack() == parts.pack() == restored.pack() == kind.unpack(whole.pack()).pack()
        assert whole.figures() == parts.figures() == restored.figures()
        packed.append((whole.pack(), whole.figures(), [whole.is_between(one.price) for one in some]))
    assert all(one == packed[0] for one in packed)


@given(some=st.lists(trades(), min_size=1, max_size=8), one=trades(), excluded=EXCLUDED)
def test_an_excluded_trade_never_changes_what_it_is_excluded_from(
    some: list[Trade], one: Trade, excluded: tuple[str, ...]
) -> None:
    """Whatever its price, size and time are, and whether it comes first or last."""
    one = msgspec.structs.replace(one, excluded_from=excluded)
    for kind in BARS:
        before, after, first = bar_of(kind, some), bar_of(kind, [*some, one]), bar_of(kind, [one, *some])
        for changed in (after, first):
            (o, h, low, c, *sums), (o_new, h_new, low_new, c_new, *sums_new) = before.figures(), changed.figures()
            if VOLUME in excluded:
                assert (sums, before.trades) == (sums_new, changed.trades)
            if HIGH_LOW in excluded:
                assert (h, low) == (h_new, low_new)
            if OPEN_CLOSE in excluded:
                assert (o, c) == (o_new, c_new)


def test_a_checkpoint_from_before_trades_had_exclusions_is_read() -> None:
    """It has one value less: every trade of it was counted."""
    for kind in BARS:
        packed = bar_of(kind, [Trade(trade_id="1", ts_event=1, price="1.5", size="2", side="buy")]).pack()
        assert kind.unpack(packed[:-1]).pack() == packed


@given(some=st.lists(trades(), min_size=1, max_size=6), start=st.integers(99, 105), length=st.integers(0, 12))
def test_trades_are_added_at_once_or_not_at_all(some: list[Trade], start: int, length: int) -> None:
    """Either all are new and within the interval, or the bar is unchanged."""
    changed = [msgspec.structs.replace(one, action="cancel") if one.side == "unknown" else one for one in some]
    for batch in (some, changed):
        fits = all(one.action == "new" and start <= one.ts_event < start + length for one in batch)
        for kind in BARS:
            bar, before = bar_of(kind, some), bar_of(kind, some).pack()
            newest = bar.add_new(tuple(batch), start, start + length)
            assert newest == (max(one.ts_event for one in batch) if fits else -1)
            assert bar.pack() == (bar_of(kind, [*some, *batch]).pack() if fits else before)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), size=st.integers(1, 9), data=st.data())
def test_the_rolling_median_equals_the_naive_one(values: list[float], size: int, data: st.DataObject) -> None:
    """Sorted afresh each time, over the last values only; also after a checkpoint."""
    restart = data.draw(st.integers(0, len(values)))
    for kind in WINDOWS:
        window = kind(size)
        for number, value in enumerate(values, start=1):
            if number == restart:
                packed = window.pack()
                window = kind.unpack(packed)
                assert window.pack() == packed == [size, values[: number - 1][-size:]]
            window.push(value)
            last = sorted(values[:number][-size:])
            middle = len(last) // 2
            assert len(window) == len(last)
            assert window.median() == (last[middle] if len(last) % 2 else (last[middle - 1] + last[middle]) / 2)


@pytest.mark.parametrize("kind", WINDOWS)
def test_invalid_data_is_not_read_as_a_window(kind: Any) -> None:
    """There are at most as many values as its size; an empty window has no median."""
    with pytest.raises(ValueError, match="3 values in a window of 2"):
        kind.unpack([2, [1.0, 2.0, 3.0]])
    with pytest.raises(IndexError):
        kind(3).median()


KEYS = st.binary(min_size=16, max_size=16) | st.integers(1, 40).map(lambda n: n.to_bytes(16, "big"))


@given(keys=st.lists(KEYS.filter(any), max_size=300))
def test_a_set_of_keys_contains_what_was_added(keys: list[bytes]) -> None:
    """Whatever their bytes are, also after it was packed; compiled and plain pack the same."""
    packed = []
    for kind in SETS:
        found, naive = kind(), set[bytes]()
        for key in keys:
            assert (key in found) == (key in naive)
            found.add(key)
            naive.add(key)
            assert key in found
        restored = kind.unpack(found.pack())
        assert len(found) == len(restored) == found.count == restored.count == len(naive)
        assert all(key in restored for key in keys)
        assert restored.pack() == found.pack() == b"".join(sorted(naive))
        more = bytes([255] * 16)
        restored.add(more)
        assert more in restored
        packed.append((found.pack(), restored.pack()))
    assert all(one == packed[0] for one in packed)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("packed", [b"x", bytes(16), b"x" * 16 + bytes(16)])
def test_invalid_data_is_not_read_as_a_set_of_keys(kind: Any, packed: bytes) -> None:
    """A key has 16 bytes that are not all zero."""
    with pytest.raises(ValueError, match="16 bytes"):
        kind.unpack(packed)


@NEEDS_COMPILED
@given(some=st.lists(trades(), max_size=6), before=st.none() | decimals(), minute=st.integers(99, 111), data=st.data())
def test_prices_are_surveyed_the_same_compiled_and_plain(
    some: list[Trade], before: str | None, minute: int, data: st.DataObject
) -> None:
    """Exactly the same floats, indexes and decimal places."""
    some = [msgspec.structs.replace(one, action=data.draw(st.sampled_from(["new", "new", "cancel"]))) for one in some]
    expected = plain_prices.survey(tuple(some), before, minute, 1.25)
    assert compiled.trades.survey(tuple(some), before, minute, 1.25) == expected


@NEEDS_COMPILED
@given(column=st.lists(decimals() | st.sampled_from(["", "-", "1,2", "٣", " 1", "9" * 31, f"1.{'5' * 33}", 5, None])))
def test_columns_are_usual_for_the_compiled_code_when_they_are_for_the_plain(column: list[Any]) -> None:
    """Prices of either sign, sizes not below zero."""
    assert compiled.trades.are_usual_prices(column) == plain_prices.are_usual_prices(column)
    assert compiled.trades.are_usual_sizes(column) == plain_prices.are_usual_sizes(column)


@NEEDS_COMPILED
@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"price": "-1.50"}, True),
        ({"size": "0.00000001"}, True),
        ({"side": "unknown"}, True),
        ({"trade_id": "12"}, False),
        ({"trade_id": "010"}, False),
        ({"trade_id": "10 "}, False),
        ({"trade_id": "\uff11\uff10"}, False),
        ({"trade_id": 10}, False),
        ({"trade_id": ""}, False),
        ({"price": "1e2"}, False),
        ({"price": ".5"}, False),
        ({"price": "5."}, False),
        ({"price": "1" * 31}, False),
        ({"price": None}, False),
        ({"size": "0.0"}, False),
        ({"size": "-1"}, False),
        ({"side": "BUY"}, False),
        ({"action": "cancel"}, False),
        ({"original_id": "9"}, False),
        ({"ts_event": TS_MIN - 1}, False),
        ({"ts_event": TS_MIN + 999}, False),
        ({"ts_event": TS_MIN + 10**9 + AHEAD_NS_MAX + 1}, False),
        ({"ts_event": 2**63}, False),
        ({"ts_event": -(2**200)}, False),
        ({"ts_event": -1}, False),
        ({"ts_event": "noon"}, False),
        ({"ts_event": True}, False),
        ({"conditions": ("@", " "), "excluded_from": ("open_close", "volume")}, True),
        ({"conditions": ("@",) * (CONDITIONS_MAX + 1)}, False),
        ({"conditions": ("",)}, False),
        ({"conditions": ("a\x00",)}, False),
        ({"conditions": ("\uff11",)}, False),
        ({"conditions": (7,)}, False),
        ({"conditions": ["@"]}, False),
        ({"conditions": ("x" * 65,)}, False),
        ({"excluded_from": ("price",)}, False),
        ({"excluded_from": ("volume", "volume")}, False),
        ({"excluded_from": ["volume"]}, False),
    ],
)
def test_only_valid_consecutive_trades_take_the_fast_path(change: dict[str, Any], fits: bool) -> None:
    """With any other trade nothing changes, and the general path handles all of them."""
    add: Callable[..., int] = compiled.trades.add_consecutive
    first = Trade(trade_id="9", ts_event=TS_MIN + 10**9, price="1", size="1", side="buy")
    second = msgspec.structs.replace(first, **({"trade_id": "10", "ts_event": TS_MIN + 10**9 + 5} | change))
    ends = array("q", [3, 8])
    together = compiled.trades.are_usual_trades((first, second), TS_MIN + 10**9, TS_MIN + 10**9)
    assert together == (fits or change in ({"trade_id": "12"}, {"trade_id": "010"}, {"trade_id": "10 "},
                                           {"ts_event": TS_MIN + 999}))  # fmt: skip
    newest = add((first, second), TS_MIN + 10**9, TS_MIN + 10**9, TS_MIN + 1000, ends)
    assert (newest >= 0) == fits
    assert newest == (second.ts_event if fits else -1)
    assert list(ends) == [3, 10 if fits else 8]
    for ts_event, ts_recv in ((0, TS_MIN), (TS_MIN + 10**9, 0), (TS_MIN, 2**63), ("1", TS_MIN), (TS_MIN, None)):
        if not (type(ts_recv) is int and ts_recv == 2**63):
            assert add((), ts_event, ts_recv, 0, ends) == -1

"""Corrections and cancels: candles equal a recomputation from the amended trades."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.simulator.venues.alpaca.server import AlpacaExchange, encode
from marketdata.clock import SECOND_NS
from marketdata.events import EXCLUSIONS, HIGH_LOW, OPEN_CLOSE, VOLUME, Candle, DeadLetter, Trade, Trades
from marketdata.intervals import INTERVALS
from producers.venues.alpaca.feed import AlpacaFeed
from stream_apps.operators.candles import KEEP_NS, Candles, Limits
from stream_apps.operators.ingest_trades import IngestTrades

Run = Callable[..., list[list[Any]]]
FROM: dict[str, Any] = {"venue": "alpaca", "symbol": "AAPL", "line": "alpaca/0"}
PATIENT = partial(Candles, Limits(silence_ns=3600 * SECOND_NS))
TINY = partial(Candles, Limits(silence_ns=3600 * SECOND_NS, keep_ns=300 * SECOND_NS, remembered_max=12))


class Truth:
    """A naive model: every trade and amendment received, and candles recomputed from the amended trades."""

    def __init__(self) -> None:
        self.trades: dict[str, Trade] = {}
        self.amendments: dict[str, list[Trade]] = {}

    def take(self, event: Trades) -> None:
        """Record an event."""
        for trade in event.trades:
            if trade.action == "new":
                self.trades.setdefault(trade.trade_id, trade)
            else:
                self.amendments.setdefault(trade.original_id or trade.trade_id, []).append(trade)

    def standing(self) -> list[Trade]:
        """Return the amended trades, in the order of their first arrival."""
        found: dict[str, Trade] = {}
        for first in self.trades.values():
            trade = first
            changes = list(self.amendments.get(trade.trade_id, ()))
            while changes:
                change = changes.pop(0)
                if change.action == "cancel":
                    break
                if change.trade_id != trade.trade_id:
                    changes = list(self.amendments.get(change.trade_id, ()))
                side = trade.side if change.side == "unknown" else change.side
                trade = msgspec.structs.replace(change, ts_event=first.ts_event, side=side)
            else:
                found.setdefault(trade.trade_id, trade)
        return list(found.values())

    def candle(self, interval: str, start: int) -> tuple[Any, ...]:
        """Return the numbers of a candle."""
        inside = [one for one in self.standing() if start <= one.ts_event < start + INTERVALS[interval]]
        ordered = sorted(inside, key=lambda one: (one.ts_event, _number(one)))
        ends = [Decimal(one.price) for one in ordered if OPEN_CLOSE not in one.excluded_from]
        prices = [Decimal(one.price) for one in inside if HIGH_LOW not in one.excluded_from]
        counted = [one for one in inside if VOLUME not in one.excluded_from]
        costs = [Decimal(one.price) * Decimal(one.size) for one in counted]
        bought = [Decimal(one.size) for one in counted if one.side == "buy"]
        volume = sum(Decimal(one.size) for one in counted)
        extremes = (max(prices, default=None), min(prices, default=None))
        first, final = (ends[0], ends[-1]) if ends else (None, None)
        return (first, *extremes, final, volume, sum(costs), sum(bought), len(counted))


def _number(trade: Trade) -> int:
    return int(trade.trade_id) if trade.trade_id.isdigit() else -1


def numbers(candle: Candle) -> tuple[Any, ...]:
    """Return the numbers of a published candle."""
    texts = (candle.open, candle.high, candle.low, candle.close, candle.volume, candle.quote_volume, candle.buy_volume)
    return (*(None if text is None else Decimal(text) for text in texts), candle.trades)


def letters(published: list[list[Any]]) -> list[str]:
    """Return the reasons of all dead letters."""
    return [event.reason for out in published for event in out if isinstance(event, DeadLetter)]


def last(published: list[list[Any]], interval: str = "1m", at: int = 0) -> Candle:
    """Return the newest state of the candle of an interval with the number `at`."""
    found: list[Candle] = [event for out in published for event in out if isinstance(event, Candle)]
    starts = sorted({candle.start for candle in found if candle.interval == interval})
    return [candle for candle in found if (candle.interval, candle.start) == (interval, starts[at])][-1]


@st.composite
def streams(draw: st.DrawFn, t0: int) -> list[Trades]:
    """Draw trades, their amendments (some of trades that arrive later or never), heartbeats, and repairs of both."""
    frames: list[Trades] = []
    ids: list[str] = []
    now, prefix = t0, draw(st.sampled_from(["", "x"]))

    def trade(name: str, ts: int, action: str = "new", original_id: str = "") -> Trade:
        side = draw(st.sampled_from(["buy", "sell", "unknown"]))
        price, size = (str(draw(st.integers(1, 6))) for _ in range(2))
        excluded = draw(
            st.sampled_from([(), (), (), ("high_low", "open_close"), ("open_close",), ("volume",), EXCLUSIONS])
        )
        return Trade(trade_id=name, ts_event=ts, price=price, size=size, side=side, action=action,
                     original_id=original_id, excluded_from=excluded)  # fmt: skip

    for number in range(draw(st.integers(5, 40))):
        now += draw(st.sampled_from([0, 1, 10, 40])) * SECOND_NS
        kind = draw(st.sampled_from(["new", "new", "new", "late", "beat", "cancel", "correct", "change"]))
        kind = kind if frames else "new"  # a repair before the first live event belongs to history
        name = f"{prefix}{number}"
        ts, origin = now, "live"
        batch: tuple[Trade, ...] = ()
        if kind in {"new", "late"}:
            ts -= draw(st.integers(0, 90)) * SECOND_NS if kind == "late" else 0
            origin = draw(st.sampled_from(["live", "repair"])) if kind == "late" else "live"
            batch = (trade(name, ts),)
            ids.append(name)
        elif kind != "beat":
            # Of a trade that has arrived, or that arrives later on a slower line, or never.
            original = draw(st.sampled_from([*ids[-15:], f"{prefix}{number + 2}"]))
            own = name if kind == "correct" else original
            action = "cancel" if kind == "cancel" else "correct"
            batch = (trade(own, ts, action=action, original_id=original if kind == "correct" else ""),)
            if kind == "correct":
                ids.append(name)
        frames.append(Trades(**FROM, ts_event=ts, ts_recv=now, origin=origin, trades=batch))
    return [*frames, Trades(**FROM, ts_event=now + 100 * SECOND_NS, ts_recv=now)]


@given(data=st.data())
@settings(max_examples=60)
def test_a_valid_candle_equals_the_one_of_the_amended_trades(data: st.DataObject, run: Run, make: Any) -> None:
    """For any order of amendments, evictions and restarts; revisions only rise."""
    frames = data.draw(streams(make.ts(30)))
    seen: set[tuple[str, str]] = set()
    kept: list[Trades] = []
    for frame in frames:  # impossible inputs: duplicates, and amendments of a cancelled trade
        keep = [one for one in frame.trades if not _is_again(one, seen)]
        kept.append(msgspec.structs.replace(frame, trades=tuple(keep)))
    factory = data.draw(st.sampled_from([PATIENT, TINY]))
    published = run(factory, kept, restarts=data.draw(st.lists(st.integers(1, len(kept)), max_size=2)))
    truth, revisions = Truth(), Counter[tuple[str, int]]()
    for frame, out in zip(kept, published, strict=True):
        truth.take(frame)
        for candle in out:
            if isinstance(candle, Candle):
                if candle.valid:
                    assert numbers(candle) == truth.candle(candle.interval, candle.start), candle
                place = (candle.interval, candle.start)
                assert candle.revision >= revisions[place]
                revisions[place] = candle.revision + (candle.state != "open")


def _is_again(one: Trade, seen: set[tuple[str, str]]) -> bool:
    if one.action == "new":
        return ("by", one.trade_id) in seen or _added(seen, ("new", one.trade_id))
    original = one.original_id or one.trade_id
    if ("gone", original) in seen:
        return True
    if one.action == "cancel" or one.original_id:
        seen.add(("gone", original))
    if one.original_id:
        seen.add(("by", one.trade_id))
    return False


def _added(seen: set[tuple[str, str]], what: tuple[str, str]) -> bool:
    before = what in seen
    seen.add(what)
    return before


def amend(make: Any, seconds: float, identity: str, action: str, price: str = "1", **more: Any) -> Trades:
    """Return the frame of one amendment."""
    trade = make.trade(identity, seconds, price, action=action, **({"side": "unknown"} | more))
    frame: Trades = make.trades(trade, amendable=True)
    return frame


def minute(make: Any) -> list[Trades]:
    """Return a closed minute of four trades with heartbeats, after another one that makes it complete."""
    beats = [make.heartbeat(second, amendable=True) for second in range(-70, 62, 2)]
    prices = {"a": "5", "b": "9", "c": "6", "d": "7"}
    trades = [
        make.trades(make.trade(name, at + 0.5, price, "2"), amendable=True)
        for at, (name, price) in enumerate(prices.items())
    ]
    return [*sorted([*beats, *trades], key=lambda one: one.ts_event), make.heartbeat(63, amendable=True)]


def test_a_cancel_revises_all_candles_of_its_trade(run: Run, make: Any) -> None:
    """The highest trade is cancelled much later: high and sums are those of the other three, with one revision more."""
    published = run(Candles, [*minute(make), amend(make, 64, "b", "cancel", "9")])
    candle = last(published, at=-1)
    assert (candle.start, candle.state, candle.revision, candle.valid) == (make.ts(0), "revised", 1, True)
    assert numbers(candle) == (5, 7, 5, 7, 6, 36, 6, 3)
    assert not letters(published)
    assert last([[*published[-1]]], "1m") == candle


def test_a_cancel_right_after_its_trade_removes_it_from_every_candle(run: Run, make: Any) -> None:
    """Also if nothing was published in between, and if the trade was corrected before."""
    more = [
        make.trades(make.trade("n", 64, "8", "6"), amendable=True),
        make.trades(make.trade("o", 64.01, "3"), amendable=True),
        amend(make, 64.02, "n", "cancel", "8"),
        amend(make, 64.03, "q", "correct", "2", original_id="p"),
        make.trades(make.trade("p", 64.04, "9"), amendable=True),
        amend(make, 64.05, "q", "cancel", "2"),
        make.heartbeat(130, amendable=True),
    ]
    candle = last(run(PATIENT, [*minute(make), *more]), at=-1)
    assert (candle.start, candle.state, candle.valid) == (make.ts(60), "final", True)
    assert numbers(candle) == (3, 3, 3, 3, 1, 3, 1, 1)


def test_a_correction_counts_at_the_time_of_the_trade_that_it_replaces(run: Run, make: Any) -> None:
    """It arrives a minute later with its own time; a side that it does not state is kept."""
    published = run(Candles, [*minute(make), amend(make, 64, "e", "correct", "4", original_id="d", size="1")])
    candle = last(published, at=-1)
    assert (candle.start, candle.revision) == (make.ts(0), 1)
    assert numbers(candle) == (5, 9, 4, 4, 7, 44, 7, 4)


def test_a_candle_without_any_trade_left_is_an_empty_one(run: Run, make: Any) -> None:
    """It is revised to the marker of an interval without trades."""
    cancels = [amend(make, 64 + at, name, "cancel") for at, name in enumerate("abcd")]
    candle = last(run(Candles, [*minute(make), *cancels]), at=-1)
    assert (candle.revision, candle.valid, candle.open, candle.volume, candle.trades) == (4, True, None, "0", 0)


def test_if_other_trades_are_evicted_only_amending_an_inner_price_keeps_a_candle_valid(run: Run, make: Any) -> None:
    """Sums are always correct; a candle that may have lost its high is invalid, with a reason."""
    for name, price, valid in (("c", "6", True), ("d", "7", False)):
        frames = [*minute(make), amend(make, 64, name, "cancel", price), make.heartbeat(65, amendable=True)]
        published = run(partial(Candles, Limits(remembered_max=2)), frames)
        for interval in ("1m", "5m"):
            candle = last(published, interval, at=-1)
            expected = (3, Decimal(6), valid, "" if valid else "amended")
            assert (candle.trades, Decimal(candle.volume), candle.valid, candle.reason) == expected


def test_a_longer_candle_is_not_recomputed_from_an_uncertain_minute(run: Run, make: Any) -> None:
    """The second of its minutes has lost its close; the first is as it was."""
    more = [make.trades(make.trade(at, 64 + at, price), amendable=True) for at, price in enumerate(["5", "9", "7"])]
    frames = [*minute(make), *more, amend(make, 68, "2", "cancel", "7"), make.heartbeat(69, amendable=True)]
    published = run(partial(Candles, Limits(remembered_max=2)), frames)
    candles = [last(published, "1m", at=-1), last(published, "5m", at=-1)]
    assert [(one.trades, one.valid, one.reason) for one in candles] == [(2, False, "amended"), (6, False, "amended")]


def test_an_amendment_of_an_evicted_trade_is_a_dead_letter_and_its_candles_are_invalid(run: Run, make: Any) -> None:
    """Its time is unknown, so every candle that may contain it is invalid."""
    published = run(partial(Candles, Limits(remembered_max=2)), [*minute(make), amend(make, 64, "a", "cancel")])
    assert letters(published) == ["unknown_original"]
    candle = last(published, at=-1)
    assert (candle.start, candle.revision, candle.valid, candle.reason) == (make.ts(0), 1, False, "amended")


def test_a_repair_closes_gaps_but_does_not_make_amended_candles_valid(run: Run, make: Any) -> None:
    """It only adds trades, so it cannot show which of them were amended."""
    frames = [*minute(make), amend(make, 64, "a", "cancel")]
    whole = make.trades(seconds=60, amendable=True, origin="repair", complete_from=make.ts(-120))
    published = run(partial(Candles, Limits(remembered_max=2)), [*frames, whole])
    candle = last(published, at=-1)
    assert (candle.start, candle.valid, candle.reason) == (make.ts(0), False, "amended")
    assert [one.valid for one in published[-1] if isinstance(one, Candle) and one.interval == "1m"] == [True]


def test_a_candle_that_was_left_to_history_is_never_revised(run: Run, make: Any) -> None:
    """Not even after a restart: history owns it. The longer candle that is still open keeps counting."""
    early = [*minute(make), amend(make, 64, "a", "cancel")]
    later = [
        make.trades(make.trade("late", 10, "3", "2"), seconds=66, amendable=True),
        amend(make, 67, "late", "cancel", "3"),
        make.heartbeat(70, amendable=True, valid=False, reason="gap"),
        make.heartbeat(74, amendable=True),
        make.trades(seconds=76, amendable=True, origin="repair", complete_from=make.ts(-120)),
        make.trades(make.trade("n", 77, "3", "2"), amendable=True),
        *[make.heartbeat(second, amendable=True) for second in range(78, 128, 4)],
    ]
    published = run(partial(Candles, Limits(remembered_max=2)), [*early, *later], restarts=[len(early)])
    found = [[one for one in out if isinstance(one, Candle) and one.start == make.ts(0)] for out in published]
    own = [[one for one in out if one.interval == "1m"] for out in found]
    assert [one.reason for out in own[: len(early)] for one in out if one.state != "open"][-1] == "amended"
    assert not any(own[len(early) :])
    longer = [one for out in found for one in out if one.interval == "5m"][-1]
    assert (longer.trades, longer.reason) == (5, "amended")


def test_amending_a_trade_too_old_to_be_kept_invalidates_only_kept_candles(run: Run, make: Any) -> None:
    """Its minute belongs to history; its day is still open, and becomes invalid."""
    later = KEEP_NS // SECOND_NS + 200
    frames = [*minute(make), make.heartbeat(later, amendable=True), amend(make, later + 1, "b", "cancel", "9")]
    published = run(
        partial(Candles, Limits(silence_ns=KEEP_NS * 2)), [*frames, make.heartbeat(later + 99, amendable=True)]
    )
    assert letters(published) == ["unknown_original"]
    assert last(published, at=-1).valid
    whole = [event for event in published[-1] if isinstance(event, Candle) and event.interval == "1d"]
    assert not any(candle.valid for candle in whole)


def test_a_venues_unexpected_first_amendment_invalidates_every_candle_it_may_concern(run: Run, make: Any) -> None:
    """From then on its trades are remembered."""
    frames = [msgspec.structs.replace(frame, amendable=False) for frame in minute(make)]
    more = [
        amend(make, 64, "b", "cancel"),
        make.trades(make.trade("n", 125, "3"), make.trade("o", 126, "4")),
        amend(make, 127, "o", "cancel"),
        make.heartbeat(190),
    ]
    published = run(Candles, frames + [msgspec.structs.replace(frame, amendable=False) for frame in more])
    assert letters(published) == ["unknown_original"]
    spoilt = [event for event in published[len(frames)] if isinstance(event, Candle) and event.interval == "1m"]
    assert (make.ts(0), False, "amended") in [(one.start, one.valid, one.reason) for one in spoilt]
    counted = [event for out in published for event in out if isinstance(event, Candle) and event.start == make.ts(120)]
    assert (counted[-1].trades, counted[-1].close) == (1, "3")


def test_a_trade_that_counts_only_once_corrected_has_the_place_of_its_arrival(run: Run, make: Any) -> None:
    """Times are equal and ids are no numbers, so the first to arrive opens the candle, whenever it was corrected."""
    uncounted = make.trade("n", 65, "3", excluded_from=EXCLUSIONS)
    frames = [
        *minute(make),
        make.trades(uncounted, make.trade("o", 65, "5"), make.trade("p", 65, "4"), amendable=True),
        amend(make, 67, "q", "correct", "2", original_id="n"),
        make.heartbeat(130, amendable=True),
    ]
    published = run(Candles, frames)
    for candle in (last(published, at=-1), last(published, "5m", at=-1)):
        assert candle.valid
    first = last(published, at=-1)
    assert (first.start, first.open, first.low, first.close, first.trades) == (make.ts(60), "2", "2", "4", 3)


def test_a_candle_whose_only_trade_did_not_count_is_uncertain_once_an_amendment_may_be_of_it(
    run: Run, make: Any
) -> None:
    """The correction of a trade from before trades were remembered: it may count now, in a candle without a bar."""
    uncounted = make.trade("n", 65, "3", excluded_from=EXCLUSIONS)
    frames = [*minute(make), make.trades(uncounted, amendable=True), make.heartbeat(66, amendable=True)]
    more = [amend(make, 67, "m", "correct", "3", original_id="n"), make.heartbeat(130, amendable=True)]
    plain = [msgspec.structs.replace(frame, amendable=False) for frame in [*frames, *more]]
    published = run(Candles, plain)
    assert letters(published) == ["unknown_original"]
    candle = last(published, at=-1)
    assert (candle.start, candle.trades, candle.valid, candle.reason) == (make.ts(60), 0, False, "amended")


def test_a_correction_repeated_by_history_counts_once(run: Run, make: Any) -> None:
    """A repair contains amended trades, so the correction arrives as a new trade, however much later."""
    repaired = make.trades(make.trade("e", 3.5, "4", "1"), amendable=True, origin="repair")
    for later in ([], [make.trades(make.trade(at, 65 + at), amendable=True) for at in range(3)]):
        again = [*minute(make), amend(make, 64, "e", "correct", "4", original_id="d", size="1"), *later, repaired]
        published = run(partial(Candles, Limits(remembered_max=2)), again)
        found = [e for out in published for e in out if isinstance(e, Candle) and e.interval == "1m"]
        assert [candle.trades for candle in found if candle.start == make.ts(0)][-1] == 4


def test_cancelling_a_trade_that_only_history_counts_changes_no_live_candle(run: Run, make: Any) -> None:
    """The minute is before the first event and contains a late trade, but never contained the repaired one."""
    frames = [
        make.heartbeat(70, amendable=True),
        make.trades(make.trade("l", 20, "3"), seconds=71, amendable=True),
        make.trades(make.trade("r", 10, "4"), amendable=True, origin="repair"),
        amend(make, 72, "r", "cancel", "4"),
        make.trades(make.trade("m", 30, "5"), seconds=73, amendable=True),
    ]
    found = [e for out in run(Candles, frames) for e in out if isinstance(e, Candle) and e.start == make.ts(0)]
    assert [(one.trades, one.high) for one in found if one.interval == "1m"] == [(1, "3"), (2, "5")]


def test_a_day_of_the_simulated_exchange_equals_that_of_its_amended_trades(make: Any) -> None:
    """Its messages pass through feed and de-duplication, with corrections and cancels; none is refused."""
    exchange = AlpacaExchange(("AAPL",), keys={}, seed=7)
    exchange.play(1_500, since=make.ts(0), every=SECOND_NS // 5)
    feed, ingest, candles = AlpacaFeed(line="alpaca/0", products=("AAPL",)), IngestTrades(), Candles()
    passed, counted, truth = ingest.start("k"), candles.start("k"), Truth()
    newest: dict[str, Candle] = {}
    for event in feed.received(encode(exchange.published, packed=False), make.ts(3600)):
        if isinstance(event, Trades):
            truth.take(event)
            for good in ingest.step(passed, event)[1]:
                for out in candles.step(counted, good)[1]:
                    assert isinstance(out, Candle)
                    newest[out.interval] = out
    assert candles.counts["amended"] == feed.counts["corrections"] + feed.counts["cancels"] > 0
    _, last_ones = candles.step(counted, Trades(**FROM, ts_event=make.ts(3600), ts_recv=make.ts(3600)))
    newest |= {out.interval: out for out in last_ones if isinstance(out, Candle)}
    day = newest["1d"]
    assert numbers(day) == truth.candle("1d", day.start)

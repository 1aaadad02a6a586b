"""De-duplication: an id is new exactly once, memory is bounded, and trades that may have passed are never repeated."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.events import AnyEvent, DeadLetter, Trade, Trades
from marketdata.operator import Lost
from marketdata.state import pack_state, unpack_state
from stream_apps.operators import trade_ids
from stream_apps.operators.ingest_trades import IngestTrades
from stream_apps.operators.trade_ids import Coverage, NumberRanges, SeenIds, as_number, key_of, no_ids

Run = Callable[..., list[list[AnyEvent]]]

UUIDS = [str(uuid.UUID(int=number * 0x1234567890ABCDEF1234567)) for number in range(1, 12)]
IDS = (
    st.integers(0, 40).map(str)
    | st.sampled_from(["007", "7a", "", "٣", "²", "abc", "10000000000000000000000", "-1", "999999999999999999"])
    | st.sampled_from([*UUIDS, *(text.upper() for text in UUIDS), str(uuid.UUID(int=0)), UUIDS[0] + "x", "\ud800"])
)


@given(ids=st.lists(IDS, max_size=80))
def test_an_id_is_new_exactly_once(ids: list[str]) -> None:
    """In any order and form, also with a checkpoint at every step."""
    seen, naive = no_ids(), set()
    for identity in ids:
        assert (seen.add(identity, 1) == "new") == (identity not in naive)
        naive.add(identity)
        packed = pack_state(seen)
        seen = unpack_state(packed, SeenIds)
        assert pack_state(seen) == packed
    ranges = list(zip(seen.numbers.starts, seen.numbers.ends, strict=True))
    assert all(end < start - 1 for (_, end), (start, _) in pairwise(ranges))
    assert {n for start, end in ranges for n in range(start, end + 1)} == {as_number(one) for one in naive} - {-1}


def test_different_ids_have_different_keys() -> None:
    """A UUID's key is its own bytes; the same digits in another notation are another id."""
    assert key_of(UUIDS[0]) == uuid.UUID(UUIDS[0]).bytes
    zeros = str(uuid.UUID(int=0))
    spellings = [UUIDS[3], UUIDS[3].upper(), UUIDS[3].replace("-", ""), "{" + UUIDS[3] + "}", zeros, "", "1", "01"]
    assert len({key_of(one) for one in spellings}) == len(spellings)
    assert all(any(key_of(one)) for one in spellings)


def test_ranges_of_uneven_columns_are_not_read() -> None:
    """There are as many ends as starts."""
    with pytest.raises(ValueError, match="starts as ends"):
        NumberRanges.unpack([-1, bytes(8), bytes(16)])


def test_consecutive_numbers_need_little_memory() -> None:
    """Ten thousand trades in order are one range, and a few bytes."""
    seen = no_ids()
    for n in range(100_000, 110_000):
        assert seen.add(str(n), n) == "new"
    assert (list(seen.numbers.starts), list(seen.numbers.ends)) == ([100_000], [109_999])
    assert len(pack_state(seen)) < 200


def test_the_memory_of_a_busy_symbol_stays_small() -> None:
    """For any ids: 64 KB for each kind in a checkpoint."""
    seen = no_ids()
    for n in range(20_000):
        seen.add(str(1_000_000 + 2 * n), n)
        seen.add(str(uuid.UUID(int=n + 1)), n)
        seen.add_history(f"h{n}", n, passed=False)
    assert len(pack_state(seen)) < 3 * 66_000


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the memory small: three ranges, and four keys in two generations."""
    monkeypatch.setattr(trade_ids, "RANGES_MAX", 3)
    monkeypatch.setattr(trade_ids, "KEYS_MAX", 4)


@pytest.mark.usefixtures("few")
def test_numbers_below_the_memory_are_too_old() -> None:
    """Ids with gaps evict the lowest range; a number below may be new or not."""
    numbers = NumberRanges()
    assert [numbers.add(n) for n in (10, 20, 30, 40)] == ["new"] * 4
    assert [numbers.add(n) for n in (5, 10, 20, 15)] == ["too_old", "too_old", "duplicate", "new"]


@pytest.mark.usefixtures("few")
def test_an_evicted_key_is_never_new_again() -> None:
    """A trade as old as the newest evicted one may have passed; a newer one cannot have."""
    seen = no_ids()
    assert [seen.add(name, ts) for ts, name in enumerate("abcdef", start=1)] == ["new"] * 6
    assert [seen.add("a", 1), seen.add("z", 2)] == ["too_old", "too_old"]
    assert [seen.add("f", 6), seen.add("d", 4), seen.add("z", 3)] == ["duplicate", "duplicate", "new"]


def test_keys_are_evicted_after_two_hours_at_most() -> None:
    """An illiquid symbol uses no memory for trades that are too old for any candle."""
    seen, hour = no_ids(), trade_ids.KEYS_NS // 2
    for number in range(1, 20):
        assert seen.add(f"t{number}", number * (hour + 1)) == "new"
    assert len(seen.keys.young) + len(seen.keys.old) <= 3
    assert seen.add("t1", hour + 1) == "too_old"


@given(
    trades=st.lists(st.integers(0, 30), max_size=60),
    ranges=st.integers(1, 4),
    keys=st.sampled_from([2, 4, 8]),
    prefix=st.sampled_from(["", "x"]),
)
def test_no_trade_passes_twice_however_little_is_remembered(
    trades: list[int], ranges: int, keys: int, prefix: str
) -> None:
    """Each trade has the time that its venue gave it; trades come in any order and again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trade_ids, "RANGES_MAX", ranges)
        patch.setattr(trade_ids, "KEYS_MAX", keys)
        seen, passed = no_ids(), []
        for number in trades:
            identity = f"{prefix}{number * 2}"
            if seen.add(identity, 10 * number) == "new":
                passed.append(identity)
    assert len(passed) == len(set(passed))


@given(spans=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), max_size=30), limit=st.sampled_from([2, 256]))
def test_coverage_contains_at_least_what_was_added(spans: list[tuple[int, int]], limit: int) -> None:
    """Exactly that, unless there are too many spans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trade_ids, "SPANS_MAX", limit)
        coverage, naive = Coverage(), set()
        for start, length in spans:
            coverage.add(start, start + length)
            naive |= set(range(start, start + length + 1))
    has = {ts for ts in range(-1, 70) if coverage.has(ts)}
    assert has >= naive
    assert len(coverage.starts) <= limit
    if limit == 256:
        assert has == naive


def steps(events: list[list[AnyEvent]]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Return the ids that passed, and the dead letters as (reason, value)."""
    passed = [one.trade_id for out in events for event in out if isinstance(event, Trades) for one in event.trades]
    letters = [(event.reason, event.value) for out in events for event in out if isinstance(event, DeadLetter)]
    return passed, letters


@pytest.mark.usefixtures("few")
def test_a_live_trade_that_may_have_passed_is_a_dead_letter(run: Run, make: Any) -> None:
    """It is neither published twice nor lost silently, for numeric and other ids."""
    for names in ([10, 20, 30, 40, 5], ["a", "b", "c", "d", "e", "A"]):
        frames = [make.trades(make.trade(name, at)) for at, name in enumerate(names[:-1])]
        again = make.trades(make.trade(names[-1], 0), seconds=9)
        passed, letters = steps(run(IngestTrades, [*frames, again]))
        assert passed == [str(name) for name in names[:-1]]
        assert letters == [("too_old", str(names[-1]))]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("names", [[100 + 2 * n for n in range(12)], [f"t{n}" for n in range(12)]])
def test_history_before_the_first_live_trade_passes_once(run: Run, make: Any, names: list[object]) -> None:
    """Even with a small memory: no live trade can have passed there. A completed job's span has passed too."""
    live = [make.trades(make.trade(name, 100 + at)) for at, name in enumerate(names)]
    pages = [
        make.trades(*(make.trade(f"{number}", number) for number in numbers), origin="backfill", line="history")
        for numbers in ([1, 3], [5, 7], [5, 7], [9, 11])
    ]
    complete = make.heartbeat(13, origin="backfill", line="history", complete_from=make.ts(0))
    passed, letters = steps(run(IngestTrades, [*live, *pages, complete], restarts=[13, 15]))
    assert passed == [*(str(name) for name in names), *(str(number) for number in range(1, 12, 2))]
    assert letters == []
    _, letters = steps(run(IngestTrades, [*live, *pages, complete, pages[0]]))
    assert letters == [("too_old", "1"), ("too_old", "3")]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("how", ["gap", "disconnected", "lost"])
def test_a_repair_of_an_interruption_passes_although_its_ids_are_not_remembered(run: Run, make: Any, how: str) -> None:
    """No live trade has passed within the interruption; outside of it some may have."""
    end: AnyEvent | Lost = make.heartbeat(4, valid=False, reason=how)
    if how == "lost":
        end = Lost(topic="md.ingest.trades", partition=0, offset=7, count=None, ts=make.ts(9), reason="retention")
    before = [make.trades(make.trade(f"b{at}", at)) for at in range(4)]
    after = [make.trades(make.trade(f"a{at}", 20 + at)) for at in range(8)]
    repair = make.trades(make.trade("b2", 2), *(make.trade(f"r{at}", 8 + at) for at in range(2)), origin="repair")
    passed, letters = steps(run(IngestTrades, [*before, end, *after, repair, repair]))
    assert passed == [*(f"b{at}" for at in range(4)), *(f"a{at}" for at in range(8)), "r0", "r1"]
    assert letters == [("too_old", "b2"), ("too_old", "b2")]


def test_an_amendment_is_new_once(make: Any) -> None:
    """A cancel is identified by its id, a correction by its original and its replacement."""
    cancel = Trade(trade_id="a", ts_event=0, price="1", size="1", side="buy", action="cancel")
    correct = msgspec.structs.replace(cancel, action="correct")
    others = [correct, msgspec.structs.replace(correct, price="2"), msgspec.structs.replace(correct, original_id="b")]
    assert len({trade_ids.amendment_key(one) for one in [cancel, *others]}) == 4
    later = [msgspec.structs.replace(one, ts_event=5) for one in (cancel, others[2])]
    assert [trade_ids.amendment_key(one) for one in later] == [
        trade_ids.amendment_key(cancel), trade_ids.amendment_key(others[2])]  # fmt: skip

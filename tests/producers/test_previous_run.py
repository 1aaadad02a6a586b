"""What earlier producers published is read from the ends of real topics: bounded, and of one venue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from marketdata.codec import Codec
from marketdata.events import AnyEvent, FeedStatus, Trade, Trades
from producers.live.previous_run import read_previous_run
from producers.venues import find_venue
from producers.venues.kit.published import PreviousRun
from runtime.settings import CommonSettings
from tests.producers.process import all_messages, publishing

NOW = 1_800_000_000_000_000_000
VENUE = find_venue("coinbase")


def trades(*numbers: int, symbol: str = "BTC-USD", **more: Any) -> Trades:
    """Return a message of these trades, each made a nanosecond after the one before."""
    made = tuple(Trade(trade_id=str(n), ts_event=NOW + n, price="1", size="1", side="buy") for n in numbers)
    values: dict[str, Any] = {"venue": "coinbase", "symbol": symbol, "line": "coinbase/0", "ts_recv": NOW,
                              "ts_event": NOW + max(numbers, default=0), "trades": made}  # fmt: skip
    return Trades(**(values | more))


def status(kind: str, gap_id: str, **more: Any) -> FeedStatus:
    """Return a gap, or its end."""
    values: dict[str, Any] = {"venue": "coinbase", "symbol": "BTC-USD", "ts_event": NOW, "ts_recv": NOW,
                              "line": "coinbase/0", "kind": kind, "gap_id": gap_id, "ts_from": NOW - 5}  # fmt: skip
    return FeedStatus(**(values | more))


def read(
    settings: CommonSettings, codec: Codec, events: list[AnyEvent], *wanted: str, tail: int = 20_000
) -> PreviousRun:
    """Publish events, and return what is read of them."""
    all_messages(settings)  # waits until the new topics can be read

    async def scenario() -> PreviousRun:
        async with publishing(settings, codec) as publisher:
            await publisher.write("coinbase/0", events, NOW)
        return await read_previous_run(settings, codec, VENUE, frozenset(wanted), tail=tail)

    return asyncio.run(scenario())


def test_a_venue_that_never_ran_left_nothing(settings: CommonSettings, codec: Codec) -> None:
    """Another venue's trades and gaps are not ours, and neither are those of a backfill."""
    others: list[AnyEvent] = [
        trades(1, venue="okx", line="okx/0"), status("gap", "g", venue="okx"),
        trades(2, line="coinbase/history", origin="backfill"),
    ]  # fmt: skip
    found = read(settings, codec, others, "BTC-USD")
    assert (found.gaps, found.floor) == ((), None)
    assert found.of("ETH-USD") is None


def test_trades_up_to_the_last_valid_event_and_those_after_it_are_known_apart(
    settings: CommonSettings, codec: Codec
) -> None:
    """Of all lines together; a heartbeat vouches for a later time than the last trade."""
    events: list[AnyEvent] = [
        trades(7, 8), trades(8, 9, line="coinbase/1"), trades(ts_event=NOW + 50),
        trades(12, valid=False, reason="gap"), trades(11, origin="repair", valid=False, reason="gap"),
    ]  # fmt: skip
    last = read(settings, codec, events, "BTC-USD").of("BTC-USD")
    assert last is not None
    assert (last.ts_whole, last.ts_trade) == (NOW + 50, NOW + 9)
    assert (last.ids, last.later) == (("7", "8", "9"), ("12", "11"))
    assert last.lines == {"coinbase/0", "coinbase/1"}


def test_gaps_that_were_not_closed_are_found(settings: CommonSettings, codec: Codec) -> None:
    """The oldest first; a symbol of which only a gap is known was complete until that began."""
    eth = status("gap", "eth", symbol="ETH-USD", ts_recv=NOW - 1)
    events: list[AnyEvent] = [status("gap", "one"), status("gap", "two"), status("resynced", "one"), eth]
    found = read(settings, codec, events, "BTC-USD", "ETH-USD")
    assert [gap.gap_id for gap in found.gaps] == ["eth", "two"]
    last = found.of("ETH-USD")
    assert last is not None
    assert (last.ts_whole, last.ids) == (NOW - 5, ())


def test_a_wanted_symbol_that_is_older_than_the_tail_is_looked_for_further_back(
    settings: CommonSettings, codec: Codec
) -> None:
    """One that nobody wants is not, and one that is nowhere in the whole topic was never published."""
    events: list[AnyEvent] = [trades(1, symbol="OLD-USD"), *(trades(number) for number in range(2, 500))]
    found = read(settings, codec, events, "BTC-USD", "OLD-USD", "NEW-USD", tail=10)
    old, new = found.of("OLD-USD"), found.of("NEW-USD")
    assert old is not None
    assert (old.ids, new) == (("1",), None)
    last = found.of("BTC-USD")
    assert last is not None
    assert last.ids[-1] == "499"


def test_a_symbol_that_is_nowhere_in_what_was_read_may_miss_trades_since_the_others_ended(
    settings: CommonSettings, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a limit to how far back is read: then nothing is known but when the producer ended."""
    monkeypatch.setattr("producers.live.previous_run.TAIL_MAX", 10)
    events: list[AnyEvent] = [trades(number) for number in range(1, 60)]
    last = read(settings, codec, events, "BTC-USD", "OLD-USD", tail=10).of("OLD-USD")
    assert last is not None
    assert (last.ts_whole, last.ids) == (NOW + 59, ())

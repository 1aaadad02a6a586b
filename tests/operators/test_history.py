"""Candles from history: each candle once, old trades change nothing else, repairs close gaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from marketdata.events import AnyEvent, Candle, CandleHistory, DeadLetter
from stream_apps.operators.candles import Candles
from stream_apps.operators.ingest_candles import IngestCandles

Run = Callable[..., list[list[AnyEvent]]]

DAY_S = 86_400


def history(make: Any, count: int = 3, **changes: Any) -> CandleHistory:
    """Return minutes, the second of which has no trades."""
    prices = ["" if place == 1 else "100.10" for place in range(count)]
    fields: dict[str, Any] = {
        "venue": "coinbase", "symbol": "BTC-USD", "ts_event": make.ts(60 * count), "ts_recv": make.ts(DAY_S),
        "line": "coinbase/history", "interval": "1m", "start": make.ts(0), "opens": prices, "highs": prices,
        "lows": prices, "closes": prices, "volumes": ["0" if place == 1 else "2" for place in range(count)],
        "quote_volumes": [None] * count, "buy_volumes": ["0"] * count, "trades": [None] * count,
    }  # fmt: skip
    return CandleHistory(**(fields | changes))


def made(published: list[list[AnyEvent]]) -> list[Candle]:
    """Return the candles of a run."""
    return [event for events in published for event in events if isinstance(event, Candle)]


def letters(published: list[list[AnyEvent]]) -> list[DeadLetter]:
    """Return the dead letters of a run."""
    return [event for events in published for event in events if isinstance(event, DeadLetter)]


def test_a_page_that_is_repeated_adds_nothing_and_a_higher_revision_does(run: Run, make: Any) -> None:
    """Also after a restart; an interval without trades is a marker without prices."""
    page, more = history(make), history(make, count=5)
    again = msgspec.structs.replace(page, revision=1, origin="repair")
    published = run(IngestCandles, [page, page, more, again], restarts=[1, 3])
    assert [len(events) for events in published] == [3, 0, 2, 3]
    first = made(published)[:3]
    assert [(one.open, one.volume, one.state, one.revision, one.origin, one.valid) for one in first] == [
        ("100.10", "2", "final", 0, "backfill", True),
        (None, "0", "final", 0, "backfill", True),
        ("100.10", "2", "final", 0, "backfill", True),
    ]
    assert [(one.state, one.revision, one.origin) for one in made(published)[-3:]] == [("revised", 1, "repair")] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"highs": ["99", "", "100.10"]}, "not_a_candle"),
        ({"closes": ["", "", "100.10"]}, "incomplete"),
        ({"volumes": ["-2", "0", "2"]}, "negative"),
        ({"volumes": ["1e999", "0", "2"]}, "out_of_range"),
        ({"trades": [-1, 0, 0]}, "negative"),
    ],
)
def test_an_invalid_candle_is_refused_alone(run: Run, make: Any, changes: Any, reason: str) -> None:
    """The dead letter contains only that candle, and its neighbours pass."""
    published = run(IngestCandles, [history(make, **changes)])
    (letter,) = letters(published)
    assert letter.reason == reason
    alone = msgspec.json.decode(letter.payload, type=CandleHistory)
    assert (alone.start, len(alone.opens)) == (make.ts(0), 1)
    assert [one.start for one in made(published)] == [make.ts(60), make.ts(120)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"interval": "2m"}, "unknown_interval"),
        ({"origin": "live"}, "unknown_origin"),
        ({"start": 17}, "time_out_of_bounds"),
        ({"ts_recv": 60}, "time_out_of_bounds"),
        ({"opens": ["1"]}, "uneven_columns"),
        ({"revision": -1}, "out_of_range"),
    ],
)
def test_an_invalid_record_is_refused_as_a_whole(run: Run, make: Any, changes: Any, reason: str) -> None:
    """The engine adds its bytes."""
    (letter,) = letters(run(IngestCandles, [history(make, **changes)]))
    assert (letter.reason, letter.payload) == (reason, b"")


def test_old_trades_are_no_dead_letters_and_do_not_change_candles_of_history(run: Run, make: Any) -> None:
    """Backfills before the first live event, and of old data, change no candle that the operator keeps."""
    published = run(
        Candles,
        [
            make.trades(make.trade(1, -DAY_S), origin="backfill"),
            make.heartbeat(0),
            make.trades(make.trade(2, 30)),
            make.trades(make.trade(3, -DAY_S), make.trade(4, -30), origin="backfill"),
            make.heartbeat(62),
        ],
    )
    assert letters(published) == []
    closed = [one for one in made(published) if one.state != "open"]
    assert [(one.interval, one.start, one.trades) for one in closed] == [("1m", make.ts(0), 1)]


def test_a_repair_that_is_complete_makes_the_candles_of_a_gap_valid(run: Run, make: Any) -> None:
    """Its trades revise them, then the completion makes them valid with one more revision; others stay invalid."""
    published = run(
        Candles,
        [
            *(make.heartbeat(second) for second in range(0, 64, 4)),
            make.heartbeat(190),  # two minutes of silence, in which trades may be missing
            make.heartbeat(194),
            make.trades(make.trade(1, 70, "55"), origin="repair"),
            make.heartbeat(120, origin="repair", complete_from=make.ts(60)),
        ],
    )
    minutes = [one for one in made(published) if one.interval == "1m" and one.state != "open"]
    found = [(one.start - make.ts(0), one.revision, one.trades, one.valid, one.reason) for one in minutes]
    minute = 60 * 10**9
    assert found[1:] == [
        (minute, 0, 0, False, "gap"),
        (2 * minute, 0, 0, False, "gap"),
        (minute, 1, 1, False, "gap"),
        (minute, 2, 1, True, ""),
    ]

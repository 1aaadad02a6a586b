"""`tickstream pipe` closes the candles of a quiet market by evidence, and calls it quiet, not lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from marketdata.events import Candle
from marketdata.fix.codec import encode, utc
from tickstream import pipe

T0 = 1_786_309_200_000_000_000  # a whole minute
SECOND = 1_000_000_000
Finals = list[tuple[int, int | None, bool, str]]


def recording(folder: Path, frames: list[tuple[float, str]]) -> Path:
    """Write the frames of one connection, by their seconds after T0."""
    path = folder / "recording.jsonl"
    lines = [
        {"t": "recv", "ts_recv": T0 + round(second * SECOND), "conn": "c", "data": data} for second, data in frames
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def closed(path: Path, venue: str, symbol: str) -> tuple[Finals, list[str]]:
    """Return a symbol's closed minutes as (minute, trades, valid, reason), and what is noted of the recording."""
    connections = pipe.Connections(venue, pipe.survey([path], venue))
    made: dict[int, Candle] = {}
    for _, event in pipe.run([path], connections, pipe.Pipeline()):
        if isinstance(event, Candle) and (event.symbol, event.interval) == (symbol, "1m") and event.state != "open":
            made[(event.start - T0) // (60 * SECOND)] = event
    return [(minute, c.trades, c.valid, c.reason) for minute, c in sorted(made.items())], connections.notes


def alpaca(kind: str, symbol: str, second: float, number: int = 1) -> tuple[float, str]:
    """Return a trade, a quote or a status of Alpaca's."""
    minutes, rest = divmod(second, 60)
    message: dict[str, Any] = {"S": symbol, "t": f"2026-08-09T21:{int(minutes):02d}:{rest:09.6f}Z", "z": "C"}
    if kind == "t":
        message |= {"T": "t", "i": number, "x": "V", "p": 150.0, "s": 100, "c": ["@"]}
    elif kind == "q":
        message |= {"T": "q", "ax": "V", "ap": 150.1, "as": 1, "bx": "V", "bp": 149.9, "bs": 1, "c": ["R"]}
    else:
        message |= {"T": "s", "sc": kind, "sm": "", "rc": "", "rm": ""}
    return second, json.dumps([message])


LOGIN = [(0.0, '[{"T":"success","msg":"authenticated"}]'),
         (0.1, '[{"T":"subscription","trades":["IDLE","BUSY"],"quotes":[],"bars":[],"statuses":[]}]')]  # fmt: skip


def test_an_idle_symbol_closes_while_another_one_trades(tmp_path: Path) -> None:
    """A grace period after the end of each minute, as soon as any frame of the connection shows that time passed."""
    busy = [alpaca("t", "BUSY", second, number) for number, second in enumerate(range(70, 200, 10), start=2)]
    path = recording(tmp_path, [*LOGIN, alpaca("t", "IDLE", 30), *busy])
    assert closed(path, "alpaca", "IDLE")[0] == [(0, 1, False, "gap"), (1, 0, True, ""), (2, 0, True, "")]
    path = recording(tmp_path, [*LOGIN, alpaca("t", "IDLE", 30), alpaca("q", "BUSY", 61.9)])
    assert closed(path, "alpaca", "IDLE")[0] == [], "the grace period is not over"
    path = recording(tmp_path, [*LOGIN, alpaca("t", "IDLE", 30), alpaca("q", "BUSY", 62.5)])
    assert closed(path, "alpaca", "IDLE")[0] == [(0, 1, False, "gap")]


def test_the_end_of_a_file_is_no_evidence_that_time_passed(tmp_path: Path) -> None:
    """The last minute stays open."""
    path = recording(tmp_path, [*LOGIN, alpaca("t", "IDLE", 30), alpaca("t", "IDLE", 40, 2)])
    assert closed(path, "alpaca", "IDLE")[0] == []


@pytest.mark.parametrize("pause", [15, 50, 100, 170])
def test_a_thin_stock_stays_valid_after_a_halt(tmp_path: Path, pause: int) -> None:
    """The resumption is no heartbeat whose absence would mean later that trades are missing."""
    trades = [alpaca("t", "THIN", second, second) for second in range(5, 900, pause) if not 118 <= second < 130]
    halts = [alpaca("H", "THIN", 118), alpaca("T", "THIN", 130)]
    path = recording(tmp_path, sorted([*LOGIN, *trades, *halts]))
    minutes, notes = closed(path, "alpaca", "THIN")
    assert len(minutes) > 10
    assert {minute for minute, _, valid, _ in minutes if not valid} <= {0, 1, 2}
    assert all(reason == "halted" for minute, _, valid, reason in minutes[1:] if not valid)
    assert notes == []


@pytest.mark.parametrize("heartbeat_s", [10, 30, 60])
def test_a_fix_session_is_valid_at_its_own_heartbeat(tmp_path: Path, heartbeat_s: int) -> None:
    """HeartBtInt of the Logon is the limit: a trade each minute and a half, and heartbeats between, lose nothing."""
    messages: list[tuple[int, str, list[tuple[int, str]]]] = [(0, "A", [(98, "0"), (108, str(heartbeat_s))])]
    book = [(55, "EUR/USD"), (262, "1"), (268, "1"), (269, "0"), (270, "1.1"), (271, "5")]
    messages.append((1, "W", book))
    messages += [(second, "0", []) for second in range(heartbeat_s, 600, heartbeat_s)]
    for second in range(20, 600, 90):
        trade = [(262, "1"), (268, "1"), (279, "0"), (269, "2"), (55, "EUR/USD"), (1003, str(second)), (270, "1.15"),
                 (271, "1"), (272, "20260809"), (273, utc(T0 + second * SECOND)[9:])]  # fmt: skip
        messages.append((second, "X", trade))
    messages.sort(key=lambda message: (message[0], message[1]))
    frames = []
    for number, (second, kind, fields) in enumerate(messages, start=1):
        head = [(35, kind), (34, str(number)), (49, "VENUE"), (52, utc(T0 + second * SECOND)), (56, "US")]
        frames.append((float(second), encode("FIX.4.4", [*head, *fields]).decode()))
    minutes, notes = closed(recording(tmp_path, frames), "fix", "EUR-USD")
    assert [valid for _, _, valid, _ in minutes] == [False] + [True] * (len(minutes) - 1)
    assert len(minutes) >= 8
    assert notes == []


def test_a_recorder_that_stopped_vouches_for_nothing(tmp_path: Path) -> None:
    """Bybit answers pings every 20 s: five minutes without a frame are named, and their candles are not valid."""

    def trade(second: int) -> tuple[float, str]:
        data = {"T": (T0 + second * SECOND) // 1_000_000, "s": "BTCUSDT", "S": "Buy", "v": "1", "p": "2",
                "i": f"20f43950-d8dd-5b31-9112-{second:012d}", "BT": False}  # fmt: skip
        return float(second), json.dumps({"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": data["T"],
                                          "data": [data]})  # fmt: skip

    path = recording(tmp_path, [trade(second) for second in (*range(0, 130, 10), *range(430, 700, 10))])
    minutes, notes = closed(path, "bybit", "BTC-USDT-PERP")
    assert [minute for minute, _, valid, _ in minutes if not valid] == [1, 2, 3, 4, 5, 6, 7]
    assert len(notes) == 1
    assert "no frame for 310 s" in notes[0]

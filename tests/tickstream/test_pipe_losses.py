"""A frame is missing in a recording: `tickstream pipe` prints `gap` until a new snapshot, which may never come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from runtime import recordings
from runtime.recordings import Recorded
from tickstream.cli import app

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
FILES = {"coinbase": "coinbase_advanced.jsonl.zst", "bitfinex": "bitfinex.jsonl.zst"}
SNAPSHOT = '"type":"snapshot","product_id":"BTC-USD"'


def frames_of(venue: str) -> list[Recorded]:
    """Return the lines of a venue's recording."""
    path = RECORDINGS / FILES[venue]
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    return list(recordings.read(path))


def piped(folder: Path, venue: str, lines: list[Recorded], stage: str) -> list[dict[str, Any]]:
    """Return what a stage prints of these lines."""
    path = folder / "recording.jsonl"
    path.write_text("".join(
        json.dumps({"t": one.t, "ts_recv": one.ts_recv, "conn": one.conn, "data": one.data}) + "\n" for one in lines
    ))  # fmt: skip
    result = CliRunner().invoke(app, ["pipe", "--venue", venue, "--stage", stage, str(path)])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def without_one(lines: list[Recorded], share: float) -> tuple[list[Recorded], int]:
    """Return the lines without a received frame so far into the recording, and when the next one came."""
    received = [place for place, one in enumerate(lines) if one.t == "recv"]
    at = round(share * len(received))
    return lines[: received[at]] + lines[received[at] + 1 :], lines[received[at + 1]].ts_recv


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("venue", sorted(FILES))
def test_every_book_is_a_gap_from_the_loss_to_the_end(tmp_path: Path, venue: str, share: float) -> None:
    """The number is the connection's: any book may have lost a change, and a recording cannot subscribe again."""
    lines, found_at = without_one(frames_of(venue), share)
    books = piped(tmp_path, venue, lines, "books")
    symbols = {book["symbol"] for book in books}
    assert {book["symbol"] for book in books if book["ts_recv"] < found_at and book["valid"]} == symbols
    assert {book["symbol"] for book in books if book["ts_recv"] == found_at} == symbols
    after = [book for book in books if book["ts_recv"] >= found_at]
    assert {(book["valid"], book["reason"]) for book in after} == {(False, "gap")}


@pytest.mark.parametrize("venue", sorted(FILES))
def test_every_open_candle_is_a_gap_at_the_loss(tmp_path: Path, venue: str) -> None:
    """It is published at once: on a quiet market no trade may come that publishes it again."""
    lines, found_at = without_one(frames_of(venue), 0.7)
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for candle in piped(tmp_path, venue, lines, "candles"):
        if candle["ts_recv"] > found_at:
            break
        last[candle["symbol"], candle["interval"]] = candle
    assert {candle["reason"] for candle in last.values() if candle["state"] == "open"} == {"gap"}


def test_a_snapshot_after_the_loss_makes_its_book_valid_again(tmp_path: Path) -> None:
    """Of the symbol that it contains, and of no other one."""
    lines, found_at = without_one(frames_of("coinbase"), 0.7)
    (snapshot,) = [one for one in lines if one.t == "recv" and SNAPSHOT in one.data]
    last = lines[-1]
    whole = json.loads(snapshot.data) | {"sequence_num": json.loads(last.data)["sequence_num"] + 1}
    again = Recorded(t="recv", ts_recv=last.ts_recv + 1_000_000, conn=last.conn, data=json.dumps(whole))
    books = piped(tmp_path, "coinbase", [*lines, again], "books")
    valid = [book for book in books if book["ts_recv"] >= found_at and book["valid"]]
    assert {book["symbol"] for book in valid} == {"BTC-USD"}
    assert {book["ts_recv"] for book in valid} == {again.ts_recv}

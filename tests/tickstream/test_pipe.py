"""`tickstream pipe`: REST answers join the frames around them; what a recording lacks is never a wrong book."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from typer.testing import CliRunner

from marketdata.errors import SettingsError
from tickstream.cli import app

RUN = CliRunner()
T0 = 1_786_309_500_000_000_000
SECOND = 1_000_000_000


def line(t: str, seconds: int, data: Any, conn: str | None = None) -> str:
    """Return one line of a recording."""
    return json.dumps({"t": t, "ts_recv": T0 + seconds * SECOND, "conn": conn, "data": json.dumps(data)})


def message(sequence: int, kind: str, **fields: Any) -> dict[str, Any]:
    """Return one message of Coinbase Exchange's full channel."""
    second = sequence - 10
    return {
        "type": kind,
        "product_id": "BTC-USD",
        "sequence": sequence,
        "time": f"2026-08-09T21:05:{second:02d}Z",
    } | fields


FRAMES = [
    line("recv", second, message(10 + second, "open", order_id=f"o{second}", side="buy", price=f"{90 + second}",
                                 remaining_size="1"))
    for second in range(30)
]  # fmt: skip
BOOK = line("http", 2, {"sequence": 12, "bids": [["90", "1", "o0"], ["91", "1", "o1"], ["92", "1", "o2"]],
                        "asks": [["200", "1", "a"]]}, "https://x.test/products/BTC-USD/book?level=3")  # fmt: skip


@pytest.mark.parametrize("at", [0, 1, 3, 17, 30])
def test_rest_book_is_joined_from_anywhere_in_the_file(tmp_path: Path, at: int) -> None:
    """First, between or last, as some recorders write them: the same book, nothing refused, no time runs back."""
    path = tmp_path / "recording.jsonl.zst"
    text = "\n".join([*FRAMES[:at], BOOK, *FRAMES[at:]]) + "\n"
    path.write_bytes(zstandard.ZstdCompressor().compress(text.encode()))
    result = RUN.invoke(app, ["pipe", "--venue", "coinbase_exchange", "--summary", str(path)])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["dead_letters"], summary["gaps"], summary["crossed"], summary["snapshots"]) == (0, 0, 0, 1)
    book = summary["books"]["BTC-USD"]
    assert book == {"bids": [[str(price), "1"] for price in range(119, 109, -1)], "asks": [["200", "1"]]}


LEVELS = [
    line("recv", 0, {"type": "snapshot", "product_id": "BTC-USD", "bids": [["90", "1"]], "asks": [["91", "1"]]}),
    line("recv", 1, {"type": "l2update", "product_id": "BTC-USD", "time": "2026-08-09T21:05:01Z",
                     "changes": [["buy", "90", "2"]]}),
    line("recv", 2, {"type": "l2update", "product_id": "BTC-USD", "time": "2026-08-09T21:05:02Z",
                     "changes": [["buy", "89", "3"]]}),
]  # fmt: skip
LOST = {"bids": [], "asks": [], "reason": "gap"}


@pytest.mark.parametrize(
    ("number", "lines", "book"),
    [
        (4, [*LEVELS, LEVELS[2][:-9]], {"bids": [["90", "2"], ["89", "3"]], "asks": [["91", "1"]]}),
        (2, [LEVELS[0], LEVELS[1][:-9], LEVELS[2]], LOST),
        (3, [LEVELS[0], "", "no line", LEVELS[2]], LOST),
    ],
    ids=["at the end", "a change", "unknown"],
)
def test_damaged_line_is_named_and_may_have_changed_any_book_if_more_comes(
    tmp_path: Path, number: int, lines: list[str], book: dict[str, Any]
) -> None:
    """Levels have no numbers: only what is damaged itself shows that the book behind it would be wrong."""
    path = tmp_path / "recording.jsonl"
    path.write_text("\n".join(lines))
    result = RUN.invoke(app, ["pipe", "--venue", "coinbase_exchange", "--summary", str(path)])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["damaged_lines"] == 1
    assert summary["books"] == {"BTC-USD": book}
    assert f"recording.jsonl, line {number}: not a recorded frame" in result.stderr


def test_an_empty_file_is_summed_up_and_said_to_be_empty(tmp_path: Path) -> None:
    """It is no error, and not passed over."""
    path = tmp_path / "recording.jsonl"
    path.write_bytes(b"")
    result = RUN.invoke(app, ["pipe", "--venue", "kraken", "--summary", str(path)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["frames"] == 0
    assert "no frame" in result.stderr


def test_a_venue_that_there_is_not_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """A large recording takes a while, and this one cannot be read at all."""
    path = tmp_path / "recording.jsonl"
    path.write_text("no recording")
    assert isinstance(RUN.invoke(app, ["pipe", "--venue", "nowhere", str(path)]).exception, SettingsError)


def kraken(second: int, conn: str, pair: str, bid: str, ask: str) -> str:
    """Return Kraken's snapshot of a book of one bid and one ask."""
    ts = f"1786309500.{second:06}"
    return line("recv", second, [1, {"bs": [[bid, "1.0", ts]], "as": [[ask, "1.0", ts]]}, "book-10", pair], conn)


FIRST = kraken(0, "1", "XBT/USD", "90.0", "91.0")
OTHER = kraken(0, "2", "ETH/USD", "10.0", "11.0")
AFTER = kraken(1, "3", "XBT/USD", "80.0", "81.0")


@pytest.mark.parametrize(
    ("lines", "bid", "gaps"),
    [([FIRST, OTHER, AFTER], "80.0", 1), ([FIRST, AFTER, FIRST], "90.0", 0)],
    ids=["ended", "redundant"],
)
def test_connection_that_ended_is_succeeded_by_the_next_with_its_books(
    tmp_path: Path, lines: list[str], bid: str, gaps: int
) -> None:
    """Nobody waits for the ended one to fall silent; a connection that still speaks, or has other books, stays."""
    path = tmp_path / "recording.jsonl"
    path.write_text("\n".join(lines))
    result = RUN.invoke(app, ["pipe", "--venue", "kraken", "--summary", str(path)])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["books"]["BTC-USD"]["bids"] == [[bid, "1.0"]]
    assert "reason" not in summary["books"].get("ETH-USD", {})
    assert summary["gaps"] == gaps


def test_metrics_follow_the_cadence_and_the_distances_that_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of the stream workers hold for `pipe` as well."""
    monkeypatch.setenv("TICKSTREAM_METRICS_MS", "2000")
    monkeypatch.setenv("TICKSTREAM_METRICS_BPS", "100, 200.5")
    path = tmp_path / "recording.jsonl"
    books = [kraken(second, "1", "XBT/USD", f"{90 + second}.0", "99.0") for second in range(5)]
    path.write_text("\n".join(text.replace(f"9500.{at:06}", f"950{at}.000000") for at, text in enumerate(books)))
    result = RUN.invoke(app, ["pipe", "--venue", "kraken", "--stage", "metrics", str(path)])
    assert result.exit_code == 0, result.output
    metrics = [json.loads(text) for text in result.stdout.splitlines()]
    assert [(one["ts_event"] - T0) // SECOND for one in metrics] == [0, 2, 4]
    assert [one["mid"] for one in metrics] == ["94.5", "95", "96"]
    assert metrics[0]["depth_bps"] == ["100", "200.5"]


def test_distances_that_are_not_ascending_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable."""
    monkeypatch.setenv("TICKSTREAM_METRICS_BPS", "10,5")
    path = tmp_path / "recording.jsonl"
    path.write_text(FIRST)
    error = RUN.invoke(app, ["pipe", "--venue", "kraken", str(path)]).exception
    assert isinstance(error, SettingsError)
    assert "TICKSTREAM_METRICS_BPS" in str(error)

"""A recorder's clock that was behind the venue's is set forward, in `tickstream pipe` and before a replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.local.settings import StackSettings
from runtime import recordings
from tickstream.cli import app
from tickstream.platform import replay_behind_s
from tickstream.recorder_clock import behind_ns

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
RUN = CliRunner()
SECOND = 1_000_000_000


def given(name: str) -> Path:
    """Return a recording."""
    path = RECORDINGS / f"{name}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    return path


def moved(path: Path, to: Path, seconds: int) -> Path:
    """Write a recording again as by a clock that was so much behind."""
    with to.open("w") as file:
        for each in recordings.read(path):
            ts_recv = each.ts_recv - seconds * SECOND
            file.write(json.dumps({"t": each.t, "ts_recv": ts_recv, "conn": each.conn, "data": each.data}) + "\n")
    return to


@pytest.mark.parametrize(("venue", "name"), [
    ("binance_spot", "binance_spot_multi"), ("kraken_futures", "kraken_futures"), ("okx", "okx"),
])  # fmt: skip
def test_recorder_whose_clock_was_behind_loses_nothing(tmp_path: Path, venue: str, name: str) -> None:
    """The venue's times tell how far."""
    files = (given(name), moved(given(name), tmp_path / "moved.jsonl", 60))
    right, late = (RUN.invoke(app, ["pipe", "--venue", venue, "--summary", str(path)]) for path in files)
    assert late.stdout == right.stdout
    assert "clock" not in right.stderr
    assert "behind the venue's, and is set forward by that" in late.stderr


def test_usual_lag_and_spoilt_times_are_no_clock_that_is_behind(tmp_path: Path) -> None:
    """A second or two are the network's or a clock's that nobody minds; of spoilt frames the time may be any."""
    path = given("okx")
    assert behind_ns(moved(path, tmp_path / "near.jsonl", 4), "okx") == 0
    lines = [json.loads(line) for line in moved(path, tmp_path / "same.jsonl", 0).read_text().splitlines()]
    for line in lines[50:52]:
        line["data"] = line["data"].replace('"ts":"16', '"ts":"17')
    spoilt = tmp_path / "spoilt.jsonl"
    spoilt.write_text("\n".join(map(json.dumps, lines)))
    assert behind_ns(spoilt, "okx") == 0


def test_replay_is_told_how_far_the_recorders_clock_was_behind(tmp_path: Path) -> None:
    """Redundant lines are moved alike; a file that is none is left to the replay server, which names it."""
    path = given("okx")
    late = moved(path, tmp_path / "late.jsonl", 60)
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text("nothing")
    for files, expected in (((path,), 0), ((path, late), 60), ((nothing,), 0), ((tmp_path / "none",), 0)):
        settings = StackSettings(source="replay", venue="okx", replay_file=",".join(map(str, files)))
        assert replay_behind_s(settings) == pytest.approx(expected, abs=1)

"""Feeds say the same with compiled books as in plain Python, of good frames and of spoilt ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketdata import compiled
from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from producers.venues.kit import values

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"

# Some books by every way of reading them; each eleventh frame has a point too many.
FEEDS = (
    "okx okx", "kraken kraken_v1", "kraken_futures kraken_futures", "bitfinex bitfinex", "bybit bybit",
    "binance_usdm binance_usdm_btcusdt", "gemini gemini",
)  # fmt: skip
PLAY = """
import sys
from hashlib import sha256
from itertools import islice
from marketdata.book import Side
from producers.venues import make_feed
from runtime import recordings
print(Side.__module__)
for venue, path in map(str.split, sys.argv[1:]):
    feed, told = make_feed(venue), sha256()
    frames = (line for line in recordings.read(path) if line.t == "recv")
    for number, line in enumerate(islice(frames, 300)):
        frame = line.data.replace(".", "..", 1) if number % 11 == 10 else line.data
        told.update(repr(feed.received(frame.encode(), line.ts_recv)).encode())
    print(venue, told.hexdigest(), feed.counts)
"""


def test_feeds_say_the_same_with_and_without_compiled_books() -> None:
    """Every event, of every venue."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"the recordings are absent: no {RECORDINGS}")
    told = []
    for plain in ("", "1"):
        feeds = [f"{venue} {RECORDINGS / name}.jsonl.zst" for venue, name in map(str.split, FEEDS)]
        done = subprocess.run(
            [sys.executable, "-c", PLAY, *feeds], env=os.environ | {compiled.PLAIN_BOOKS: plain}, capture_output=True,
            text=True, timeout=60, check=True,
        )  # fmt: skip
        told.append(done.stdout.splitlines())
    ours, plainly = told
    assert plainly[0] == "marketdata.plain_side"
    assert ours[1:] == plainly[1:]
    assert len(ours) == 1 + len(FEEDS)


VALUE = st.sampled_from(["1", "0", "0.50", "-3", "1e5", ".5", "5.", "", "x", "1.2.3", "٣", "é", "1\\u0030"])
LEVEL = st.lists(VALUE | st.just("9" * 70) | st.integers(0, 9), max_size=4)


def outcome(call: Callable[[], Any]) -> Any:
    """Return what comes of a call, or why nothing does."""
    try:
        return call()
    except BadEvent as error:
        return str(error)


def read(raw: bytes) -> Any:
    """Return a side of a book, or why it is none."""
    return outcome(lambda: values.levels(msgspec.Raw(raw), "bids"))


@given(st.lists(LEVEL, max_size=3), st.sampled_from([(",", ":"), (", ", ": ")]))
@example([["1", "2", "]", "[1,"]], (",", ":"))
def test_levels_are_read_as_the_plain_way_reads_them(sent: list[Any], separators: tuple[str, str]) -> None:
    """What the compiled way does not take at once goes the plain way, so that both refuse the same."""
    raw = json.dumps(sent, separators=separators).encode()
    taken = read(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_read_levels", None)
        assert taken == read(raw)


@pytest.mark.parametrize("raw", [b"null", b"{}", b"[[]]", b'[["1"]]', b'[["1",2]]', b'[[["1"],"2"]]', b'[["1","2"],3]'])
def test_what_is_no_level_is_refused_with_its_field_and_value(raw: bytes) -> None:
    """The message shows what was sent."""
    with pytest.raises(BadEvent) as refused:
        values.levels(msgspec.Raw(raw), "asks")
    assert refused.value.field == "asks"
    assert raw.decode() in refused.value.value


@given(st.lists(VALUE, max_size=10))
def test_columns_are_refused_for_what_is_no_decimal(column: list[str]) -> None:
    """Whatever the quick looks make of it."""

    def look_at_each() -> None:
        for value in column:
            decimal(value, "price")

    for look in {values._are_plain_decimals, values._look_plain}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(values, "_are_plain_decimals", look)
            assert outcome(lambda: values.check_decimals(column, "price")) == outcome(look_at_each)

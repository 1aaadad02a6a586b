"""Databento's recorded files: what is known of them, and what makes a file one of theirs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import databento_dbn as codec
import pytest
import zstandard

from marketdata import dbn
from marketdata.book import L2Book
from marketdata.errors import CodecError
from marketdata.events import AnyEvent, BookUpdate, FeedStatus, Quote, Trades
from producers.venues.databento.feed import DatabentoFeed
from runtime import recordings
from tickstream import pipe

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"


def recorded(name: str) -> Path:
    """Return a recording."""
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    return path


def play(path: Path) -> tuple[DatabentoFeed, list[AnyEvent]]:
    """Return the feed that read a file, and its events."""
    feed = DatabentoFeed(line="databento/0")
    events: list[AnyEvent] = []
    for line in recordings.read(path):
        events += [out for out in feed.received(line.frame, line.ts_recv) if isinstance(out, AnyEvent)]
    return feed, events


def trades(events: list[AnyEvent]) -> list[tuple[str, str, str, str]]:
    """Return id, price, size and side of every trade."""
    return [
        (one.trade_id, one.price, one.size, one.side)
        for event in events
        if isinstance(event, Trades)
        for one in event.trades
    ]


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a compressed CSV."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as plain:
        return list(csv.DictReader(io.TextIOWrapper(plain, "utf-8")))


def apply(book: L2Book, event: BookUpdate) -> None:
    """Change a book by an event."""
    change = L2Book.clear if event.kind == "clear" else None
    if change is not None:
        change(book)
    elif event.kind == "snapshot":
        book.bids.replace(event.bid_prices, event.bid_sizes)
        book.asks.replace(event.ask_prices, event.ask_sizes)
    else:
        book.bids.apply(event.bid_prices, event.bid_sizes)
        book.asks.apply(event.ask_prices, event.ask_sizes)


def test_no_order_of_the_recorded_futures_is_unknown() -> None:
    """13,796 records, one snapshot, no loss; the whole book is the sum of the orders, and never crossed."""
    feed, events = play(recorded("cme_esm4_mbo.dbn.zst"))
    assert feed.counts["records"] == 13_796
    assert (feed.counts["snapshots"], feed.counts["gaps"], feed.counts["dead_letters"]) == (1, 0, 0)
    book = L2Book()
    for event in events:
        if isinstance(event, BookUpdate):
            apply(book, event)
            assert event.valid
            assert not book.is_crossed()
    resting: dict[int, tuple[int, int, int]] = {}
    for line in recordings.read(recorded("cme_esm4_mbo.dbn.zst")):
        *_, number, price, size, _, _, action, side, _, _, _ = dbn.ORDER.unpack(line.frame[-dbn.ORDER.size :])
        if chr(action) in "AM":
            resting[number] = (side, price, size)
        elif chr(action) == "C":
            left = resting[number][2] - size
            resting[number] = (*resting[number][:2], left)
    sums: dict[tuple[int, int], int] = {}
    for side, price, size in resting.values():
        sums[side, price] = sums.get((side, price), 0) + size
    bids = sorted(((price, size) for (side, price), size in sums.items() if side == ord("B") and size), reverse=True)
    asks = sorted((price, size) for (side, price), size in sums.items() if side == ord("A") and size)
    text = dbn.Prices().text
    assert book.bids.top() == [(text(price), str(size)) for price, size in bids]
    assert book.asks.top() == [(text(price), str(size)) for price, size in asks]


def test_the_trades_beside_the_quotes_are_those_of_the_trades_file() -> None:
    """The T rows of mbp-1 are the 120 trades, with the same ids; a quote for each of the other rows."""
    feed, events = play(recorded("cme_esu4_mbp1.dbn.zst"))
    _, alone = play(recorded("cme_esu4_trades.dbn.zst"))
    assert len(trades(events)) == 120
    assert trades(events) == trades(alone)
    assert feed.counts["quotes"] == 2_288 - 120
    assert all(quote.bid and quote.ask for quote in events if isinstance(quote, Quote))
    assert len({one[0] for one in trades(events)}) == 120


def test_orders_add_up_to_the_ten_levels_of_the_other_file() -> None:
    """NASDAQ, 1,800 orders as CSV: after every sequence of the levels' file, all ten levels are equal."""
    path, book, at = recorded("nasdaq_arl_mbo.csv.zst"), L2Book(), {}
    feed = DatabentoFeed(line="databento/0")
    for line in recordings.read(path):
        for out in feed.received(line.frame, line.ts_recv):
            if isinstance(out, BookUpdate):
                apply(book, out)
        at[dbn.ORDER.unpack(line.frame[-dbn.ORDER.size :])[-1]] = (book.bids.top(10), book.asks.top(10))
    expected: dict[int, Any] = {}
    for row in rows(recorded("nasdaq_arl_mbp10.csv.zst")):
        if int(row["flags"]) & dbn.LAST:
            expected[int(row["sequence"])] = row
    assert len(expected) > 900
    for sequence, row in expected.items():
        for side, told in zip(("bid", "ask"), at[sequence], strict=True):
            levels = [
                (float(row[f"{side}_px_{place:02}"]), row[f"{side}_sz_{place:02}"])
                for place in range(10)
                if row[f"{side}_px_{place:02}"]
            ]
            assert [(float(price), size) for price, size in told] == levels, (sequence, side)
    assert feed.counts["dead_letters"] == 0


def test_the_pipe_counts_a_record_as_a_frame() -> None:
    """As `tickstream pipe --summary` shows it."""
    connections, pipeline, summary = pipe.Connections("databento"), pipe.Pipeline(), pipe.Summary()
    for topic, event in pipe.run([recorded("cme_esu4_mbp1.dbn.zst")], connections, pipeline):
        summary.take(topic, event)
    told = summary.as_dict(connections, pipeline)
    assert (told["frames"], told["trades"], told["gaps"], told["dead_letters"]) == (2_288, 120, 0, 0)


# --- Files ---

METADATA = bytes(
    codec.Metadata(dataset="XNAS.ITCH", start=1, stype_in=None, stype_out=dbn.INSTRUMENT_ID, schema=None, version=3)
)
TS = 1_700_000_000 * 10**9
RECORD = dbn.ORDER.pack(14, dbn.MBO, 2, 7, TS, 1, 5, 6, 128, 0, ord("A"), ord("B"), TS + 5, 0, 9)


@pytest.mark.parametrize("packed", [True, False], ids=["compressed", "plain"])
def test_a_file_is_told_by_how_it_begins(tmp_path: Path, *, packed: bool) -> None:
    """One record a frame, the metadata before the first, each at the time when it was received."""
    path, data = tmp_path / "any.name", METADATA + RECORD * 3
    path.write_bytes(zstandard.compress(data) if packed else data)
    lines = list(recordings.read(path))
    assert [line.frame for line in lines] == [METADATA + RECORD, RECORD, RECORD]
    assert {line.ts_recv for line in lines} == {TS + 5}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (METADATA[:20], "within its metadata"),
        (METADATA + RECORD[:-1], "within a record"),
        (METADATA + b"\0\0\0\0", "a record of 0 bytes"),
    ],
)
def test_a_file_that_cannot_be_followed_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    """Cut off, or spoilt, before there was anything: an error that says where, and no traceback."""
    path = tmp_path / "spoilt.dbn"
    path.write_bytes(data)
    with pytest.raises(CodecError, match=f"spoilt.dbn is not a recording: .*{message}"):
        list(recordings.read(path))


@pytest.mark.parametrize(("end", "message"), [(RECORD[:-1], "within a record"), (b"\0\0\0\0", "a record of 0 bytes")])
def test_records_before_a_spoilt_end_are_read(tmp_path: Path, end: bytes, message: str) -> None:
    """What is missing is told at the end."""
    path = tmp_path / "spoilt.dbn"
    path.write_bytes(METADATA + RECORD * 2 + end)
    *lines, damaged = recordings.read(path)
    assert [line.frame for line in lines] == [METADATA + RECORD, RECORD]
    assert damaged.t == recordings.DAMAGED
    assert message in damaged.data


def test_an_old_file_of_no_snapshot_has_no_good_book(tmp_path: Path) -> None:
    """It begins within the book: the pipe shows a gap, and no level."""
    path = tmp_path / "middle.dbn"
    path.write_bytes(METADATA + RECORD)
    _, events = play(path)
    assert [event.kind for event in events if isinstance(event, BookUpdate | FeedStatus)] == ["clear", "gap"]

"""The venues that the conformance tests play, one line each, and their recordings."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from marketdata.book import Level
from marketdata.codec import Codec
from marketdata.events import EVENTS
from runtime import recordings
from runtime.recordings import Recorded
from tests.producers.conformance.fake_venue import FakeVenue
from tests.producers.conformance.fakes.alpaca import Alpaca
from tests.producers.conformance.fakes.binance_spot import BinanceSpot
from tests.producers.conformance.fakes.binance_usdm import BinanceUsdm
from tests.producers.conformance.fakes.bitfinex import Bitfinex
from tests.producers.conformance.fakes.bybit import Bybit
from tests.producers.conformance.fakes.coinbase import Coinbase
from tests.producers.conformance.fakes.coinbase_exchange import CoinbaseExchange
from tests.producers.conformance.fakes.databento import Databento
from tests.producers.conformance.fakes.deribit import Deribit
from tests.producers.conformance.fakes.fix import Fix
from tests.producers.conformance.fakes.gemini import Gemini
from tests.producers.conformance.fakes.hyperliquid import Hyperliquid
from tests.producers.conformance.fakes.kraken import Kraken
from tests.producers.conformance.fakes.kraken_futures import KrakenFutures
from tests.producers.conformance.fakes.okx import Okx

RECORDINGS = Path(__file__).resolve().parents[4] / "shared" / "recordings"
OWN = Path(__file__).parents[1] / "recordings"  # recordings that may be committed, uncompressed
SECOND = 1_000_000_000
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})
QUICK = settings(max_examples=12, deadline=None)


class Case(NamedTuple):
    """One venue. `frames` of one connection (its recorded name; None: the first that is seen) are played.

    `recording` is a file of `tests/producers/recordings` (.jsonl) or of `../shared/recordings` (.jsonl.zst).

    `proven` is how many levels a side the venue's own proof covers, None for the whole book; `shorten` makes huge
    frames small, so that thousands of runs are quick, or old ones as they are today. `ordered` is False where frames
    have neither number, time nor checksum: then nothing but the connection's own order proves that none is lost or
    doubled.
    """

    venue: str
    recording: str
    frames: int = 150
    conn: str | None = None
    proven: int | None = None
    shorten: Callable[[str], str] = str
    ordered: bool = True


def coinbase_short(data: str) -> str:
    """Leave the far levels of a snapshot of 5 MB out."""
    if len(data) < 100_000:
        return data
    values = json.loads(data)
    for event in values["events"]:
        levels = event.get("updates", [])
        sides = ([level for level in levels if level["side"] == side] for side in ("bid", "offer"))
        event["updates"] = [level for side in sides for level in side[:30]]
    return json.dumps(values, separators=(",", ":"))


def okx_numbered() -> Callable[[str], str]:
    """Return what turns recorded books into those of OKX since June 2026: numbered, and with 0 for a checksum."""
    last: dict[str, int] = {}

    def as_today(data: str) -> str:
        values = json.loads(data) if data.startswith("{") else {}
        if values.get("arg", {}).get("channel") != "books" or "data" not in values:
            return data
        name = values["arg"]["instId"]
        for book in values["data"]:
            before = last.get(name, -1)
            last[name] = before + 3
            book |= {"seqId": last[name], "prevSeqId": before if values["action"] == "update" else -1, "checksum": 0}
        return json.dumps(values, separators=(",", ":"))

    return as_today


class Row(NamedTuple):
    """What proves one venue: its side of a connection, and its recordings, where there are any."""

    fake: type[FakeVenue]
    recordings: tuple[Case, ...] = ()


TABLE: dict[str, Row] = {
    "alpaca": Row(Alpaca),
    "binance_spot": Row(BinanceSpot, (Case("binance_spot", "binance_spot_btcusdt", frames=500),)),
    "binance_usdm": Row(BinanceUsdm, (Case("binance_usdm", "binance_usdm_btcusdt", frames=350),)),
    "bitfinex": Row(Bitfinex, (Case("bitfinex", "bitfinex", frames=200),)),
    "bybit": Row(Bybit, (Case("bybit", "bybit", conn="BYBIT.ws.2", frames=200),)),
    "coinbase": Row(Coinbase, (Case("coinbase", "coinbase_advanced", frames=80, shorten=coinbase_short),)),
    "coinbase_exchange": Row(CoinbaseExchange, (Case("coinbase_exchange", "coinbase_exchange_legacy", ordered=False),)),
    "databento": Row(Databento),
    "deribit": Row(Deribit),
    "fix": Row(Fix),
    "gemini": Row(Gemini, (Case("gemini", "gemini", ordered=False),)),
    "hyperliquid": Row(Hyperliquid),
    "kraken": Row(Kraken, (Case("kraken", "kraken_v1", frames=250, conn="KRAKEN.ws.50", proven=10),)),
    "kraken_futures": Row(KrakenFutures, (Case("kraken_futures", "kraken_futures", frames=250),)),
    "okx": Row(Okx, (Case("okx", "okx", proven=25), Case("okx", "okx", shorten=okx_numbered()))),
}
CASES = tuple(case for row in TABLE.values() for case in row.recordings)

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.venue)
EACH_ORDERED = pytest.mark.parametrize("case", [case for case in CASES if case.ordered], ids=lambda case: case.venue)


class RecordedLines(tuple[Recorded, ...]):
    """Recorded lines that are not shown in full when an example fails."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} lines>"


@cache
def recorded(case: Case) -> RecordedLines:
    """Return the case's lines: REST answers, and the first frames of its connection."""
    path = OWN / f"{case.recording}.jsonl"
    if not path.exists():
        path = RECORDINGS / f"{case.recording}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    lines: list[Recorded] = []
    conn, frames = case.conn, 0
    for line in recordings.read(path):
        if line.t == "http":
            lines.append(line)
        elif line.t == "recv" and conn in {None, line.conn}:
            conn = line.conn if case.conn is None else conn
            lines.append(Recorded(line.t, line.ts_recv, line.conn, case.shorten(line.data)))
            frames += 1
        if frames >= case.frames:
            break
    return RecordedLines(lines)


Sides = tuple[list[Level], list[Level]]  # bids and asks


def frames_of(case: Case) -> list[int]:
    """Return the places of the frames (not the REST answers) among the lines."""
    return [place for place, line in enumerate(recorded(case)) if line.t == "recv"]

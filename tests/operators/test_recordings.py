"""On recorded markets: metrics agree with the best prices that are published beside them, and nothing is unusual."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from marketdata.events import Anomaly, Metrics, Quote
from tickstream.pipe import Connections, Pipeline, run

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
# A few minutes each, of calm markets without a gap.
CALM = {
    "bybit": "bybit",
    "coinbase": "coinbase_advanced",
    "coinbase_exchange": "coinbase_exchange_legacy",
    "gemini": "gemini",
    "okx": "okx",
}


@pytest.mark.parametrize("venue", CALM)
def test_a_calm_market_has_metrics_and_no_anomaly(venue: str) -> None:
    """Each valid metrics' best prices are those of our book's quote before; every quantity is in its range."""
    path = RECORDINGS / f"{CALM[venue]}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    quotes: dict[str, Quote] = {}
    valid = 0
    for _, event in run([path], Connections(venue), Pipeline()):
        assert not isinstance(event, Anomaly), event.text
        if isinstance(event, Quote) and event.source == "book":
            quotes[event.symbol] = event
        elif isinstance(event, Metrics) and event.valid and event.mid is not None:
            valid += 1
            quote = quotes[event.symbol]
            assert (event.bid, event.bid_size, event.ask, event.ask_size) == (
                quote.bid, quote.bid_size, quote.ask, quote.ask_size
            )  # fmt: skip
            assert event.imbalance is not None
            assert event.microprice is not None
            assert -1 < Decimal(event.imbalance) < 1
            assert Decimal(event.bid or "") <= Decimal(event.microprice) <= Decimal(event.ask or "")
            for depths in (event.bid_depths, event.ask_depths):
                assert sorted(map(Decimal, depths)) == list(map(Decimal, depths))
    assert valid > 10

"""The intervals of candles and their lengths in nanoseconds; a candle starts at a multiple of its length since 1970."""

from __future__ import annotations

from marketdata.clock import MINUTE_NS

INTERVALS: dict[str, int] = {
    "1m": MINUTE_NS,
    "5m": 5 * MINUTE_NS,
    "15m": 15 * MINUTE_NS,
    "1h": 60 * MINUTE_NS,
    "4h": 240 * MINUTE_NS,
    "1d": 1440 * MINUTE_NS,
}

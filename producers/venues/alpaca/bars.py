"""The minute bars of Alpaca's stream: the venue's own candles, and how often each was revised.

An updated bar, with late trades, is the next revision of its minute ("Real-time Stock Data", section "Minute Bars",
https://docs.alpaca.markets/docs/real-time-stock-pricing-data).
"""

from __future__ import annotations

from decimal import Decimal

from marketdata.clock import MINUTE_NS, format_rfc3339
from marketdata.decimals import plain
from marketdata.errors import BadEvent
from marketdata.events import Candle
from producers.venues.alpaca.messages import BarSent, UpdatedBarSent
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product
from producers.venues.kit.values import number

REVISIONS_KEPT = 10


def send(call: Call, product: Product, sent: BarSent, start: int, revisions: dict[int, int]) -> None:
    """Publish a bar; `revisions` are those of the product's last bars by their start, UTC ns. Raises BadEvent."""
    if start % MINUTE_NS:
        raise BadEvent("bad_time", "t", format_rfc3339(start))
    texts = {name: number(getattr(sent, name), name) for name in ("o", "h", "l", "c", "v", "vw")}
    values = {name: Decimal(text) for name, text in texts.items()}
    if not 0 < values["l"] <= min(values["o"], values["c"]) <= max(values["o"], values["c"]) <= values["h"]:
        raise BadEvent("not_a_candle", "h", texts["h"])
    for name in ("v", "vw"):
        if values[name] < 0:
            raise BadEvent("negative", name, texts[name])
    is_updated = isinstance(sent, UpdatedBarSent)
    revisions[start] = revision = revisions.get(start, -1) + 1 if is_updated else revisions.get(start, 0)
    while len(revisions) > REVISIONS_KEPT:
        del revisions[next(iter(revisions))]
    call.line.counts["candles"] += 1
    call.out.append(
        Candle(
            venue=call.line.venue, symbol=product.symbol, interval="1m", start=start, end=start + MINUTE_NS,
            ts_event=start + MINUTE_NS, ts_recv=call.ts, open=texts["o"], high=texts["h"], low=texts["l"],
            close=texts["c"], volume=texts["v"], quote_volume=plain(values["v"] * values["vw"]), trades=sent.n,
            state="revised" if revision else "final", revision=revision, **product.validity,
        )
    )  # fmt: skip

"""The events of a product's trades."""

from __future__ import annotations

from collections.abc import Sequence

from marketdata.clock import AHEAD_NS_MAX
from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from marketdata.events import GAP, POSITIVE_KINDS, TRADE_ID_LENGTH_MAX, Instrument, Trade, Trades
from producers.feed_kit.calls import Call
from producers.feed_kit.products import Product


def check(instrument: Instrument, trade: Trade) -> None:
    """Raise BadEvent for a price, a size or an id that no trade of this instrument may have."""
    if decimal(trade.price, "price") <= 0 and instrument.kind in POSITIVE_KINDS:
        raise BadEvent("not_positive", "price", trade.price)
    if decimal(trade.size, "size") <= 0:
        raise BadEvent("not_positive", "size", trade.size)
    if not 0 < len(trade.trade_id) <= TRADE_ID_LENGTH_MAX:
        raise BadEvent("bad_trade_id", "trade_id", trade.trade_id)


def send(call: Call, product: Product, batch: Sequence[Trade], *, origin: str = "live") -> None:
    """Tell trades, oldest first, that were not told before."""
    newest = max([trade.ts_event for trade in batch])
    product.ts_trade = max(product.ts_trade or 0, call.now if newest > call.ts + AHEAD_NS_MAX else newest)
    call.line.counts["trades"] += len(batch)
    if origin == "live" and product.doubts_tick([trade.price for trade in batch], call.ts):
        call.line.counts["ticks_doubted"] += 1
        call.out.append(product.instrument)
    call.out.append(
        Trades(venue=call.line.venue, symbol=product.symbol, ts_event=batch[-1].ts_event, ts_recv=call.ts,
               line=call.line.name, sequence=call.sequence, origin=origin, trades=tuple(batch), **product.validity)
    )  # fmt: skip


def heartbeat(call: Call, product: Product, ts_event: int) -> None:
    """Tell that no other trade happened until `ts_event`."""
    call.out.append(
        Trades(venue=call.line.venue, symbol=product.symbol, ts_event=max(ts_event, product.ts_trade or 0),
               ts_recv=call.ts, line=call.line.name, sequence=call.sequence, **product.validity)
    )  # fmt: skip


def missing(call: Call, product: Product) -> None:
    """Tell in the stream of trades itself that some are missing up to here."""
    call.out.append(
        Trades(venue=call.line.venue, symbol=product.symbol, ts_event=product.ts_trade or call.now, ts_recv=call.ts,
               line=call.line.name, sequence=call.sequence, valid=False, reason=GAP)
    )  # fmt: skip

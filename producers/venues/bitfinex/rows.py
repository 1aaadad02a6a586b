"""Bitfinex's trades, tickers, and what it sends of derivatives: rows of values, each known by its place.

DOCS is "Trades", "Ticker" and "Status", https://docs.bitfinex.com/reference/ws-public-trades, .../ws-public-ticker and
.../ws-public-status.

1. Trade: `[id, ms, amount, price]`; amount above 0 means that the taker bought (DOCS, v1 "Trades": the order that
   causes the trade determines if it is a buy or a sell). REST has the same rows.
2. Ticker: the sizes are sums of 25 levels (DOCS), so quotes have no sizes.
3. Status of a derivative (DOCS, "Derivatives Status"): place 3 is the price of the underlying pair, 7 the time of the
   next funding in ms, 8 what has accrued for it so far, 11 the funding of the present eight hours, 14 the mark price,
   17 the open interest. What is null there is unknown.
4. Liquidation (DOCS, "Liquidation feed updates"): `["pos", id, ms, null, symbol, amount, base price, null, is match,
   is market sold, null, price]`. The amount is that of the position, so that one above 0 is closed by a sale. A row
   with "is match" 0 says that a liquidation begins, and nothing was traded yet.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from marketdata.clock import MILLISECOND_NS
from marketdata.decimals import decimal, is_zero, plain
from marketdata.errors import BadEvent
from marketdata.events import Trade
from producers.venues.kit import derivatives, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product
from producers.venues.kit.values import INT64_MAX, check_trade, in_range, ms_ns, number, sent_ms_ns

FUNDING_S = 8 * 3_600
_TICKER_FIELDS = 10
_STATUS_FIELDS = 18
_LIQUIDATION_FIELDS = 12
_DERIVED = {"index_price": 3, "predicted_funding_rate": 8, "funding_rate": 11, "mark_price": 14, "open_interest": 17}
_NEXT_FUNDING = 7


def read_trade(row: Any) -> Trade:
    """Return a trade from `[id, ms, amount, price]`, as the stream and REST write it. Raises BadEvent."""
    if not isinstance(row, list) or len(row) != 4 or type(row[0]) is not int or not 0 <= row[0] <= INT64_MAX:
        raise BadEvent("bad_frame", "trade", str(row)[:200])
    amount, price = number(row[2], "amount"), number(row[3], "price")
    size = amount.lstrip("-")
    check_trade(price, size, ("price", "amount"))
    return Trade(
        trade_id=str(row[0]),
        ts_event=sent_ms_ns(row[1], "time"),
        price=price,
        size=size,
        side="sell" if amount[0] == "-" else "buy",
    )


def send_quote(call: Call, product: Product, values: Any) -> None:
    """Publish a ticker. Raises BadEvent."""
    if not isinstance(values, list) or len(values) < _TICKER_FIELDS:
        raise BadEvent("bad_frame", "ticker", str(values)[:200])
    bid, ask, last, volume, high, low = (
        None if values[at] is None else number(values[at], "ticker") for at in (0, 2, 6, 7, 8, 9)
    )
    change = None if values[5] is None else plain(Decimal(number(values[5], "change")) * 100)
    quotes.send(call, product, call.now, bid=_above_zero(bid), ask=_above_zero(ask), last=_above_zero(last),
                volume_24h=volume, high_24h=_above_zero(high), low_24h=_above_zero(low), change_24h=change)  # fmt: skip


def send_status(call: Call, product: Product, values: Any) -> None:
    """Publish the status of a derivative. Raises BadEvent."""
    if not isinstance(values, list) or len(values) < _STATUS_FIELDS:
        raise BadEvent("bad_frame", "status", str(values)[:200])
    found = derivatives.read(call, number, **{name: values[at] for name, at in _DERIVED.items()})
    due = derivatives.read(call, _time_ns, next_funding_ts=values[_NEXT_FUNDING])
    interval = None if found["funding_rate"] is None else FUNDING_S
    derivatives.send(call, product, _time_ns(values[0], "time"), **found, **due, funding_interval=interval)


def liquidated(row: Any) -> str | None:
    """Return the symbol of a liquidation at which something was traded, None for another row. Raises BadEvent."""
    if not isinstance(row, list) or len(row) < _LIQUIDATION_FIELDS or type(row[4]) is not str:
        raise BadEvent("bad_frame", "liquidation", str(row)[:200])
    return row[4] if row[0] == "pos" and row[8] == 1 and row[11] is not None else None


def send_liquidation(call: Call, product: Product, row: list[Any]) -> None:
    """Publish one liquidation. Raises BadEvent."""
    ts_event = _time_ns(row[2], "time")
    amount = number(row[5], "amount")
    one = derivatives.liquidation(
        call, ts_event=ts_event, side="buy" if amount[0] == "-" else "sell", price=number(row[11], "price"),
        size=amount.lstrip("-"), liquidation_id=str(row[1]),
    )  # fmt: skip
    derivatives.send(call, product, ts_event, liquidations=(one,))


def _time_ns(value: Any, field: str) -> int:
    """Return UTC nanoseconds of a time in ms, which may have a fraction. Raises BadEvent."""
    if type(value) is int and 0 <= value <= INT64_MAX:
        return ms_ns(value, field)
    return in_range(int(decimal(str(value), field) * MILLISECOND_NS), value, field)


def _above_zero(price: str | None) -> str | None:
    return None if price is None or is_zero(price) else price

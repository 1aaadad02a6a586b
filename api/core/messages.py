"""What clients read: the JSON shapes of REST answers and WebSocket messages, as plain values.

Every message and answer has `type`, `venue`, `symbol`, `timestamp` (RFC 3339, microseconds, Z), `valid`, `reason` and
`data`; WebSocket messages add `sequence`. All numbers of the market are decimal strings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from api.core.derivatives import DerivativeState, liquidations_json
from api.core.symbol_state import SymbolState
from api.core.trust import Trust
from marketdata.book import Level
from marketdata.clock import format_rfc3339
from marketdata.events import Anomaly, Candle, FeedStatus, Instrument, Liquidation, Metrics, Trade
from marketdata.sided_bar import vwap

Json = dict[str, Any]


def envelope(kind: str, state: SymbolState, ts: int, trust: Trust, data: Any, **more: Any) -> Json:
    """Return what every answer has, around its data; `ts_event` has all digits of `ts`, `more` only this one has."""
    return {
        "type": kind,
        "venue": state.venue,
        "symbol": state.symbol,
        "timestamp": format_rfc3339(ts),
        "ts_event": str(ts),
        "valid": trust.valid,
        "reason": trust.reason,
        "data": data,
    } | more


def numbered(kind: str, state: SymbolState, ts: int, trust: Trust, *, sequence: int, data: Any) -> Json:
    """Return a WebSocket message."""
    return {
        "type": kind,
        "venue": state.venue,
        "symbol": state.symbol,
        "timestamp": format_rfc3339(ts),
        "ts_event": str(ts),
        "sequence": sequence,
        "valid": trust.valid,
        "reason": trust.reason,
        "data": data,
    }


def levels(bids: Iterable[Level], asks: Iterable[Level]) -> Json:
    """Return both sides of a book, or of a change of one (size 0 removes)."""
    return {"bids": bids, "asks": asks}


def trade(value: Trade) -> Json:
    """Return one trade without its time.

    It has `action`, and the id that a correction replaces, only where it amends one; `conditions` and `excluded_from`
    only where there are some.
    """
    data: Json = {
        "trade_id": value.trade_id,
        "price": value.price,
        "size": value.size,
        "side": value.side,
        "liquidation": value.liquidation,
    }
    if value.action != "new":
        data["action"] = value.action
        if value.original_id:
            data["original_id"] = value.original_id
    if value.conditions:
        data["conditions"] = value.conditions
    if value.excluded_from:
        data["excluded_from"] = value.excluded_from
    return data


def candle(value: Candle) -> Json:
    """Return one candle; the prices are null where there was no trade. Only a bar by recipe has the fields of one."""
    data = {
        "interval": value.interval,
        "start": format_rfc3339(value.start),
        "end": format_rfc3339(value.end),
        "open": value.open,
        "high": value.high,
        "low": value.low,
        "close": value.close,
        "volume": value.volume,
        "quote_volume": value.quote_volume,
        "buy_volume": value.buy_volume,
        "trades": value.trades,
        "state": value.state,
        "revision": value.revision,
        "origin": value.origin,
        "valid": value.valid,
        "reason": value.reason,
        "vwap": vwap(value.quote_volume, value.volume),
    }
    if value.recipe:
        data |= {
            "recipe": value.recipe,
            "recipe_hash": value.recipe_hash,
            "number": value.number,
            "sell_volume": value.sell_volume,
            "buy_trades": value.buy_trades,
            "sell_trades": value.sell_trades,
        }
    return data


def metrics(value: Metrics) -> Json:
    """Return a book's metrics without their time; what is unknown is null."""
    return {"start": format_rfc3339(value.ts_from)} | {name: getattr(value, name) for name in METRICS}


METRICS = (
    "bid", "bid_size", "ask", "ask_size", "mid", "microprice", "spread", "spread_bps", "imbalance", "depth_bps",
    "bid_depths", "ask_depths", "bid_reach_bps", "ask_reach_bps", "order_flow", "changes", "best_price_changes",
)  # fmt: skip


def derivative(state: DerivativeState, liquidations: tuple[Liquidation, ...]) -> Json:
    """Return the newest value of each field of a derivative, and liquidations."""
    return state.latest() | {"liquidations": liquidations_json(liquidations)}


def anomaly(value: Anomaly) -> Json:
    """Return one anomaly as it is now: what was measured, which limit it crossed, and from when to when."""
    return {
        "anomaly_id": value.anomaly_id,
        "kind": value.kind,
        "severity": value.severity,
        "metric": value.metric,
        "value": value.value,
        "limit": value.limit,
        "evidence": value.evidence,
        "phase": value.phase,
        "usual": value.usual,
        "text": value.text,
    } | life(value.ts_event if value.ts_start is None else value.ts_start, value.ts_peak, value.ts_end)


def life(start: int, peak: int | None, end: int | None) -> Json:
    """Return the times of an anomaly: the end is null until it has ended."""
    times = {"start": start, "peak": peak, "end": end}
    return {name: None if ts is None else format_rfc3339(ts) for name, ts in times.items()}


def status(value: FeedStatus) -> Json:
    """Return what happened to a feed."""
    return {
        "kind": value.kind,
        "reason": value.reason,
        "detail": value.detail,
        "line": value.line,
        "channel": value.channel,
        "gap_id": value.gap_id,
        "expected": value.expected,
        "received": value.received,
    }


def instrument(value: Instrument) -> Json:
    """Return an instrument; what the venue does not list is null."""
    return {
        "venue": value.venue,
        "symbol": value.symbol,
        "venue_symbol": value.venue_symbol,
        "base_currency": value.base_currency,
        "quote_currency": value.quote_currency,
        "min_order_size": value.min_order_size,
        "tick_size": value.tick_size,
        "size_increment": value.size_increment,
        "status": value.status,
        "kind": value.kind,
        "expiry": None if value.expiry is None else format_rfc3339(value.expiry),
        "strike": value.strike,
        "contract_multiplier": value.contract_multiplier,
        "settlement_currency": value.settlement_currency,
        "inverse": value.inverse,
    }

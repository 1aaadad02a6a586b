"""Coinbase Advanced Trade's WebSocket frames and REST bodies from a market's state; pure.

Shapes are those of captured frames (level2, market_trades, ticker, candles, heartbeats, subscriptions) and, for status,
errors and ticker_batch, of https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels.
Times are RFC 3339 with trailing zeros cut off, as Go prints them. A trade's `side` is the maker's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from infra.simulator.market import Bar, Market, Step
from infra.simulator.matching import ASK, BID
from infra.simulator.record import Trade
from marketdata.clock import SECOND_NS
from marketdata.decimals import plain

CANDLE_S = 300
SNAPSHOT_TRADES = 100
SNAPSHOT_CANDLES = 100

_SIDES = {BID: "bid", ASK: "offer"}
_MAKERS = {BID: "BUY", ASK: "SELL"}
# A year's range is beyond what we remember: so far off the day's range.
_YEAR_LOW, _YEAR_HIGH = 3, 5


@lru_cache(maxsize=16)
def _second_text(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def time_text(ts: int, digits: int = 9) -> str:
    """Return RFC 3339 with at most `digits` of a second's fraction, trailing zeros cut off."""
    seconds, rest = divmod(ts, SECOND_NS)
    fraction = f"{rest:09d}"[:digits].rstrip("0")
    return f"{_second_text(seconds)}.{fraction}Z" if fraction else f"{_second_text(seconds)}Z"


def go_time_text(ts: int, up_ns: int) -> str:
    """Return a time as Go's `Time.String` prints one that carries the monotonic clock."""
    date, clock = time_text(ts)[:-1].split("T")
    return f"{date} {clock} +0000 UTC m=+{up_ns // SECOND_NS}.{up_ns % SECOND_NS:09d}"


def frame(channel: str, ts: int, sequence: int, events: bytes) -> bytes:
    """Return a whole frame around its encoded events."""
    return b'{"channel":"%b","timestamp":"%b","sequence_num":%d,"events":%b}' % (
        channel.encode(),
        time_text(ts).encode(),
        sequence,
        events,
    )


def error(message: str) -> bytes:
    """Return the frame that answers a request which cannot be served; it has no sequence number."""
    return orjson.dumps({"type": "error", "message": message})


def subscriptions(channels: Mapping[str, Iterable[str]]) -> bytes:
    """Return the events of the answer to every subscribe and unsubscribe: all that is subscribed now."""
    return orjson.dumps([{"subscriptions": {name: list(channels[name]) for name in sorted(channels)}}])


def book_snapshot(market: Market) -> bytes:
    """Return the events of a level2 snapshot, every level, bids first, best first."""
    price, size, time = market.price.string, market.size.string, time_text(market.ts, 6)
    updates = [
        {"side": _SIDES[side], "event_time": time, "price_level": price(ticks), "new_quantity": size(lots)}
        for side in (BID, ASK)
        for ticks, lots in market.book.levels(side)
    ]
    return orjson.dumps([{"type": "snapshot", "product_id": market.product.symbol, "updates": updates}])


def book_update(market: Market, steps: Iterable[Step]) -> bytes:
    """Return the events of a level2 update: every level that the steps touched, with its new size."""
    price, size = market.price.string, market.size.string
    latest: dict[tuple[int, int], tuple[str, int]] = {}
    for step in steps:
        time = time_text(step.ts, 6)
        for side, ticks, _, after in step.changes:
            latest[side, ticks] = time, after
    # Names, times and decimals need no escaping, so that the bytes can be put together here.
    updates = ",".join([
        f'{{"side":"{_SIDES[side]}","event_time":"{time}","price_level":"{price(ticks)}","new_quantity":"{size(lots)}"}}'
        for (side, ticks), (time, lots) in latest.items()
    ])  # fmt: skip
    return f'[{{"type":"update","product_id":"{market.product.symbol}","updates":[{updates}]}}]'.encode()


def trades(market: Market, kind: str, newest_first: Iterable[Trade]) -> bytes:
    """Return the events of a market_trades snapshot or update."""
    return orjson.dumps([{"type": kind, "trades": [_trade(market, trade) for trade in newest_first]}])


def _trade(market: Market, trade: Trade) -> dict[str, str]:
    return {
        "product_id": market.product.symbol,
        "trade_id": str(trade.trade_id),
        "price": market.price.string(trade.ticks),
        "size": market.size.string(trade.lots),
        "time": time_text(trade.ts, 6),
        "side": _MAKERS[trade.maker_side],
    }


def ticker(market: Market, kind: str, *, batch: bool = False) -> bytes:
    """Return the events of a ticker frame; the batch channel has no best bid and ask."""
    day, price = market.day(), market.price.string
    values = {
        "type": "ticker",
        "product_id": market.product.symbol,
        "price": price(day.last),
        "volume_24_h": market.size.string(day.lots),
        "low_24_h": price(day.low),
        "high_24_h": price(day.high),
        "low_52_w": price(max(1, day.low * _YEAR_LOW // 4)),
        "high_52_w": price(day.high * _YEAR_HIGH // 4),
        "price_percent_chg_24_h": _percent(day.last, day.open),
    }
    if not batch:
        bid, ask = market.book.best(BID), market.book.best(ASK)
        values |= {
            "best_bid": "0" if bid is None else price(bid),
            "best_ask": "0" if ask is None else price(ask),
            "best_bid_quantity": market.size.string(0 if bid is None else market.book.size_at(BID, bid)),
            "best_ask_quantity": market.size.string(0 if ask is None else market.book.size_at(ASK, ask)),
        }
    return orjson.dumps([{"type": kind, "tickers": [values]}])


def _percent(last: int, opening: int) -> str:
    return f"{(last - opening) * 100 / opening:.14f}".rstrip("0").rstrip(".")


def candles(market: Market, kind: str, bars: Iterable[Bar]) -> bytes:
    """Return the events of a candles frame, five-minute buckets, oldest first."""
    return orjson.dumps(
        [{"type": kind, "candles": [_candle(market, bar) | {"product_id": market.product.symbol} for bar in bars]}]
    )


def _candle(market: Market, bar: Bar) -> dict[str, str]:
    price = market.price.string
    return {
        "start": str(bar.start),
        "high": price(bar.high),
        "low": price(bar.low),
        "open": price(bar.open),
        "close": price(bar.close),
        "volume": market.size.string(bar.lots),
    }


def heartbeat(ts: int, up_ns: int) -> bytes:
    """Return the events of a heartbeat: the time, and a counter of the seconds that the exchange is up."""
    return orjson.dumps([{"current_time": go_time_text(ts, up_ns), "heartbeat_counter": up_ns // SECOND_NS}])


def status(kind: str, markets: Iterable[Market]) -> bytes:
    """Return the events of a status frame; a halted product's status is `offline` and its message gives the reason."""
    return orjson.dumps(
        [
            {
                "type": kind,
                "products": [
                    {
                        "product_type": "SPOT",
                        "id": market.product.symbol,
                        "base_currency": market.product.base,
                        "quote_currency": market.product.quote,
                        "base_increment": market.product.lot,
                        "quote_increment": market.product.tick,
                        "display_name": f"{market.product.base}/{market.product.quote}",
                        "status": "offline" if market.halted else "online",
                        "status_message": "trading_disabled" if market.halted else "",
                        "min_market_funds": "1",
                    }
                    for market in markets
                ],
            }
        ]
    )


def product(market: Market) -> dict[str, Any]:
    """Return a product as REST lists it."""
    day, price, names = market.day(), market.price.string, market.product
    value = plain(day.lots * market.size.value * day.last * market.price.value)
    return {
        "product_id": names.symbol,
        "price": price(day.last),
        "price_percentage_change_24h": _percent(day.last, day.open),
        "volume_24h": market.size.string(day.lots),
        "volume_percentage_change_24h": "0",
        "base_increment": names.lot,
        "quote_increment": names.tick,
        "quote_min_size": "1",
        "quote_max_size": "150000000",
        "base_min_size": names.lot,
        "base_max_size": "1000000",
        "base_name": names.base_name,
        "quote_name": names.quote_name,
        "watched": False,
        "is_disabled": market.halted,
        "new": False,
        "status": "offline" if market.halted else "online",
        "cancel_only": False,
        "limit_only": False,
        "post_only": False,
        "trading_disabled": market.halted,
        "auction_mode": False,
        "product_type": "SPOT",
        "quote_currency_id": names.quote,
        "base_currency_id": names.base,
        "fcm_trading_session_details": None,
        "mid_market_price": "",
        "alias": "",
        "alias_to": [],
        "base_display_symbol": names.base,
        "quote_display_symbol": names.quote,
        "view_only": False,
        "price_increment": names.tick,
        "display_name": names.symbol,
        "product_venue": "CBE",
        "approximate_quote_24h_volume": value,
        "new_at": "2023-01-01T00:00:00Z",
        "market_cap": "",
        "base_cbrn": "",
        "quote_cbrn": "",
        "product_cbrn": "",
        "icon_color": "",
        "icon_url": "",
        "display_name_overwrite": "",
        "is_alpha_testing": False,
        "about_description": "",
        "best_bid_price": "",
        "best_ask_price": "",
        "high_24h": price(day.high),
        "low_24h": price(day.low),
    }


def rest_trades(market: Market, newest_first: Iterable[Trade]) -> dict[str, Any]:
    """Return the body of a product's recent trades, newest first."""
    bid, ask = market.book.best(BID), market.book.best(ASK)
    return {
        "trades": [_trade(market, trade) | {"bid": "", "ask": "", "exchange": "coinbase"} for trade in newest_first],
        "best_bid": "" if bid is None else market.price.string(bid),
        "best_ask": "" if ask is None else market.price.string(ask),
    }


def rest_candles(market: Market, bars: Sequence[Bar]) -> dict[str, Any]:
    """Return the body of a product's candles, newest first."""
    return {"candles": [_candle(market, bar) for bar in reversed(bars)]}


def rest_book(
    market: Market, bids: Sequence[tuple[int, int]], asks: Sequence[tuple[int, int]], depth: int | None
) -> dict[str, Any]:
    """Return sides of a book as [price, size] strings, best first."""
    price, size = market.price.string, market.size.string
    return {
        "bids": [[price(ticks), size(lots)] for ticks, lots in bids[:depth]],
        "asks": [[price(ticks), size(lots)] for ticks, lots in asks[:depth]],
    }

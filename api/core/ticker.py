"""The ticker of a symbol, pure: best bid and offer, the last trade that stands, and the statistics of the day."""

from __future__ import annotations

from typing import Any

import msgspec

from api.core.symbol_state import SymbolState, Ticker
from api.core.trust import Trust
from marketdata.events import OPEN_CLOSE, Trade

AMENDMENTS_MAX = 1_000


def merge_ticker(state: SymbolState) -> Ticker | None:
    """Merge the best bid and offer of the book with the venue's statistics, or the day's candles where it has none."""
    best = state.book_quote or state.venue_quote
    if best is None:
        return None
    statistics = state.venue_quote
    last, last_ts = (statistics.last, statistics.ts_event) if statistics and statistics.last else (None, 0)
    if state.last is not None and state.last.ts_event >= last_ts:
        last, last_ts = state.last.price, state.last.ts_event
    data: dict[str, Any] = {
        "bid": best.bid,
        "bid_size": best.bid_size,
        "ask": best.ask,
        "ask_size": best.ask_size,
        "last": last,
    }
    if statistics is not None and statistics.volume_24h is not None:
        data["volume_24h"], data["high_24h"] = statistics.volume_24h, statistics.high_24h
        data["low_24h"], data["change_24h"] = statistics.low_24h, statistics.change_24h
    else:
        day = state.day.statistics()
        data["volume_24h"], data["high_24h"] = (day.volume, day.high) if day else (None, None)
        data["low_24h"], data["change_24h"] = (day.low, day.change) if day else (None, None)
    trust = Trust(best.valid, best.reason)
    if best.source == "book" and not state.book.trust.valid:
        trust = state.book.trust
    return Ticker(max(best.ts_event, last_ts), best.ts_recv, trust, best.source == "book", data)


def amend(state: SymbolState, amendment: Trade) -> None:
    """Take a correction or a cancel in: what it takes back is the last trade no more."""
    original = amendment.original_id or amendment.trade_id
    state.amendments[original] = amendment
    if len(state.amendments) > AMENDMENTS_MAX:
        del state.amendments[next(iter(state.amendments))]
    takes_back = state.last is not None and state.last.trade_id == original
    if takes_back or amendment.action == "correct":
        known = [last_trade(state, each.trade) for each in state.trades if each.trade.action == "new"]
        standing = [trade for trade in known if trade is not None]
        if state.last is not None and not takes_back:
            standing.insert(0, state.last)
        # Of several at the same time the one that came last, as in the stream.
        state.last = max(reversed(standing), key=lambda trade: trade.ts_event, default=None)


def last_trade(state: SymbolState, trade: Trade) -> Trade | None:
    """Return what a trade counts as after its amendments; None when it does not set the last price."""
    standing = _standing(state, trade)
    return None if standing is None or OPEN_CLOSE in standing.excluded_from else standing


def _standing(state: SymbolState, trade: Trade) -> Trade | None:
    """Return what a trade counts as after its amendments, which may have come before it: None when it was canceled."""
    for _ in range(AMENDMENTS_MAX):
        amendment = state.amendments.get(trade.trade_id)
        if amendment is None:
            break
        if amendment.action == "cancel":
            return None
        kept_id = amendment.trade_id == trade.trade_id
        trade = msgspec.structs.replace(amendment, ts_event=trade.ts_event)
        if kept_id:
            break
    return trade

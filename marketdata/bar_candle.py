"""The candle event of a bar, of live trades or of history: every candle's fields, and those of bars by recipe."""

from __future__ import annotations

import msgspec

from marketdata.events import Candle
from marketdata.ohlcv import Bar
from marketdata.recipes import Recipe
from marketdata.sided_bar import BySide, SidedBar, vwap

_NO_TRADES = BySide(0, 0, "0")


def candle_of(
    bar: Bar | SidedBar | None,
    *,
    venue: str,
    symbol: str,
    origin: str,
    interval: str,
    start: int,
    end: int,
    ts_event: int,
    ts_recv: int,
    revision: int = 0,
    reason: str = "",
    number: int | None = None,
) -> Candle:
    """Return the candle of a bar (None without trades) as of `ts_event`; `revision` is -1 while it is open."""
    opened: str | None = None
    high: str | None = None
    low: str | None = None
    close: str | None = None
    volume = quote_volume = buy_volume = "0"
    if bar is not None:
        opened, high, low, close, volume, quote_volume, buy_volume = bar.figures()
    return Candle(
        venue=venue,
        symbol=symbol,
        interval=interval,
        start=start,
        end=end,
        ts_event=ts_event,
        ts_recv=ts_recv,
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=volume,
        quote_volume=quote_volume,
        buy_volume=buy_volume,
        trades=0 if bar is None else bar.trades,
        state="open" if revision < 0 else "revised" if revision else "final",
        revision=max(revision, 0),
        origin=origin,
        valid=not reason,
        reason=reason,
        number=number,
    )


def of_recipe(candle: Candle, recipe: Recipe, bar: SidedBar | None) -> Candle:
    """Return a candle with its recipe, its average price and the sums by side of its trades (None without trades)."""
    by_side = _NO_TRADES if bar is None else bar.by_side()
    return msgspec.structs.replace(
        candle,
        recipe=recipe.name,
        recipe_hash=recipe.hash,
        vwap=vwap(candle.quote_volume, candle.volume),
        sell_volume=by_side.sell_volume,
        buy_trades=by_side.buy_trades,
        sell_trades=by_side.sell_trades,
    )

"""The fields of a candle that only bars by recipe have."""

from __future__ import annotations

import msgspec

from marketdata.events import Candle
from marketdata.recipes import Recipe
from marketdata.sided_bar import BySide, SidedBar, vwap

_NO_TRADES = BySide(0, 0, "0")


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

"""Rolling medians; compiled where `make setup` could build them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marketdata import compiled

if TYPE_CHECKING or compiled.trades is None:
    from marketdata.plain_window import Window
else:
    Window = compiled.trades.Window

__all__ = ["Window"]

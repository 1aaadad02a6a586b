"""`tickstream venues`: what each venue's feed and history can do, read from their code."""

from __future__ import annotations

import sys
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from infra.simulator.replay.server import can_play
from marketdata.errors import SettingsError
from producers.venues import HISTORIES, VENUES, find_venue, make_history
from producers.venues.kit.history import Access, TradeHistory

# Some histories cannot be made without a key; nothing is asked with this one.
_NO_KEY = Access(key="none", secret="none")  # noqa: S106 - it is no secret

WIDTH = 200

_HEADINGS = {
    "venue": "venue",
    "transport": "transport",
    "depth": "book",
    "sequence": "sequence",
    "checksum": "checksum",
    "key": "key",
    "replay": "replay",
    "history": "history",
    "products": "products",
    "address": "address",
}


def rows() -> list[dict[str, Any]]:
    """Return a row for each venue, in order of name."""
    found = []
    for name in sorted(VENUES):
        venue = find_venue(name)
        found.append(
            {
                "venue": name,
                "transport": venue.transport,
                "depth": venue.depth,
                "sequence": venue.sequence,
                "checksum": venue.checksum,
                "key": venue.key,
                "lifetime_s": venue.lifetime_s,
                "replay": can_play(name, venue.transport),
                "history": _history(name),
                "products": list(venue.products),
                "markets": dict(venue.markets),
                "address": venue.ws_url,
                "rest": venue.rest_url,
            }
        )
    return found


def _history(name: str) -> dict[str, Any] | None:
    """Return the candles' intervals and whether there are trades; None without an adapter."""
    if name not in HISTORIES:
        return None
    try:
        history = make_history(name, _NO_KEY)
    except SettingsError:
        return {"intervals": [], "trades": False}
    return {"intervals": sorted(history.intervals), "trades": isinstance(history, TradeHistory)}


def print_table() -> None:
    """Print the venues for a person."""
    table = Table(*_HEADINGS.values())
    for row in rows():
        table.add_row(*(_cell(name, row[name]) for name in _HEADINGS))
    # A pipe has no width of its own, by which the columns would be cut.
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def print_json() -> None:
    """Print all that is known, for a program."""
    sys.stdout.buffer.write(orjson.dumps(rows(), option=orjson.OPT_INDENT_2) + b"\n")


def _cell(name: str, value: Any) -> str:
    if name == "history":
        return "" if value is None else " ".join(["candles"] * bool(value["intervals"]) + ["trades"] * value["trades"])
    if isinstance(value, bool):
        return "yes" if value else ""
    return " ".join(value) if isinstance(value, list) else str(value)

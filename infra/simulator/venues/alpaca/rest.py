"""The simulated Alpaca over HTTP: history of trades and bars by pages, faults, health and metrics."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import msgspec
from fastapi import FastAPI, Header, HTTPException, Query, Response
from pydantic import BaseModel, Field

from infra.simulator import control
from infra.simulator.venues.alpaca.market import Message, Stock, time_text
from infra.simulator.venues.alpaca.server import AlpacaExchange
from marketdata.clock import parse_rfc3339
from marketdata.errors import BadEvent

LIMIT_MAX = 10_000
# The fields of each in history, by Alpaca's names; `u` is the amendment of a trade, if any.
_FIELDS = {"trades": ("t", "x", "p", "s", "c", "i", "z", "u"), "bars": ("t", "o", "h", "l", "c", "v", "n", "vw")}
_JSON = msgspec.json.Encoder(decimal_format="number")

Name = Literal["trades", "bars"]
Key = Annotated[str, Header(alias="APCA-API-KEY-ID")]
Secret = Annotated[str, Header(alias="APCA-API-SECRET-KEY")]


class Asked(BaseModel):
    """The parameters of a history request; others are ignored."""

    symbols: str = ""
    timeframe: str = "1Min"
    start: str = ""
    end: str = ""
    limit: int = Field(default=1_000, ge=1, le=LIMIT_MAX)
    page_token: str = ""


def create_app(exchange: AlpacaExchange) -> FastAPI:
    """Return the application over one exchange."""
    app = control.create_app(exchange, "Simulated Alpaca market data")
    _add_history(app, exchange)
    return app


def _add_history(app: FastAPI, exchange: AlpacaExchange) -> None:
    def stocks(symbols: str, key: str, secret: str) -> list[Stock]:
        if not key or exchange.keys.get(key) != secret:
            raise HTTPException(403, "forbidden.")
        names = sorted({name for name in symbols.split(",") if name})
        if not names or any(name not in exchange.market.stocks for name in names):
            raise HTTPException(400, f"invalid symbol: {symbols}")
        return [exchange.market.stocks[name] for name in names]

    @app.get("/v2/stocks/{name}")
    async def of_many(name: Name, asked: Annotated[Asked, Query()], key: Key = "", secret: Secret = "") -> Response:
        """Trades or minute bars of several symbols, by symbol and time, by pages."""
        rows, more = _page(name, stocks(asked.symbols, key, secret), asked)
        by_symbol: dict[str, list[Message]] = {}
        for symbol, row in rows:
            by_symbol.setdefault(symbol, []).append(row)
        return _answer({name: by_symbol, "next_page_token": more})

    @app.get("/v2/stocks/{symbol}/{name}")
    async def of_one(
        symbol: str, name: Name, asked: Annotated[Asked, Query()], key: Key = "", secret: Secret = ""
    ) -> Response:
        """Trades or minute bars of one symbol, oldest first, by pages; without any there is no list."""
        rows, more = _page(name, stocks(symbol, key, secret), asked)
        return _answer({name: [row for _, row in rows] or None, "symbol": symbol, "next_page_token": more})


def _page(name: Name, stocks: list[Stock], asked: Asked) -> tuple[list[tuple[str, Message]], str | None]:
    """Return one page of rows with their symbols, and the token of the next."""
    if asked.timeframe not in {"1Min", "1T"}:
        raise HTTPException(400, f"invalid timeframe: {asked.timeframe}, here there is 1Min")
    first = _time(asked.start, "start") if asked.start else 0
    last = _time(asked.end, "end") if asked.end else None
    rows = [
        (stock.symbol, row)
        for stock in stocks
        for row in sorted((stock.trades if name == "trades" else stock.minutes).values(), key=lambda row: row["t"])
        if row["t"] >= first and (last is None or row["t"] <= last)
    ]
    try:
        place = int(base64.urlsafe_b64decode(asked.page_token)) if asked.page_token else 0
    except ValueError:
        raise HTTPException(400, "invalid page_token") from None
    following = place + asked.limit
    token = base64.urlsafe_b64encode(b"%d" % following).decode() if following < len(rows) else None
    page = [(symbol, {field: row[field] for field in _FIELDS[name] if field in row} | {"t": time_text(row["t"])})
            for symbol, row in rows[place:following]]  # fmt: skip
    return page, token


def _time(text: str, name: str) -> int:
    try:
        return parse_rfc3339(text if "T" in text else f"{text}T00:00:00Z", name)
    except BadEvent:
        raise HTTPException(400, f"invalid {name}: {text}") from None


def _answer(body: Message) -> Response:
    return Response(_JSON.encode(body), media_type="application/json")

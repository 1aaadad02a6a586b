"""The simulated Alpaca over HTTP: history of trades and bars by pages, faults, health and metrics."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import FastAPI, Header, HTTPException, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from infra.exchange.alpaca_market import MINUTE_NS, Message
from infra.exchange.control import add_faults
from marketdata.clock import SECOND_NS, format_rfc3339, parse_rfc3339
from marketdata.errors import BadEvent

if TYPE_CHECKING:
    from infra.exchange.alpaca import AlpacaExchange

LIMIT_MAX = 10_000
_JSON = msgspec.json.Encoder(decimal_format="number")

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX)]
Key = Annotated[str, Header(alias="APCA-API-KEY-ID")]
Secret = Annotated[str, Header(alias="APCA-API-SECRET-KEY")]


def time_text(ts: int) -> str:
    """Return a time as Alpaca writes it: RFC 3339 with as many of nine digits as there are."""
    fraction = f"{ts % SECOND_NS:09d}".rstrip("0")
    return format_rfc3339(ts)[:19] + (f".{fraction}" if fraction else "") + "Z"


def create_app(exchange: AlpacaExchange) -> FastAPI:
    """Return the application over one exchange."""
    app = FastAPI(title="Simulated Alpaca market data", docs_url="/docs", redoc_url=None)
    _add_history(app, exchange)
    add_faults(app, exchange)

    @app.get("/healthz")
    @app.get("/readyz")
    async def health(response: Response) -> dict[str, Any]:
        """Whether the exchange is at work."""
        healthy = not exchange.broken.is_set()
        response.status_code = 200 if healthy else 503
        return {"status": "alive" if healthy else "broken", "connections": len(exchange.clients)}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _add_history(app: FastAPI, exchange: AlpacaExchange) -> None:
    def stock(symbol: str, key: str, secret: str) -> Any:
        if not key or exchange.keys.get(key) != secret:
            raise HTTPException(403, "forbidden.")
        if symbol not in exchange.market.stocks:
            raise HTTPException(400, f"invalid symbol: {symbol}")
        return exchange.market.stocks[symbol]

    @app.get("/v2/stocks/{symbol}/trades")
    async def trades(
        *, symbol: str, start: str = "", end: str = "", limit: Limit = 1_000, page_token: str = "",
        key: Key = "", secret: Secret = "",
    ) -> Response:  # fmt: skip
        """Trades by time, oldest first, by pages."""
        told = sorted(stock(symbol, key, secret).trades, key=lambda trade: (trade["t"], trade["i"]))
        rows = [{name: row[name] for name in "txpsciz"} for row in _between(told, start, end)]
        return _page("trades", symbol, rows, limit, page_token)

    @app.get("/v2/stocks/{symbol}/bars")
    async def bars(
        *, symbol: str, timeframe: str, start: str = "", end: str = "", limit: Limit = 1_000, page_token: str = "",
        key: Key = "", secret: Secret = "",
    ) -> Response:  # fmt: skip
        """Bars of a minute, the last revision of each, oldest first, by pages."""
        minutes = stock(symbol, key, secret).minutes
        if timeframe not in {"1Min", "1T"}:
            raise HTTPException(400, f"invalid timeframe: {timeframe}, here there is 1Min")
        told = [minutes[start_] for start_ in sorted(minutes)]
        rows = [{name: row[name] for name in ("t", "o", "h", "l", "c", "v", "n", "vw")}
                for row in _between(told, start, end, before=MINUTE_NS)]  # fmt: skip
        return _page("bars", symbol, rows, limit, page_token)


def _between(rows: list[Message], start: str, end: str, before: int = 0) -> list[Message]:
    """Return the rows from `start` to `end`, both included; `before` takes the bar that `start` lies in."""
    first = _time(start, "start") // max(1, before) * max(1, before) if start else 0
    last = _time(end, "end") if end else None
    return [row for row in rows if row["t"] >= first and (last is None or row["t"] <= last)]


def _time(text: str, name: str) -> int:
    try:
        return parse_rfc3339(text if "T" in text else f"{text}T00:00:00Z", name)
    except BadEvent:
        raise HTTPException(400, f"invalid {name}: {text}") from None


def _page(name: str, symbol: str, rows: list[Message], limit: int, token: str) -> Response:
    try:
        place = int(base64.urlsafe_b64decode(token)) if token else 0
    except ValueError:
        raise HTTPException(400, "invalid page_token") from None
    following = place + limit
    more = base64.urlsafe_b64encode(b"%d" % following).decode() if following < len(rows) else None
    told = [row | {"t": time_text(row["t"])} for row in rows[place:following]]
    body = {name: told, "symbol": symbol, "next_page_token": more}
    return Response(_JSON.encode(body), media_type="application/json")

"""The simulated exchange over HTTP: Coinbase's REST API, its own books at any sequence, faults, health and metrics.

Every handler is a coroutine without an await, so that it never sees a market in the middle of an order.
"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import FastAPI, HTTPException, Query, Response
from pydantic import BaseModel, Field

from infra.simulator import control
from infra.simulator.market import HistoryGone, Market
from infra.simulator.matching import ASK, BID
from infra.simulator.settings import RATE_MAX
from infra.simulator.venues.coinbase import frames
from infra.simulator.venues.coinbase.book_record import book_record
from infra.simulator.venues.coinbase.connection import Connection
from infra.simulator.venues.coinbase.server import Exchange
from marketdata.clock import SECOND_NS

MARKET = "/api/v3/brokerage/market"
GRANULARITIES = {
    "ONE_MINUTE": 60,
    "FIVE_MINUTE": 300,
    "FIFTEEN_MINUTE": 900,
    "THIRTY_MINUTE": 1_800,
    "ONE_HOUR": 3_600,
    "TWO_HOUR": 7_200,
    "SIX_HOUR": 21_600,
    "ONE_DAY": 86_400,
}
CANDLES_MAX = 350
TRADES_LIMIT_MAX = 1_000
RECORDED_TRADES_MAX = 100_000

_AGGRESSORS = {BID: "sell", ASK: "buy"}


class Rate(BaseModel):
    """Orders per second over all products."""

    events_per_s: float = Field(ge=0, le=RATE_MAX, examples=[500])


class BookBatch(BaseModel):
    """Maximum wait of a book's changes for its next frame, milliseconds; 0 sends them at once."""

    book_batch_ms: int = Field(ge=0, le=60_000, examples=[50])


def _connection_view(connection: Connection) -> dict[str, Any]:
    return {
        "connection": connection.id,
        "peer": connection.peer,
        "opened": connection.opened,
        "closed": connection.closed,
        "last_sequence": connection.sequence - 1,
        "channels": {name: list(symbols) for name, symbols in connection.channels.items()},
    }


def _market(exchange: Exchange, symbol: str) -> Market:
    market = exchange.markets.get(symbol)
    if market is None:
        raise HTTPException(404, f"{symbol} is not a product: there are {', '.join(exchange.markets)}")
    return market


def create_app(exchange: Exchange) -> FastAPI:
    """Return the application over one exchange."""
    app = control.create_app(exchange, "Simulated Coinbase Advanced Trade")
    _add_rest(app, exchange)
    _add_control(app, exchange)
    _add_record(app, exchange)
    return app


def _add_rest(app: FastAPI, exchange: Exchange) -> None:
    @app.get(f"{MARKET}/products")
    async def products() -> dict[str, Any]:
        """Every product, as Coinbase lists them."""
        listed = [frames.product(market) for market in exchange.markets.values()]
        pages = {"prev_cursor": "", "next_cursor": "", "has_next": False, "has_prev": False}
        return {"products": listed, "num_products": len(listed), "pagination": pages}

    @app.get(f"{MARKET}/products/{{symbol}}")
    async def product(symbol: str) -> dict[str, Any]:
        """One product."""
        return frames.product(_market(exchange, symbol))

    @app.get(f"{MARKET}/products/{{symbol}}/ticker")
    async def trades(
        symbol: str,
        limit: Annotated[int, Query(ge=1, le=TRADES_LIMIT_MAX)] = 100,
        start: Annotated[int, Query(ge=0, description="UTC seconds, inclusive.")] = 0,
        end: Annotated[int | None, Query(ge=0, description="UTC seconds, exclusive.")] = None,
    ) -> dict[str, Any]:
        """The last trades, newest first."""
        market = _market(exchange, symbol)
        recent = market.recent(limit, start * SECOND_NS, None if end is None else end * SECOND_NS)
        return frames.rest_trades(market, recent)

    @app.get(f"{MARKET}/products/{{symbol}}/candles")
    async def candles(
        symbol: str,
        start: Annotated[int, Query(ge=0, description="UTC seconds.")],
        end: Annotated[int, Query(ge=0, description="UTC seconds.")],
        granularity: str = "FIVE_MINUTE",
        limit: Annotated[int, Query(ge=1, le=CANDLES_MAX)] = CANDLES_MAX,
    ) -> dict[str, Any]:
        """Candles, newest first, at most 350."""
        market = _market(exchange, symbol)
        if granularity not in GRANULARITIES:
            raise HTTPException(400, f"granularity is one of {', '.join(GRANULARITIES)}")
        return frames.rest_candles(market, market.candles(GRANULARITIES[granularity], start, end)[-limit:])

    @app.get(f"{MARKET}/product_book")
    async def product_book(product_id: str, limit: Annotated[int | None, Query(ge=1)] = None) -> dict[str, Any]:
        """The current book."""
        market = _market(exchange, product_id)
        sides = frames.rest_book(market, market.book.levels(BID), market.book.levels(ASK), limit)
        named = {side: [{"price": price, "size": size} for price, size in levels] for side, levels in sides.items()}
        return {"pricebook": {"product_id": product_id, **named, "time": frames.time_text(market.ts, 6)}}


def _add_control(app: FastAPI, exchange: Exchange) -> None:
    @app.get("/connections")
    async def connections() -> list[dict[str, Any]]:
        """Open connections and the last closed ones; times in UTC nanoseconds."""
        return [_connection_view(one) for one in [*exchange.past, *exchange.connections.values()]]

    @app.get("/rate")
    async def rate() -> Rate:
        """The current rate of orders."""
        return Rate(events_per_s=exchange.rate)

    @app.put("/rate")
    async def set_rate(rate: Rate) -> Rate:
        """Change the rate of orders."""
        exchange.rate = rate.events_per_s
        return rate

    @app.get("/book_batch")
    async def book_batch() -> BookBatch:
        """The current maximum wait of a book's changes."""
        return BookBatch(book_batch_ms=exchange.book_batch_ms)

    @app.put("/book_batch")
    async def set_book_batch(batch: BookBatch) -> BookBatch:
        """Change the maximum wait of a book's changes."""
        exchange.book_batch_ms = batch.book_batch_ms
        return batch


def _add_record(app: FastAPI, exchange: Exchange) -> None:
    @app.get("/record")
    async def record() -> list[dict[str, Any]]:
        """The activity of each market, and the first recorded trade and book version.

        Trade ids rise by one from the first to the last.
        """
        return [
            {
                "symbol": symbol,
                "first_trade_id": market.first_trade_id,
                "last_trade_id": market.next_trade_id - 1,
                "version": market.version,
                "trades_kept_from": market.trades.first_id,
                "versions_kept_from": market.versions_kept_from,
                "halted": market.halted,
            }
            for symbol, market in exchange.markets.items()
        ]

    @app.get("/record/{symbol}/trades")
    async def recorded_trades(
        symbol: str,
        since: Annotated[int, Query(ge=0, description="The first trade id.")] = 0,
        limit: Annotated[int, Query(ge=1, le=RECORDED_TRADES_MAX)] = RECORDED_TRADES_MAX,
    ) -> Response:
        """The market's trades from an id on, oldest first, each once: `[id, UTC ns, price, size, aggressor's side]`.

        Times are truncated to microseconds, as in the frames; `side` is `buy` or `sell`.
        """
        market = _market(exchange, symbol)
        price, size = market.price.string, market.size.string
        trades = [
            (str(one.trade_id), one.ts // 1_000 * 1_000, price(one.ticks), size(one.lots), _AGGRESSORS[one.maker_side])
            for one in market.trades.since(since, limit)
        ]
        return Response(orjson.dumps({"symbol": symbol, "trades": trades}), media_type="application/json")

    @app.get("/record/{symbol}/book")
    async def recorded_book(symbol: str) -> Response:
        """Every remembered version of the book, and which of them each connection was sent.

        It takes a moment: stop the orders first (`PUT /rate`).
        """
        body = book_record(_market(exchange, symbol), [*exchange.past, *exchange.connections.values()])
        return Response(orjson.dumps(body), media_type="application/json")

    @app.get("/book/{symbol}")
    async def book(
        symbol: str,
        sequence: Annotated[int | None, Query(description="A sequence_num; the last when absent.")] = None,
        connection: Annotated[int | None, Query(description="Which, see /connections.")] = None,
        at: Annotated[int | None, Query(description="Instead: the connection open at this time, UTC ns.")] = None,
        depth: Annotated[int | None, Query(ge=1, description="Levels a side; all when absent.")] = None,
    ) -> Response:
        """The exchange's own book: the current one, or the one that a connection must have after a sequence."""
        _market(exchange, symbol)
        try:
            body = exchange.book_at(symbol, sequence, connection, at, depth)
        except HistoryGone as error:
            raise HTTPException(404, str(error)) from None
        return Response(orjson.dumps(body), media_type="application/json")

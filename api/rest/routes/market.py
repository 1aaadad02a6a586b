"""Live market data over REST: symbols, ticker, order book and trades."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response

from api.core import messages
from api.core.symbol_state import NumberedTrade, SymbolState
from api.core.trust import Trust
from api.rest.answers import bytes_answer, json_answer
from api.rest.book_history import books, quotes
from api.rest.columns import BOOKS, QUOTES, TRADES
from api.rest.history import Row
from api.rest.models.market import BookAnswer, BooksAnswer, QuotesAnswer, SymbolsAnswer, TickerAnswer, TradesAnswer
from api.rest.parameters import microseconds, nanoseconds
from api.rest.problems import Problem
from api.rest.routes.common import StrictRoute, SymbolPath, VenueQuery, ledger, now_at, problems, service_of, state_of
from api.rest.routes.paging import Found, Page, listed, newest_first, paged
from api.service import Service
from marketdata.clock import format_rfc3339
from marketdata.events import ALL_SYMBOLS, Instrument

router = APIRouter(prefix="/api/v1/market", tags=["market"], route_class=StrictRoute)

DEPTH_MAX = 50_000


@router.get("/symbols", response_model=SymbolsAnswer, responses=problems(422), summary="What each venue trades")
async def symbols(request: Request, venue: VenueQuery = None) -> Response:
    """List every symbol with its currencies, its smallest steps and its status at each venue."""
    service = service_of(request)
    return json_answer(request, ledger("symbols", service.clock(), instruments(service, venue)))


def instruments(service: Service, venue: str | None) -> list[messages.Json]:
    """Return every instrument of a venue, or of all, and whether its data may be trusted now."""
    data = []
    for state in service.market.states():
        if state.symbol == ALL_SYMBOLS or (venue is not None and state.venue != venue):
            continue
        if state.instrument is not None or state.has_data:
            trust = _trust(service, state)
            data.append(_instrument(state) | {"valid": trust.valid, "reason": trust.reason})
    return sorted(data, key=lambda each: (each["symbol"], each["venue"]))


@router.get(
    "/{symbol:path}/ticker",
    response_model=TickerAnswer,
    responses=problems(404, 409, 422, 503),
    summary="Best bid and offer",
)
async def ticker(request: Request, symbol: SymbolPath, venue: VenueQuery = None) -> Response:
    """Answer with the best bid and offer, the last trade and the statistics of the last 24 hours."""
    state = state_of(request, symbol, venue)
    return bytes_answer(request, ticker_body(service_of(request), state))


@router.get(
    "/{symbol:path}/orderbook",
    response_model=BookAnswer,
    responses=problems(404, 409, 422, 503),
    summary="The order book",
)
async def orderbook(
    request: Request,
    symbol: SymbolPath,
    venue: VenueQuery = None,
    depth: Annotated[
        int, Query(ge=1, le=DEPTH_MAX, description="Levels a side at most; the most gives the whole book.")
    ] = 20,
) -> Response:
    """Answer with the best levels of both sides, best first."""
    state = state_of(request, symbol, venue)
    return bytes_answer(request, book_body(service_of(request), state, depth))


@router.get(
    "/{symbol:path}/trades", response_model=TradesAnswer, responses=problems(404, 406, 409, 422, 503), summary="Trades"
)
async def trades(
    request: Request,
    symbol: SymbolPath,
    page: Annotated[Page, paged(tuple[int, int, int])],
    venue: VenueQuery = None,
) -> Response:
    """Answer with trades, newest first: the latest from memory, older ones from the database."""
    service, state = service_of(request), state_of(request, symbol, venue)

    async def find(page: Page) -> Found:
        recent = [(place, each) for place, each in _recent(state) if page.holds(each.trade.ts_event, place)]
        rows = {place: _live_trade(each) for place, each in recent}
        if sum(each.trade.ts_event > state.trades_floor for _, each in recent) > page.limit:
            return newest_first(rows), True
        try:
            stored = await service.history.trades(state.venue, state.symbol, page.span, page.before, page.limit + 1)
        except Problem:
            # Live answers still work without a database; a page of history does not.
            if not page.is_latest or not rows:
                raise
            return newest_first(rows), False
        rows |= {(microseconds(row["ts"]), row["kafka_offset"], row["item"]): _stored_trade(row) for row in stored}
        return newest_first(rows), True

    def wrap(data: list[messages.Json]) -> messages.Json:
        trust = service.fresh(state.trades_trust, state.venue, state.trades_ts_recv)
        return messages.envelope("trades", state, state.trades_ts_event or service.clock(), trust, data)

    return await listed(
        request,
        page,
        find,
        wrap,
        columns=TRADES,
        now=now_at(service, state.venue),
        constant={"venue": state.venue, "symbol": state.symbol},
    )


@router.get(
    "/{symbol:path}/quotes",
    response_model=QuotesAnswer,
    responses=problems(404, 406, 409, 422, 503),
    summary="Stored quotes",
)
async def stored_quotes(
    request: Request,
    symbol: SymbolPath,
    page: Annotated[Page, paged(tuple[int, int])],
    venue: VenueQuery = None,
) -> Response:
    """Answer with each change of the best bid and offer, and the venue's own statistics, newest first, as stored."""
    return await _stored_list(request, state_of(request, symbol, venue), page, "quotes")


@router.get(
    "/{symbol:path}/books",
    response_model=BooksAnswer,
    responses=problems(404, 406, 409, 422, 503),
    summary="Stored books",
)
async def stored_books(
    request: Request,
    symbol: SymbolPath,
    page: Annotated[Page, paged(tuple[int, int], 20)],
    venue: VenueQuery = None,
) -> Response:
    """Answer with the best levels of the book at each time that they were stored, newest first."""
    return await _stored_list(request, state_of(request, symbol, venue), page, "books")


async def _stored_list(request: Request, state: SymbolState, page: Page, kind: Literal["quotes", "books"]) -> Response:
    service = service_of(request)
    read, columns = (quotes, QUOTES) if kind == "quotes" else (books, BOOKS)

    async def find(page: Page) -> Found:
        return await read(service.history, (state.venue, state.symbol), page.span, page.before, page.limit + 1), True

    def wrap(data: list[messages.Json]) -> messages.Json:
        return messages.envelope(kind, state, state.ts_recv or service.clock(), _trust(service, state), data)

    constant = {"venue": state.venue, "symbol": state.symbol}
    return await listed(request, page, find, wrap, columns=columns, now=now_at(service, state.venue), constant=constant)


def ticker_body(service: Service, state: SymbolState) -> bytes:
    """Return the ticker's JSON."""
    known = state.ticker
    if known is None:
        data: dict[str, Any] = dict.fromkeys(_TICKER_FIELDS)
        return orjson.dumps(messages.envelope("ticker", state, service.clock(), _trust(service, state), data))
    trust = service.fresh(known.trust, state.venue, state.ticker_ts_recv)
    return orjson.dumps(messages.envelope("ticker", state, known.ts_event, trust, known.data))


def book_body(service: Service, state: SymbolState, depth: int) -> bytes:
    """Return the book's JSON."""
    book = state.book
    sides = messages.levels(book.book.bids.top(depth), book.book.asks.top(depth))
    trust = service.fresh(book.trust, state.venue, book.ts_recv)
    ts = book.ts_event or service.clock()
    return orjson.dumps(messages.envelope("l2_snapshot", state, ts, trust, sides, depth=depth, sequence=book.sequence))


_TICKER_FIELDS = (
    "bid", "bid_size", "ask", "ask_size", "last", "volume_24h", "high_24h", "low_24h", "change_24h"
)  # fmt: skip


def _trust(service: Service, state: SymbolState) -> Trust:
    if state.ticker is not None:
        return service.fresh(state.ticker.trust, state.venue, state.ticker_ts_recv)
    return service.fresh(state.book.trust, state.venue, state.book.ts_recv)


def _instrument(state: SymbolState) -> messages.Json:
    if state.instrument is not None:
        return messages.instrument(state.instrument)
    base, _, quote = state.symbol.partition("-")
    unlisted = Instrument(
        venue=state.venue, symbol=state.symbol, ts_recv=0, venue_symbol=state.symbol, base_currency=base,
        quote_currency=quote, kind="unknown",
    )  # fmt: skip
    return messages.instrument(unlisted)


def _live_trade(value: NumberedTrade) -> messages.Json:
    return messages.trade(value.trade) | {
        "timestamp": format_rfc3339(value.trade.ts_event),
        "ts_event": nanoseconds(value.trade.ts_event),
        "ts_recv": nanoseconds(value.ts_recv),
        "valid": value.trust.valid,
        "reason": value.trust.reason,
    }


def _recent(state: SymbolState) -> list[tuple[tuple[int, int, int], NumberedTrade]]:
    return [((each.trade.ts_event // 1000, each.offset, each.item), each) for each in state.trades]


def _stored_trade(row: Row) -> messages.Json:
    data = {
        "trade_id": row["trade_id"],
        "price": row["price"],
        "size": row["size"],
        "side": row["side"],
        "liquidation": row["liquidation"],
        "timestamp": format_rfc3339(row["ts_event_ns"]),
        "ts_event": nanoseconds(row["ts_event_ns"]),
        "ts_recv": nanoseconds(row["ts_recv_ns"]),
        "valid": row["valid"],
        "reason": row["reason"],
    }
    if row["action"] != "new":
        data["action"] = row["action"]
        if row["original_id"]:
            data["original_id"] = row["original_id"]
    for name in ("conditions", "excluded_from"):
        if row[name]:
            data[name] = row[name]
    return data

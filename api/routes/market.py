"""Live market data over REST: symbols, ticker, order book, trades and candles."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response

from api import messages
from api.answers import bytes_answer, json_answer
from api.history import Row, Source
from api.market import TRUSTED, NumberedTrade, SymbolState, Trust
from api.models import BookAnswer, CandlesAnswer, SymbolsAnswer, TickerAnswer, TradesAnswer
from api.parameters import Range, find, microseconds, read_cursor, time_range, write_cursor
from api.problems import Problem, bad_value
from api.routes.common import CursorQuery, EndQuery, StartQuery, SymbolPath, VenueQuery, ledger, problems
from api.service import Service
from marketdata.clock import format_rfc3339
from marketdata.events import ALL_SYMBOLS, Candle, Instrument

router = APIRouter(prefix="/api/v1/market", tags=["market"])

DEPTH_MAX = 50_000
LIMIT_MAX = 1_000
IntervalQuery = Annotated[
    Literal["1m", "5m", "15m", "1h", "4h", "1d"], Query(description="Length of a candle.", examples=["1m"])
]
LimitQuery = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Items on a page at most.", examples=[100])]
SourceQuery = Annotated[
    Source,
    Query(
        description="`trades`: made here of the venue's trades. `venue`: the venue's own, where its stream tells "
        "candles; it may leave trades out of them (US equities: odd lots), so that the two may differ.",
        examples=["trades"],
    ),
]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _find(request: Request, symbol: str, venue: str | None) -> SymbolState:
    service = _service(request)
    return find(service.market, symbol, venue, known=service.known)


@router.get("/symbols", response_model=SymbolsAnswer, responses=problems(422), summary="What each venue trades")
async def symbols(request: Request, venue: VenueQuery = None) -> Response:
    """List every symbol with its currencies, its smallest steps and its status at each venue."""
    service = _service(request)
    data = []
    for state in service.market.states():
        if state.symbol == ALL_SYMBOLS or (venue is not None and state.venue != venue):
            continue
        if state.instrument is not None or state.has_data:
            trust = _trust(service, state)
            data.append(_instrument(state) | {"valid": trust.valid, "reason": trust.reason})
    data.sort(key=lambda each: (each["symbol"], each["venue"]))
    return json_answer(request, ledger("symbols", service.clock(), data))


@router.get(
    "/{symbol}/ticker",
    response_model=TickerAnswer,
    responses=problems(404, 409, 422, 503),
    summary="Best bid and offer",
)
async def ticker(request: Request, symbol: SymbolPath, venue: VenueQuery = None) -> Response:
    """Answer with the best bid and offer, the last trade and the statistics of the last 24 hours."""
    state = _find(request, symbol, venue)
    return bytes_answer(request, ticker_body(_service(request), state))


@router.get(
    "/{symbol}/orderbook", response_model=BookAnswer, responses=problems(404, 409, 422, 503), summary="The order book"
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
    state = _find(request, symbol, venue)
    return bytes_answer(request, book_body(_service(request), state, depth))


@router.get("/{symbol}/trades", response_model=TradesAnswer, responses=problems(404, 409, 422, 503), summary="Trades")
async def trades(
    request: Request,
    symbol: SymbolPath,
    *,
    venue: VenueQuery = None,
    start: StartQuery = None,
    end: EndQuery = None,
    limit: LimitQuery = 100,
    cursor: CursorQuery = None,
) -> Response:
    """Answer with trades, newest first: the latest from memory, older ones from the database."""
    span = time_range(start, end)
    before = read_cursor(cursor, tuple[int, int, int])
    state = _find(request, symbol, venue)
    service = _service(request)
    recent = [(place, each) for place, each in _recent(state) if _wanted(place, each, span, before)]
    rows: dict[tuple[int, int, int], messages.Json] = {
        place: messages.trade(each.trade)
        | {
            "timestamp": format_rfc3339(each.trade.ts_event),
            "valid": each.trust.valid,
            "reason": each.trust.reason,
        }
        for place, each in recent
    }
    complete = True
    if sum(each.trade.ts_event > state.trades_floor for _, each in recent) <= limit:
        try:
            stored = await service.history.trades(state.venue, state.symbol, span, before, limit + 1)
        except Problem:
            # Live answers still work without a database; a page of history does not.
            if cursor is not None or not span.open or not rows:
                raise
            complete = False
        else:
            rows |= {(microseconds(row["ts"]), row["kafka_offset"], row["item"]): _stored_trade(row) for row in stored}
    places = sorted(rows, reverse=True)
    page = places[:limit]
    more = len(places) > limit or not complete
    answer = messages.envelope(
        "trades",
        state,
        state.trades_ts_event or service.clock(),
        service.fresh(state.trades_trust, state.trades_ts_recv),
        [rows[place] for place in page],
    )
    answer["next_cursor"] = write_cursor(*page[-1]) if more and page else None
    return json_answer(request, answer)


@router.get(
    "/{symbol}/candles", response_model=CandlesAnswer, responses=problems(404, 409, 422, 503), summary="Candles"
)
async def candles(
    request: Request,
    symbol: SymbolPath,
    *,
    interval: IntervalQuery = "1m",
    source: SourceQuery = "trades",
    venue: VenueQuery = None,
    start: StartQuery = None,
    end: EndQuery = None,
    limit: LimitQuery = 300,
    cursor: CursorQuery = None,
) -> Response:
    """Answer with the latest revision of each candle that starts in the range, newest first, the open one included."""
    span = time_range(start, end)
    before = read_cursor(cursor, tuple[int])
    if before is not None:
        last = int(before[0])
        if last < 0:
            raise bad_value("cursor", cursor, "is no next_cursor of an answer of ours")
        span = Range(span.start, last if span.end is None else min(last, span.end))
    state = _find(request, symbol, venue)
    service = _service(request)
    rows = {
        row["start_ns"]: _stored_candle(row)
        for row in await service.history.candles(
            state.venue, state.symbol, interval, span, source=source, limit=limit + 1
        )
    }
    if source == "trades":
        # What memory holds is at least as new as the database.
        live = state.candles[interval]
        rows |= {start: messages.candle(each.candle) for start, each in live.items() if span.holds(start)}
    page = sorted(rows, reverse=True)[:limit]
    answer = _candles(service, state, interval, source, [rows[start] for start in page])
    answer["next_cursor"] = write_cursor(page[-1]) if len(rows) > limit else None
    return json_answer(request, answer)


@router.get(
    "/{symbol}/candles/revisions",
    response_model=CandlesAnswer,
    responses=problems(404, 409, 422, 503),
    summary="How candles were corrected",
)
async def revisions(
    request: Request,
    symbol: SymbolPath,
    *,
    interval: IntervalQuery = "1m",
    source: SourceQuery = "trades",
    venue: VenueQuery = None,
    start: StartQuery = None,
    end: EndQuery = None,
    limit: LimitQuery = 300,
    cursor: CursorQuery = None,
) -> Response:
    """Answer with every revision of each closed candle that starts in the range, newest first."""
    span = time_range(start, end)
    before = read_cursor(cursor, tuple[int, int, int])
    if before is not None and int(before[0]) < 0:
        raise bad_value("cursor", cursor, "is no next_cursor of an answer of ours")
    state = _find(request, symbol, venue)
    service = _service(request)
    rows = await service.history.revisions(
        state.venue, state.symbol, interval, span, source=source, before=before, limit=limit + 1
    )
    page = rows[:limit]
    answer = _candles(service, state, interval, source, [_stored_candle(row) for row in page])
    more = len(rows) > limit
    last = page[-1] if page else {}
    answer["next_cursor"] = (
        write_cursor(last["start_ns"], last["revision"], last["kafka_offset"]) if more and page else None
    )
    return json_answer(request, answer)


def ticker_body(service: Service, state: SymbolState) -> bytes:
    """Return the ticker's JSON."""
    known = state.ticker
    if known is None:
        data: dict[str, Any] = dict.fromkeys(_TICKER_FIELDS)
        return orjson.dumps(messages.envelope("ticker", state, service.clock(), _trust(service, state), data))
    trust = service.fresh(known.trust, state.ticker_ts_recv)
    return orjson.dumps(messages.envelope("ticker", state, known.ts_event, trust, known.data))


def book_body(service: Service, state: SymbolState, depth: int) -> bytes:
    """Return the book's JSON."""
    book = state.book
    sides = messages.levels(book.book.bids.top(depth), book.book.asks.top(depth))
    trust = service.fresh(book.trust, book.ts_recv)
    answer = messages.envelope("l2_snapshot", state, book.ts_event or service.clock(), trust, sides)
    answer["depth"] = depth
    answer["sequence"] = book.sequence
    return orjson.dumps(answer)


_TICKER_FIELDS = (
    "bid", "bid_size", "ask", "ask_size", "last", "volume_24h", "high_24h", "low_24h", "change_24h"
)  # fmt: skip


def _trust(service: Service, state: SymbolState) -> Trust:
    if state.ticker is not None:
        return service.fresh(state.ticker.trust, state.ticker_ts_recv)
    return service.fresh(state.book.trust, state.book.ts_recv)


def _instrument(state: SymbolState) -> messages.Json:
    if state.instrument is not None:
        return messages.instrument(state.instrument)
    base, _, quote = state.symbol.partition("-")
    unlisted = Instrument(
        venue=state.venue, symbol=state.symbol, ts_recv=0, venue_symbol=state.symbol, base_currency=base,
        quote_currency=quote, kind="unknown",
    )  # fmt: skip
    return messages.instrument(unlisted)


def _recent(state: SymbolState) -> list[tuple[tuple[int, int, int], NumberedTrade]]:
    return [((each.trade.ts_event // 1000, each.offset, each.item), each) for each in state.trades]


def _wanted(place: tuple[int, int, int], each: NumberedTrade, span: Range, before: tuple[Any, ...] | None) -> bool:
    return span.holds(each.trade.ts_event) and (before is None or place < before)


def _stored_trade(row: Row) -> messages.Json:
    data = {
        "trade_id": row["trade_id"],
        "price": row["price"],
        "size": row["size"],
        "side": row["side"],
        "liquidation": row["liquidation"],
        "timestamp": format_rfc3339(row["ts_event_ns"]),
        "valid": row["valid"],
        "reason": row["reason"],
    }
    if row["action"] != "new":
        data["action"] = row["action"]
        if row["original_id"]:
            data["original_id"] = row["original_id"]
    return data


def _stored_candle(row: Row) -> messages.Json:
    return messages.candle(
        Candle(
            start=row["start_ns"],
            end=row["end_ns"],
            ts_event=row["ts_event_ns"],
            ts_recv=row["ts_recv_ns"],
            **{name: row[name] for name in _CANDLE_FIELDS},
        )
    )


_CANDLE_FIELDS = (
    "venue", "symbol", "interval", "open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "trades",
    "state", "revision", "origin", "valid", "reason",
)  # fmt: skip


def _candles(
    service: Service, state: SymbolState, interval: str, source: Source, data: list[messages.Json]
) -> messages.Json:
    trust = service.fresh(state.trades_trust, state.trades_ts_recv) if state.trades_ts_recv else TRUSTED
    answer = messages.envelope("candles", state, state.trades_ts_event or service.clock(), trust, data)
    answer["interval"], answer["source"] = interval, source
    return answer

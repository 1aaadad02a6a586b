"""The client: REST history, and live streams that subscribe again after every gap and lost connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tickstream_client.book import Book
from tickstream_client.errors import ApiError
from tickstream_client.live import Live
from tickstream_client.messages import Disconnected, Message, Resumed, SequenceGap, Subscription

Json = dict[str, Any]
Event = Message | SequenceGap | Disconnected | Resumed
Time = str | datetime | None

# A page of the API; longer histories are read page by page.
PAGE_MAX = 1_000
_NOT_READY_PAUSE_S = 1.0
# Messages that may wait for the reader before the socket is read no further; then the server conflates.
_QUEUE_MAX = 1_024


def _text(time: Time) -> str | None:
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(f"{time!r} has no zone; use datetime(..., tzinfo=timezone.utc)")
        return time.isoformat()
    return time


def _path(symbol: str, what: str) -> str:
    return f"/api/v1/market/{quote(symbol, safe='')}/{what}"


def _series(interval: str, recipe: str | None) -> dict[str, str | None]:
    return {"interval": interval} if recipe is None else {"recipe": recipe}


class MarketDataClient:
    """Reads one Tickstream API, such as `http://127.0.0.1:8080`; use it as an async context manager.

    Times are RFC 3339 strings or aware datetimes; prices and sizes are decimal strings. Live connections are kept up by
    WebSocket pings: one that is half open is noticed within twice `ping_s`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 10.0,
        reconnect_first_s: float = 0.5,
        reconnect_max_s: float = 30.0,
        ping_s: float = 15.0,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_s, headers={"accept": "application/json"})
        self._ws_url = "ws" + url.rstrip("/").removeprefix("http") + "/ws"
        self._timeout_s = timeout_s
        self._reconnect_first_s = reconnect_first_s
        self._reconnect_max_s = reconnect_max_s
        self._ping_s = ping_s

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        await self.close()

    async def close(self) -> None:
        """Close the REST connections; live streams end with their iterators."""
        await self._http.aclose()

    # History

    async def get_symbols(self, *, venue: str | None = None) -> list[Json]:
        """Return what each venue trades, with its smallest steps."""
        return list((await self._get("/api/v1/market/symbols", venue=venue))["data"])

    async def get_ticker(self, symbol: str, *, venue: str | None = None) -> Json:
        """Return best bid and offer, last trade and 24-hour statistics, with validity around the `data`."""
        return await self._market(symbol, "ticker", venue=venue)

    async def get_orderbook(self, symbol: str, *, depth: int = 20, venue: str | None = None) -> Json:
        """Return the best levels of both sides, with validity around the `data`."""
        return await self._market(symbol, "orderbook", venue=venue, depth=depth)

    async def get_trades(
        self, symbol: str, *, start: Time = None, end: Time = None, limit: int = 100, venue: str | None = None
    ) -> list[Json]:
        """Return up to `limit` trades, newest first, reading as many pages as that takes."""
        return await self._market_pages(symbol, "trades", limit, start, end, venue=venue)

    async def get_candles(
        self,
        symbol: str,
        interval: str = "1m",
        *,
        start: Time = None,
        end: Time = None,
        limit: int = 300,
        venue: str | None = None,
        source: str | None = None,
        recipe: str | None = None,
    ) -> list[Json]:
        """Return up to `limit` candles that start in [start, end), newest first, in their latest revision.

        `source` is `trades` (made of the venue's trades, unless given) or `venue` (as the venue itself sends them).
        `recipe` is the name of bars by recipe, in place of `interval`.
        """
        return await self._market_pages(
            symbol, "candles", limit, start, end, venue=venue, source=source, **_series(interval, recipe)
        )

    async def get_candle_revisions(
        self,
        symbol: str,
        interval: str = "1m",
        *,
        start: Time = None,
        end: Time = None,
        limit: int = 300,
        venue: str | None = None,
        source: str | None = None,
        recipe: str | None = None,
    ) -> list[Json]:
        """Return up to `limit` revisions of closed candles that start in [start, end), newest first."""
        return await self._market_pages(
            symbol, "candles/revisions", limit, start, end, venue=venue, source=source, **_series(interval, recipe)
        )

    async def explain_candle(
        self,
        symbol: str,
        start: str | datetime,
        interval: str = "1m",
        *,
        venue: str | None = None,
        recipe: str | None = None,
        limit: int = PAGE_MAX,
    ) -> Json:
        """Return why the candle that starts at `start` is what it is.

        The answer has the trades that made it (`counted`) and those that did not (`left_out`), at most `limit` of each
        in full, its `revisions`, the ledger's `gaps`, and the venue's own candle (`venue_bar`) with the differences.
        """
        return await self._market(
            symbol, "candles/explain", venue=venue, start=_text(start), limit=limit, **_series(interval, recipe)
        )

    async def get_metrics(
        self, symbol: str, *, start: Time = None, end: Time = None, limit: int = 100, venue: str | None = None
    ) -> list[Json]:
        """Return up to `limit` metrics of a book (spread, depth, imbalance, order flow), newest first."""
        return await self._market_pages(symbol, "metrics", limit, start, end, venue=venue)

    async def get_consolidated(self, symbol: str, *, kind: str | None = None) -> Json:
        """Return the best bid and offer over all venues; `kind` where the symbol means several instruments."""
        return await self._market(symbol, "consolidated", kind=kind)

    async def get_derivatives(
        self, symbol: str, *, start: Time = None, end: Time = None, limit: int = 100, venue: str | None = None
    ) -> list[Json]:
        """Return up to `limit` of what the venue sent about a derivative, newest first: funding, prices, liquidations.

        An item has only the fields that one message of the venue had; the others are None.
        """
        return await self._market_pages(symbol, "derivatives", limit, start, end, venue=venue)

    async def get_derivative(self, symbol: str, *, venue: str | None = None) -> Json:
        """Return the newest value of each field of a derivative in `latest`, with validity around it."""
        return await self._market(symbol, "derivatives", venue=venue, limit=1)

    async def get_gaps(
        self, *, venue: str | None = None, symbol: str | None = None, state: str | None = None, limit: int = 100
    ) -> list[Json]:
        """Return the ledger of gaps, latest first; `state` is open or repaired."""
        return await self._pages("/api/v1/gaps", limit, venue=venue, symbol=symbol, state=state)

    async def get_anomalies(
        self, *, venue: str | None = None, symbol: str | None = None, limit: int = 100
    ) -> list[Json]:
        """Return anomalies by their start, newest first, each as it is now."""
        return await self._pages("/api/v1/anomalies", limit, venue=venue, symbol=symbol)

    async def get_status(self, *, venue: str | None = None) -> Json:
        """Return the validity and age of each symbol's data (1,000 at most), and what happened to the feeds last."""
        return await self._get("/api/v1/status", venue=venue)

    async def get_status_summary(self) -> Json:
        """Return how many symbols of each venue are valid, and how many are not, by reason."""
        return await self._get("/api/v1/status/summary")

    async def _market(self, symbol: str, what: str, **query: str | int | None) -> Json:
        return await self._get(_path(symbol, what), **query)

    async def _market_pages(
        self, symbol: str, what: str, limit: int, start: Time, end: Time, **query: str | None
    ) -> list[Json]:
        return await self._pages(_path(symbol, what), limit, start=_text(start), end=_text(end), **query)

    async def _pages(self, path: str, limit: int, **query: str | int | None) -> list[Json]:
        items: list[Json] = []
        cursor: str | None = None
        while len(items) < limit:
            answer = await self._get(path, limit=min(PAGE_MAX, limit - len(items)), cursor=cursor, **query)
            items += answer["data"]
            cursor = answer["next_cursor"]
            if cursor is None:
                break
        return items

    async def _get(self, path: str, **query: str | int | None) -> Json:
        given = {name: value for name, value in query.items() if value is not None}
        response = await self._http.get(path, params=given)
        if response.is_success:
            answer: Json = response.json()
            return answer
        try:
            problem: Json = response.json()
        except ValueError:
            problem = {}
        raise ApiError(
            response.status_code,
            problem.get("title", response.reason_phrase),
            problem.get("detail", response.text[:200]),
        )

    # Live

    async def stream(
        self,
        channels: Iterable[str],
        symbols: Iterable[str],
        *,
        venue: str | None = None,
        depth: int = 50,
        interval: str = "1m",
        recipe: str | None = None,
        kind: str | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield the messages of channels and symbols for ever, and every gap and lost connection in between.

        Raises Refused when the API does not accept the subscription.
        """
        live = Live(Subscription(tuple(channels), tuple(symbols), venue, depth, interval, recipe, kind))
        attempt = 0
        while True:
            try:
                async with connect(
                    self._ws_url,
                    open_timeout=self._timeout_s,
                    ping_interval=self._ping_s,
                    ping_timeout=self._ping_s,
                    close_timeout=self._timeout_s,
                    max_queue=_QUEUE_MAX,
                    max_size=None,
                ) as socket:
                    for request in live.opened():
                        await socket.send(request)
                    async with aclosing(self._read(live, socket)) as events:
                        async for event in events:
                            attempt = 0
                            yield event
            except ConnectionClosed as error:
                reason = (error.rcvd.reason if error.rcvd else "") or str(error)
            except (OSError, TimeoutError, InvalidHandshake) as error:
                reason = str(error) or type(error).__name__
            else:
                reason = "closed by the server"
            attempt += 1
            ceiling = min(self._reconnect_max_s, self._reconnect_first_s * 2 ** min(attempt, 16))
            pause_s = random.uniform(0, ceiling)  # noqa: S311 - jitter, not a secret
            yield Disconnected(reason, pause_s)
            await asyncio.sleep(pause_s)

    @staticmethod
    async def _read(live: Live, socket: ClientConnection) -> AsyncGenerator[Message | SequenceGap | Resumed, None]:
        async for text in socket:
            received = live.received(text)
            for event in received.events:
                yield event
            for answer in received.sends:
                await socket.send(answer)
            if received.retry_id is not None:
                await asyncio.sleep(_NOT_READY_PAUSE_S)
                await socket.send(live.retry(received.retry_id))

    async def stream_trades(self, symbol: str, *, venue: str | None = None) -> AsyncGenerator[Event, None]:
        """Yield trades as they happen, after the last few."""
        async with aclosing(self.stream(["trades"], [symbol], venue=venue)) as events:
            async for event in events:
                yield event

    async def stream_candles(
        self, symbol: str, interval: str = "1m", *, venue: str | None = None, recipe: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield candles, or the bars of a recipe, whenever they change; `state` is open, final or revised."""
        candles = self.stream(["candles"], [symbol], venue=venue, interval=interval, recipe=recipe)
        async with aclosing(candles) as events:
            async for event in events:
                yield event

    async def stream_derivatives(self, symbol: str, *, venue: str | None = None) -> AsyncGenerator[Event, None]:
        """Yield the newest value of each field of a derivative whenever one changes, with new liquidations."""
        async with aclosing(self.stream(["derivatives"], [symbol], venue=venue)) as events:
            async for event in events:
                yield event

    async def stream_metrics(self, symbol: str, *, venue: str | None = None) -> AsyncGenerator[Event, None]:
        """Yield spread, depth, imbalance and order flow of a book at the platform's cadence."""
        async with aclosing(self.stream(["metrics"], [symbol], venue=venue)) as events:
            async for event in events:
                yield event

    async def stream_consolidated(self, symbol: str, *, kind: str | None = None) -> AsyncGenerator[Event, None]:
        """Yield the best bid and offer over all venues whenever it changes, each venue with its validity."""
        async with aclosing(self.stream(["consolidated"], [symbol], kind=kind)) as events:
            async for event in events:
                yield event

    async def stream_book(
        self, symbol: str, depth: int = 50, *, venue: str | None = None
    ) -> AsyncGenerator[Book, None]:
        """Yield one and the same book after each change of its levels or its validity."""
        book = Book(symbol)
        async with aclosing(self.stream(["book"], [symbol], venue=venue, depth=depth)) as events:
            async for event in events:
                match event:
                    case Message():
                        book.apply(event)
                    case Disconnected():
                        book.suspend("disconnected")
                    case Resumed(recovered=True):
                        book.resume()
                    case _:
                        book.invalidate("missed")
                yield book

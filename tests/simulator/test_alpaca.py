"""The simulated Alpaca over real sockets: Alpaca's client and our feed receive the same, in both encodings."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from infra.simulator import web
from infra.simulator.faults import Fault
from infra.simulator.venues.alpaca.rest import create_app
from infra.simulator.venues.alpaca.server import DEMO_KEYS, AlpacaExchange, encode
from marketdata import events
from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.events import AnyEvent, Candle, FeedStatus, Instrument, RawFrame, Trades
from producers.live.connection import Connection, Options
from producers.venues import find_venue
from producers.venues.alpaca.history import AlpacaHistory
from producers.venues.alpaca.login import KeyPair
from producers.venues.kit.history import Access, Asked

with warnings.catch_warnings():
    # Alpaca's client still uses the old interface of its WebSocket library.
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.data.historical.stock import StockHistoricalDataClient
    from alpaca.data.live.stock import StockDataStream
    from alpaca.data.models import Bar, Quote, Trade, TradeCancel, TradeCorrection, TradeSet, TradingStatus
    from alpaca.data.requests import StockTradesRequest

LIMIT_S = 30.0
SYMBOLS = ("AAPL", "BRK.B", "SPY")
KEYS = {"PKOURS": "secret-of-ours", "PKPACKED": "secret-packed", "PKTHEIRS": "secret-of-theirs"}
SINCE = 1_786_372_200_000_000_000  # 2026-08-10T14:30:00Z
EVERY = 100_000_000
PACKED: dict[str, Any] = {"binary": True, "headers": (("Content-Type", "application/msgpack"),)}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is in many places
            await asyncio.sleep(0.005)


class Kept:
    """A sink that keeps everything, and what the line says of itself."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.raw: list[RawFrame] = []
        self.states: list[str] = []

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Keep what one frame brought."""
        self.events += events
        if raw is not None:
            self.raw.append(raw)

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def statuses(self) -> list[str]:
        """Return the kinds of FeedStatus so far."""
        return [event.kind for event in self.of(FeedStatus)]


@asynccontextmanager
async def line_to(exchange: AlpacaExchange, key: str, secret: str, **options: Any) -> AsyncIterator[Kept]:
    """Run our feed on a real connection, with the venue's own terms but quicker, and stop it in order."""
    venue, kept, tokens = find_venue("alpaca"), Kept(), KeyPair(key, secret)
    feed = venue.make(line="alpaca/0", products=SYMBOLS, token=tokens)
    told: dict[str, Any] = {"on_state": lambda _line, state: kept.states.append(state), "redact": tokens.redact}
    quick: dict[str, Any] = {"tick_s": 0.02, "backoff": venue.backoff, "backoff_base_s": 0.01, "ping_s": 1.0}
    line = Connection(
        feed, "alpaca/0", kept,
        Options(ws_url=f"ws://127.0.0.1:{exchange.port}/v2/iex", rest_url="http://127.0.0.1:9", **told,
                **(quick | options)),
    )  # fmt: skip
    task = asyncio.create_task(line.run())
    try:
        yield kept
    finally:
        line.stop()
        async with asyncio.timeout(LIMIT_S):
            await task


@asynccontextmanager
async def their_client(exchange: AlpacaExchange) -> AsyncIterator[dict[type[Any], list[Any]]]:
    """Run Alpaca's own client against the server; yields what it read, by its models."""
    stream = StockDataStream("PKTHEIRS", KEYS["PKTHEIRS"], url_override=f"ws://127.0.0.1:{exchange.port}/v2/iex")
    received: dict[type[Any], list[Any]] = {kind: [] for kind in (Trade, Quote, Bar, TradingStatus, TradeCorrection,
                                                              TradeCancel)}  # fmt: skip

    async def receive(message: Any) -> None:
        received[type(message)].append(message)

    stream.subscribe_trades(receive, *SYMBOLS)
    stream.subscribe_quotes(receive, *SYMBOLS)
    stream.subscribe_bars(receive, *SYMBOLS)
    stream.subscribe_updated_bars(receive, *SYMBOLS)
    stream.subscribe_trading_statuses(receive, *SYMBOLS)
    stream.register_trade_corrections(receive)
    stream.register_trade_cancels(receive)
    stream._handlers["corrections"] = stream._handlers["cancelErrors"] = {"*": receive}
    task = asyncio.create_task(stream._run_forever())
    try:
        yield received
    finally:
        await stream.stop_ws()
        await stream.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def us(ts: int) -> int:
    """Return microseconds, which is what a datetime holds."""
    return ts // 1000


def stamp(model: Any) -> int:
    """Return a model's time in microseconds."""
    stamped: int = round(model.timestamp.timestamp() * 1_000_000)
    return stamped


def ours(kept: Kept) -> dict[str, list[Any]]:
    """Return what our line read, in the terms of `theirs`."""
    told: dict[str, list[Any]] = {name: [] for name in ("new", "correct", "cancel", "quotes", "bars", "statuses")}
    for event in kept.of(Trades):
        for t in event.trades:
            _, exchange, number = t.trade_id.split("-")
            row = (event.symbol, us(t.ts_event), exchange, int(number), float(t.price), float(t.size))
            told[t.action].append((*row, int(t.original_id.rpartition("-")[2])) if t.action == "correct" else row)
    told["quotes"] = [(q.symbol, us(q.ts_event), float(q.bid), float(q.bid_size), float(q.ask), float(q.ask_size))
                      for q in kept.of(events.Quote) if q.reason != "disconnected"]  # fmt: skip
    told["bars"] = [(c.symbol, us(c.start), float(c.open), float(c.high), float(c.low), float(c.close),
                     float(c.volume), c.trades) for c in kept.of(Candle)]  # fmt: skip
    told["statuses"] = [(s.symbol, us(s.ts_event), s.detail) for s in kept.of(FeedStatus)
                        if s.kind in {"halted", "resumed"}]  # fmt: skip
    return told


def theirs(received: dict[type[Any], list[Any]]) -> dict[str, list[Any]]:
    """Return what Alpaca's client read, in our terms; of the statuses those that halt or resume trading."""
    return {
        "new": [(t.symbol, stamp(t), t.exchange, t.id, t.price, t.size) for t in received[Trade]],
        "correct": [(c.symbol, stamp(c), c.exchange.value, c.corrected_id, c.corrected_price, c.corrected_size,
                     c.original_id) for c in received[TradeCorrection]],
        "cancel": [(c.symbol, stamp(c), c.exchange.value, c.id, c.price, c.size) for c in received[TradeCancel]],
        "quotes": [(q.symbol, stamp(q), q.bid_price, q.bid_size, q.ask_price, q.ask_size) for q in received[Quote]],
        "bars": [(b.symbol, stamp(b), b.open, b.high, b.low, b.close, b.volume, b.trade_count) for b in received[Bar]],
        "statuses": [(s.symbol, stamp(s), f"{s.status_code} {s.status_message}; {s.reason_code} {s.reason_message}")
                     for s in received[TradingStatus] if s.status_code in {"H", "T", "2", "3"}],
    }  # fmt: skip


@asynccontextmanager
async def exchange_of(**settings: Any) -> AsyncIterator[AlpacaExchange]:
    """Serve a simulated Alpaca that does nothing by itself."""
    exchange = AlpacaExchange(SYMBOLS, keys=KEYS, **settings)
    async with exchange.serve("127.0.0.1", 0):
        yield exchange


def subscribed(exchange: AlpacaExchange) -> int:
    """Return how many clients have subscribed to everything that is compared."""
    return sum(bool(c.channels["trades"] and c.channels["statuses"]) for c in exchange.clients.values())


def test_our_feed_hears_what_alpacas_own_client_hears() -> None:
    """Trades, quotes, bars with revisions, halts, corrections and cancels: as many and the same, in both encodings."""

    async def scenario() -> None:
        async with (
            exchange_of(seed=7) as exchange,
            line_to(exchange, "PKOURS", KEYS["PKOURS"]) as kept,
            line_to(exchange, "PKPACKED", KEYS["PKPACKED"], **PACKED) as packed,
            their_client(exchange) as received,
        ):
            await until(lambda: subscribed(exchange) == 3)
            exchange.play(3_000, since=SINCE, every=EVERY)
            told = [message["T"] for message in exchange.published]
            await until(lambda: sum(map(len, received.values())) == len(told))
            await until(lambda: all(sum(map(len, ours(one).values())) == len(told) - _quotation_only(exchange)
                                    for one in (kept, packed)))  # fmt: skip
            expected = theirs(received)
            assert {kind: len(rows) for kind, rows in expected.items()} == {
                "new": told.count("t"), "correct": told.count("c"), "cancel": told.count("x"),
                "quotes": told.count("q"), "bars": told.count("b") + told.count("u"),
                "statuses": told.count("s") - _quotation_only(exchange),
            }  # fmt: skip
            assert all(told.count(kind) for kind in "tqbuscx"), "there is something to compare of each"
            for one in (kept, packed):
                assert ours(one) == expected
                assert not one.of(events.DeadLetter)
            assert [c.revision for c in kept.of(Candle) if c.state == "revised"] == [1] * told.count("u")
            assert {i.symbol for i in kept.of(Instrument)} == set(SYMBOLS)

    uvloop.run(scenario())


def _quotation_only(exchange: AlpacaExchange) -> int:
    """Return how many statuses let quotes resume, but no trading: they change nothing that is told as a status."""
    return sum(message["T"] == "s" and message["sc"] == "Q" for message in exchange.published)


def test_json_keeps_every_digit_and_msgpack_means_the_same_number() -> None:
    """What was 150.10 in JSON is 150.1 out of a binary float; both are the price that was sent."""

    async def scenario() -> None:
        async with (
            exchange_of() as exchange,
            line_to(exchange, "PKOURS", KEYS["PKOURS"]) as kept,
            line_to(exchange, "PKPACKED", KEYS["PKPACKED"], **PACKED) as packed,
        ):
            await until(lambda: subscribed(exchange) == 2)
            exchange.play(300, since=SINCE, every=EVERY)
            sent = [str(message["p"]) for message in exchange.published if message["T"] == "t"]
            for one in (kept, packed):
                await until(lambda one=one: sum(len(e.trades) for e in one.of(Trades)) >= len(sent))  # type: ignore[misc]

            def prices(one: Kept) -> list[str]:
                return [t.price for event in one.of(Trades) for t in event.trades if t.action == "new"]

            assert prices(kept) == sent
            assert [float(price) for price in prices(packed)] == [float(price) for price in sent]
            assert max(map(len, prices(packed))) <= max(map(len, sent)), "no digits that nobody sent"

    uvloop.run(scenario())


def test_rejected_key_is_final() -> None:
    """One try: the line says what to do, stays down, and no second connection is made until it is stopped."""

    async def scenario() -> None:
        async with exchange_of() as exchange, line_to(exchange, "PKOURS", "wrong") as kept:
            await until(lambda: "refused" in kept.statuses())
            await until(lambda: not exchange.clients)
            assert exchange._next == 2
            assert kept.states[-1].startswith("refused, auth_failed: check APCA_API_KEY_ID")
            refused = kept.of(FeedStatus)[-1]
            assert (refused.kind, refused.reason) == ("refused", "auth_failed")
            stored = b"".join(raw.data for raw in kept.raw)
            assert b"wrong" not in stored
            assert b"PKOURS" not in stored

    uvloop.run(scenario())


def test_plan_without_the_source_or_for_fewer_symbols_is_final() -> None:
    """What only another plan can change is not tried again."""

    async def scenario(reason: str, **settings: Any) -> None:
        async with exchange_of(**settings) as exchange, line_to(exchange, "PKOURS", KEYS["PKOURS"]) as kept:
            await until(lambda: "refused" in kept.statuses())
            assert kept.of(FeedStatus)[-1].reason == reason

    uvloop.run(scenario("symbol_limit", free_keys=KEYS, symbols_max=2))
    uvloop.run(scenario("insufficient_subscription", closed_channels=("trades",)))


def test_statuses_that_a_plan_lacks_cost_nothing_else() -> None:
    """Statuses are asked for apart: without them trades and quotes come all the same."""

    async def scenario() -> None:
        async with (
            exchange_of(closed_channels=("statuses",)) as exchange,
            line_to(exchange, "PKOURS", KEYS["PKOURS"]) as kept,
        ):
            await until(lambda: bool(kept.of(events.DeadLetter)))
            exchange.play(50, since=SINCE, every=EVERY)
            await until(lambda: bool(kept.of(Trades)) and bool(kept.of(events.Quote)))
            assert "refused" not in kept.statuses()

    uvloop.run(scenario())


def test_second_session_of_a_key_is_tried_again_until_the_first_is_over() -> None:
    """406 passes: as soon as the other session ends, the line is up."""

    async def scenario() -> None:
        async with exchange_of() as exchange:
            async with line_to(exchange, "PKOURS", KEYS["PKOURS"]):
                await until(lambda: subscribed(exchange) == 1)
                second = line_to(exchange, "PKOURS", KEYS["PKOURS"])
                kept = await second.__aenter__()
                await until(lambda: any("connection_limit" in state for state in kept.states))
            await until(lambda: subscribed(exchange) == 1)
            await second.__aexit__(None, None, None)
        assert "refused" not in kept.statuses()

    uvloop.run(scenario())


def test_faults_are_told_and_the_stream_goes_on() -> None:
    """A reset makes a gap per symbol; spoilt frames become dead letters; dropped and doubled ones raise nothing."""

    async def scenario() -> None:
        async with exchange_of() as exchange, line_to(exchange, "PKOURS", KEYS["PKOURS"]) as kept:
            await until(lambda: subscribed(exchange) == 1)
            since = exchange.play(200, since=SINCE, every=EVERY)
            for kind in ("drop", "duplicate", "reorder"):
                exchange.inject(Fault(kind=kind, count=3))
                since = exchange.play(50, since=since, every=EVERY)
            exchange.inject(Fault(kind="corrupt", count=8))
            since = exchange.play(50, since=since, every=EVERY)
            await until(lambda: len(kept.of(events.DeadLetter)) >= 8)
            exchange.inject(Fault(kind="halt", symbol="AAPL"))
            await until(lambda: any(i.status == "halted" and i.symbol == "AAPL" for i in kept.of(Instrument)))
            sessions = exchange._next
            exchange.inject(Fault(kind="disconnect"))
            await until(lambda: exchange._next > sessions and subscribed(exchange) == 1)
            gaps = {event.symbol for event in kept.of(FeedStatus) if event.kind == "gap"}
            assert gaps == set(SYMBOLS)
            exchange.inject(Fault(kind="resume", symbol="AAPL"))
            exchange.play(100, since=since, every=EVERY)
            await until(lambda: kept.statuses().count("resynced") == len(SYMBOLS))
            assert kept.of(events.Quote)[-1].valid

    uvloop.run(scenario())


async def said(socket: ClientConnection) -> Any:
    """Return the next message of the server."""
    async with asyncio.timeout(LIMIT_S):
        return msgspec.json.decode(await socket.recv())[0]


@asynccontextmanager
async def by_hand(exchange: AlpacaExchange) -> AsyncIterator[Callable[[str], Awaitable[Any]]]:
    """Connect a client that says what it likes; yields what sends and returns the answer."""
    async with connect(f"ws://127.0.0.1:{exchange.port}/v2/iex") as socket:
        assert await said(socket) == {"T": "success", "msg": "connected"}

        async def ask(text: str) -> Any:
            if text:
                await socket.send(text)
            return await said(socket)

        yield ask


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("{", 400),
        ('{"action":"dance"}', 400),
        ('{"action":"subscribe","trades":["AAPL"]}', 401),
        ('{"action":"auth","key":"PKOURS","secret":"x"}', 402),
    ],
)
def test_server_refuses_with_the_documented_codes(sent: str, code: int) -> None:
    """Before a login: nonsense, a subscription, a wrong secret."""

    async def scenario() -> None:
        async with exchange_of() as exchange, by_hand(exchange) as ask:
            assert (await ask(sent))["code"] == code

    uvloop.run(scenario())


def test_server_gives_ten_seconds_to_log_in_and_subscribes_with_wildcards() -> None:
    """404 when the time is over; after a login 403 for another, 410 for what is no channel, corrections with trades."""

    async def scenario() -> None:
        async with exchange_of(auth_timeout_s=0.05) as exchange, by_hand(exchange) as ask:
            assert (await ask(""))["code"] == 404
        login = f'{{"action":"auth","key":"PKOURS","secret":"{KEYS["PKOURS"]}"}}'
        async with exchange_of() as exchange, by_hand(exchange) as ask:
            assert await ask(login) == {"T": "success", "msg": "authenticated"}
            assert (await ask(login))["code"] == 403
            assert (await ask('{"action":"subscribe","news":["AAPL"]}'))["code"] == 410
            assert (await ask('{"action":"subscribe","trades":["aapl"]}'))["code"] == 400
            answer = await ask('{"action":"subscribe","trades":["*"],"bars":["SPY"]}')
            assert (answer["trades"], answer["corrections"], answer["cancelErrors"]) == (["*"], ["*"], ["*"])
            assert (await ask('{"action":"unsubscribe","bars":["SPY"]}'))["bars"] == []

    uvloop.run(scenario())


HEADERS = {"APCA-API-KEY-ID": "PKOURS", "APCA-API-SECRET-KEY": KEYS["PKOURS"]}


@asynccontextmanager
async def history_of(exchange: AlpacaExchange) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the exchange's HTTP; yields a client without a key."""
    async with (
        web.serve(create_app(exchange), "127.0.0.1", 0) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as rest,
    ):
        yield rest


def amended(exchange: AlpacaExchange, symbol: str, ts: int) -> dict[str, tuple[str, str]]:
    """Return by id the price and size of what still stands of the stream, as our feed has it at `ts`."""
    feed = find_venue("alpaca").make(line="alpaca/0", products=(symbol,), token=None)
    stands: dict[str, tuple[str, str]] = {}
    for event in feed.received(encode(exchange.published, packed=False), ts):
        for t in event.trades if isinstance(event, Trades) else ():
            stands.pop(t.original_id or t.trade_id, None)
            if t.action != "cancel":
                stands[t.trade_id] = (t.price, t.size)
    return stands


def test_history_is_the_stream_after_its_corrections_and_cancels() -> None:
    """Our adapter pages through it: trades have the stream's ids, bars are the last revision of each minute."""

    async def scenario() -> None:
        exchange = AlpacaExchange(SYMBOLS, keys=KEYS, seed=7)
        end = exchange.play(1_500, since=SINCE, every=EVERY)
        async with history_of(exchange) as rest:
            adapter = AlpacaHistory(Access(rest_url=str(rest.base_url), key="PKOURS", secret=KEYS["PKOURS"]), limit=50)
            minutes = -(-(end - SINCE) // MINUTE_NS) * MINUTE_NS
            asked = Asked(instrument=adapter.instrument("AAPL"), start=SINCE, end=SINCE + minutes, interval="1m")

            async def walk(name: str) -> tuple[list[Any], int]:
                rows: list[Any] = []
                cursor, pages = None, 0
                while cursor is not None or not pages:
                    request = getattr(adapter, name)(asked, cursor)
                    answer = await rest.get(request.path, params=list(request.query), headers=adapter.headers())
                    page = getattr(adapter, f"parse_{name}")(asked, cursor, answer.raise_for_status().content, end)
                    rows, cursor, pages = [*rows, *page.items], page.cursor, pages + 1
                return rows, pages

            trades, pages = await walk("trades")
            assert pages > 2
            assert {t.trade_id: (t.price, t.size) for t in trades} == amended(exchange, "AAPL", end)
            assert len(trades) == len({t.trade_id for t in trades})
            last = {m["t"]: str(m["v"]) for m in exchange.published if m["T"] in "bu" and m["S"] == "AAPL"}
            assert {c.start: c.volume for c in (await walk("candles"))[0]} == last

    uvloop.run(scenario())


def test_alpacas_own_client_reads_the_history_too() -> None:
    """Several symbols at once, every page of them."""

    async def scenario() -> None:
        exchange = AlpacaExchange(SYMBOLS, keys=KEYS)
        exchange.play(1_500, since=SINCE, every=EVERY)
        async with history_of(exchange) as rest:
            client = StockHistoricalDataClient("PKOURS", KEYS["PKOURS"], url_override=str(rest.base_url))
            since = datetime.fromtimestamp(SINCE // SECOND_NS - 60, UTC)  # a trade may be told late
            read = await asyncio.to_thread(
                client.get_stock_trades, StockTradesRequest(symbol_or_symbols=list(SYMBOLS), start=since)
            )
            assert isinstance(read, TradeSet)
            for symbol, stock in exchange.market.stocks.items():
                assert {t.id for t in read.data[symbol]} == set(stock.trades)

    uvloop.run(scenario())


def test_history_needs_a_key_a_symbol_and_a_page_that_exists() -> None:
    """What is wrong is refused with the venue's codes."""

    async def scenario() -> None:
        async with history_of(AlpacaExchange(SYMBOLS, keys=KEYS)) as rest:
            assert (await rest.get("/v2/stocks/AAPL/trades")).status_code == 403
            for path in ("NONE/trades", "AAPL/bars?timeframe=3Min", "AAPL/trades?page_token=x", "AAPL/bars?start=now"):
                assert (await rest.get(f"/v2/stocks/{path}", headers=HEADERS)).status_code == 400
            nothing = (await rest.get("/v2/stocks/AAPL/trades", headers=HEADERS)).json()
            assert nothing == {"trades": None, "symbol": "AAPL", "next_page_token": None}

    uvloop.run(scenario())


def test_process_serves_until_it_is_told_to_stop() -> None:
    """`python -m infra.simulator alpaca` trades alone, takes faults, and ends with 0."""

    async def scenario() -> None:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            port, control = one.getsockname()[1], other.getsockname()[1]
        environment = os.environ | {"TICKSTREAM_EXCHANGE_PORT": str(port), "TICKSTREAM_EXCHANGE_CONTROL_PORT":
                                    str(control), "ALPACA_SYMBOLS": "AAPL"}  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "infra.simulator", "alpaca", env=environment
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{control}", trust_env=False) as rest:
                await until_answers(rest)
                fault = {"kind": "drop", "count": 0}
                assert (await rest.post("/faults", json=fault)).raise_for_status().json()["done"] is False
                assert (await rest.delete("/faults")).json() == {"ended": 1}
                url = f"ws://127.0.0.1:{port}/v2/iex"
                async with connect(url) as client:
                    await said(client)
                    for text in ({"action": "auth", "key": "PKSIMULATED", "secret": DEMO_KEYS["PKSIMULATED"]},
                                 {"action": "subscribe", "trades": ["*"]}):  # fmt: skip
                        await client.send(msgspec.json.encode(text).decode())
                        await said(client)
                    assert (await said(client))["S"] == "AAPL"
            process.terminate()
            async with asyncio.timeout(LIMIT_S):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()

    uvloop.run(scenario())


async def until_answers(rest: httpx.AsyncClient) -> None:
    """Wait until the process answers that it is at work."""
    async with asyncio.timeout(2 * LIMIT_S):
        while True:
            try:
                (await rest.get("/healthz")).raise_for_status()
            except httpx.HTTPError:
                await asyncio.sleep(0.05)
            else:
                return

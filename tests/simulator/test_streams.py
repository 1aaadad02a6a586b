"""The simulated streams of many symbols: each venue's feed reads them without a loss, limits are enforced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from infra.simulator.limits import Window
from infra.simulator.venues.streams.bitfinex import BitfinexSession
from infra.simulator.venues.streams.bybit import BybitSession
from infra.simulator.venues.streams.market import Market
from infra.simulator.venues.streams.okx import OkxSession
from infra.simulator.venues.streams.server import Streams
from infra.simulator.venues.streams.session import Ended, Session
from infra.simulator.venues.streams.sessions import SESSIONS
from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, Derivative, FeedStatus, Trades
from marketdata.feed import Fetch, Output, Send
from producers.venues import find_venue
from producers.venues.kit.venue import LiveFeed

TS = 1_780_000_000_000_000_000
SECOND = 1_000_000_000
PATHS = {"bybit": "/v5/public/spot", "gemini": "/?snapshot=-1"}
STEPS = 30


class Played:
    """A feed and the venue's session, joined without a socket; keeps the books that the feed publishes."""

    def __init__(self, venue: str, symbols: int, path: str = "", *, products: tuple[str, ...] | None = None) -> None:
        kind: type[Session] = SESSIONS[venue]
        self.markets = {name: Market(number) for number, name in enumerate(kind.names(symbols))}
        self.session = kind(self.markets, path or PATHS.get(venue, "/"))
        products = tuple(self.markets) if products is None else products
        self.feed: LiveFeed = find_venue(venue).make(line=f"{venue}/0", products=products, token=None)
        self.books: dict[str, L2Book] = {}
        self.trades: dict[str, list[str]] = {}
        self.derivatives: list[Derivative] = []
        self.problems: list[Output] = []
        self.ts = TS
        for frame in self.session.opened(TS):
            self._take(self.feed.received(frame, TS))
        self._take(self.feed.opened(TS))

    def step(self) -> None:
        """Let a second pass."""
        self.ts += SECOND
        steps = {name: market.step(self.ts) for name, market in self.markets.items()}
        for frame in self.session.stepped(steps, self.ts):
            self._take(self.feed.received(frame.payload, self.ts))
        self._take(self.feed.ticked(self.ts))

    def _take(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                for frame in self.session.received(output.frame, self.ts):
                    self._take(self.feed.received(frame, self.ts))
            elif isinstance(output, Fetch):
                address = urlsplit(output.path)
                answer = self.session.answer(self.markets, f"/{address.path}", dict(parse_qsl(address.query)))
                if answer is not None:
                    self._take(self.feed.fetched(output, msgspec.json.encode(answer), self.ts))
            else:
                self._keep(output)

    def _keep(self, output: Output) -> None:
        if isinstance(output, BookUpdate) and output.kind in {"snapshot", "update"}:
            book = self.books.setdefault(output.symbol, L2Book())
            change = book.bids.replace if output.kind == "snapshot" else book.bids.apply
            change(output.bid_prices, output.bid_sizes)
            change = book.asks.replace if output.kind == "snapshot" else book.asks.apply
            change(output.ask_prices, output.ask_sizes)
        elif isinstance(output, Trades):
            self.trades.setdefault(output.symbol, []).extend(trade.trade_id for trade in output.trades)
        elif isinstance(output, Derivative):
            self.derivatives.append(output)
        elif isinstance(output, DeadLetter) or (isinstance(output, FeedStatus) and output.kind == "gap"):
            self.problems.append(output)


@pytest.mark.parametrize("venue", sorted(set(SESSIONS) - {"binance_usdm"}))
def test_a_venues_feed_reads_the_simulated_stream_without_a_loss(venue: str) -> None:
    """Every book is the market's own after each step, every trade is published once, and nothing is refused."""
    played = Played(venue, 4)
    for _ in range(STEPS):
        played.step()
    assert played.problems == []
    assert played.session.refused == []
    assert len(played.books) == len(played.trades) == 4
    for (_, market), book in zip(played.markets.items(), played.books.values(), strict=True):
        bids, asks = market.book()
        assert numbers(book.bids.top(20)) == numbers(bids)
        assert numbers(book.asks.top(20)) == numbers(asks)
    assert all(len(ids) == len(set(ids)) == STEPS for ids in played.trades.values())
    assert played.feed.counts["checksums_wrong"] == 0


def numbers(levels: Iterable[tuple[str, str]]) -> list[tuple[Decimal, Decimal]]:
    """Return levels as numbers: a venue that sends JSON numbers writes fewer zeros."""
    return [(Decimal(price), Decimal(size)) for price, size in levels]


def ask(session: Session, request: object) -> list[object]:
    """Return the answers to one message."""
    message = request if isinstance(request, bytes) else msgspec.json.encode(request)
    return [msgspec.json.decode(frame) for frame in session.received(message, TS)]


def markets(kind: type[Session], count: int = 30) -> dict[str, Market]:
    """Return the markets of a venue."""
    return {name: Market(number) for number, name in enumerate(kind.names(count))}


def test_bitfinex_refuses_the_26th_channel_with_its_own_code() -> None:
    """As documented: 25 channels, then error 10305, and the others stay open."""
    session = BitfinexSession(markets(BitfinexSession), "/ws/2")
    answers = [ask(session, {"event": "subscribe", "channel": "trades", "symbol": name})[0] for name in session.markets]
    codes = [answer.get("code") for answer in answers if isinstance(answer, dict)]
    assert codes == [None] * 25 + [10305] * 5
    assert len(session.subscribed) == 25


def test_bybit_spot_refuses_eleven_args_at_once() -> None:
    """None of them is subscribed then; futures take them."""
    topics = [f"publicTrade.{name}" for name in BybitSession.names(11)]
    spot = BybitSession(markets(BybitSession), "/v5/public/spot")
    linear = BybitSession(markets(BybitSession), "/v5/public/linear")
    request = {"op": "subscribe", "args": topics, "req_id": "1"}
    assert [(answer["success"], answer["ret_msg"]) for answer in ask(spot, request) if isinstance(answer, dict)] == [
        (False, "error:args size >10")
    ]
    assert spot.subscribed == {}
    ask(linear, request)
    assert len(linear.subscribed) == 11


def test_okx_refuses_an_instrument_that_does_not_exist_and_takes_its_neighbour() -> None:
    """One argument never costs another."""
    session = OkxSession(markets(OkxSession), "/ws/v5/public")
    args = [{"channel": "trades", "instId": name} for name in ("NO-USDT", "ETH-USDT")]
    answers = ask(session, {"op": "subscribe", "args": args})
    assert [answer["event"] for answer in answers if isinstance(answer, dict)] == ["error", "subscribe"]
    assert list(session.subscribed) == [("trades", "ETH-USDT")]


def test_contracts_of_okx_bring_what_their_market_has_and_their_pair_brings_none_of_it() -> None:
    """Funding, prices and open interest with each step, a liquidation with each third trade, each of them valid."""
    played = Played("okx", 2, products=("BTC-USDT", "BTC-USDT-SWAP"))
    for _ in range(STEPS):
        played.step()
    assert (played.problems, played.session.refused) == ([], [])
    assert {event.symbol for event in played.derivatives} == {"BTC-USDT-SWAP"}
    assert all(event.valid for event in played.derivatives)
    fields = ("mark_price", "index_price", "open_interest", "funding_rate")
    had = {field: [event for event in played.derivatives if getattr(event, field) is not None] for field in fields}
    assert {field: len(events) for field, events in had.items()} == dict.fromkeys(fields, STEPS)
    assert {(one.funding_interval, one.next_funding_ts % (28_800 * SECOND)) for one in had["funding_rate"]
            if one.next_funding_ts is not None} == {(28_800, 0)}  # fmt: skip
    liquidated = [one for event in played.derivatives for one in event.liquidations]
    assert len(liquidated) == STEPS // 3
    assert {(one.side, one.size) for one in liquidated} == {("buy", "0.125"), ("sell", "0.125")}
    assert played.trades["BTC-USDT-SWAP"] == played.trades["BTC-USDT"]


def test_okx_refuses_channels_that_a_pair_does_not_have() -> None:
    """A pair pays no funding, and liquidations know types only; the index of a pair can be subscribed."""
    session = OkxSession(markets(OkxSession, 2), "/ws/v5/public")
    args = [{"channel": "funding-rate", "instId": "BTC-USDT"},
            {"channel": "liquidation-orders", "instId": "BTC-USDT-SWAP"},
            {"channel": "index-tickers", "instId": "BTC-USDT-SWAP"}, {"channel": "index-tickers", "instId": "BTC-USDT"},
            {"channel": "liquidation-orders", "instType": "FUTURES"}]  # fmt: skip
    answers = ask(session, {"op": "subscribe", "args": args})
    assert [answer["event"] for answer in answers if isinstance(answer, dict)] == ["error"] * 3 + ["subscribe"] * 2


def test_futures_of_binance_send_each_class_on_its_own_path_only() -> None:
    """As since 2026-04-23: the other class is acknowledged and stays silent."""
    kind = SESSIONS["binance_usdm"]
    sent = {}
    for path in ("/public/stream", "/market/stream"):
        listed = markets(kind, 1)
        session = kind(listed, path)
        streams = ["btcusdt@depth@100ms", "btcusdt@aggTrade", "btcusdt@bookTicker", "btcusdt@markPrice@1s"]
        assert ask(session, {"method": "SUBSCRIBE", "params": streams, "id": 7}) == [{"result": None, "id": 7}]
        frames = session.stepped({name: market.step(TS) for name, market in listed.items()}, TS)
        sent[path] = [msgspec.json.decode(frame.payload)["stream"].partition("@")[2] for frame in frames]
    assert sent == {"/public/stream": ["depth@100ms", "bookTicker"], "/market/stream": ["aggTrade", "markPrice@1s"]}


def test_a_window_counts_only_its_last_seconds() -> None:
    """Two in a second, then it is full until the first is a second old."""
    window = Window((2, 1.0))
    assert [window.takes(at) for at in (0.0, 0.5, 0.9, 1.0, 1.2, 1.6)] == [True, True, False, True, False, True]


async def _closed(streams: Streams, messages: int) -> tuple[int, str]:
    async with connect(f"ws://127.0.0.1:{streams.port}/stream") as socket:
        for number in range(messages):
            await socket.send(msgspec.json.encode({"method": "SUBSCRIBE", "params": ["btcusdt@trade"], "id": number}))
        with suppress(ConnectionClosed):
            async for _ in socket:
                pass
        await asyncio.wait_for(socket.wait_closed(), 10)
        return socket.close_code or 0, socket.close_reason or ""


def test_a_sixth_message_within_a_second_ends_the_connection_to_binance() -> None:
    """With 1008, as documented; the first five were answered."""

    async def scenario() -> None:
        async with Streams(SESSIONS["binance_spot"], 1, every_s=0).serve("127.0.0.1", 0) as streams:
            assert await _closed(streams, 6) == (1008, "Too many requests")
            assert streams.view()["ended"] == {"Too many requests": 1}

    asyncio.run(scenario())


def test_too_many_attempts_of_one_address_are_answered_429() -> None:
    """Bitfinex takes twenty connections a minute."""

    async def scenario() -> None:
        async with Streams(BitfinexSession, 1, every_s=0).serve("127.0.0.1", 0) as streams:
            url = f"ws://127.0.0.1:{streams.port}/ws/2"
            for _ in range(20):
                async with connect(url) as socket:
                    assert b'"info"' in msgspec.json.encode(msgspec.json.decode(await socket.recv()))
            with pytest.raises(InvalidStatus) as refused:
                await connect(url)
            assert refused.value.response.status_code == 429

    asyncio.run(scenario())


@pytest.mark.parametrize("venue", sorted(SESSIONS))
def test_any_message_of_a_client_is_answered_or_ends_the_connection(venue: str) -> None:
    """No message raises anything else, so that one client never stops the venue."""
    kind = SESSIONS[venue]
    for message in (b"", b"null", b"[]", b"{}", b"\xff", b'{"op":"subscribe","args":[1]}',
                    b'{"event":"subscribe"}', b'{"method":"SUBSCRIBE","params":[1,{}]}',
                    b'{"method":"subscribe","params":{"channel":"book","symbol":[1]}}',
                    b'{"type":"subscribe","channels":[1]}'):  # fmt: skip
        with suppress(Ended):
            kind(markets(kind, 2), "/").received(message, TS)

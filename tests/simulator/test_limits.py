"""Venues with a simulator of their own refuse what they document as too much, each in its own words."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import databento_dbn
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from infra.simulator.limits import Limits
from infra.simulator.venues.alpaca.server import AlpacaExchange
from infra.simulator.venues.coinbase.connection import LIMITS
from infra.simulator.venues.coinbase.server import Exchange
from infra.simulator.venues.databento.gateway import Client
from infra.simulator.venues.databento.server import DatabentoExchange
from infra.simulator.venues.facts import ALPACA_FREE_KEY, ALPACA_KEY, ALPACA_SECRET, DATABENTO_KEY, VENUES
from infra.simulator.venues.fix.server import FixExchange, FixVenue
from marketdata.fix.codec import Fields, Message, decode, encode, utc
from marketdata.fix.split import FixSplitter
from marketdata.fix.steps import Identity

Bounded = Callable[[Awaitable[None]], None]
TS = 1_780_000_000_000_000_000


async def ask(socket: ClientConnection, **request: Any) -> Any:
    """Send a request, and return the next frame."""
    await socket.send(msgspec.json.encode(request).decode())
    return msgspec.json.decode(await socket.recv())


async def disconnect(writer: asyncio.StreamWriter) -> None:
    """Close a connection, which the other side may have broken."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def until_closed(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Read until the venue closes the connection; return its code and reason."""
    with suppress(ConnectionClosed):
        async for _ in socket:
            pass
    await socket.wait_closed()
    return socket.close_code, socket.close_reason


# --- Coinbase Advanced Trade ---


def test_coinbase_refuses_the_17th_book_of_a_connection(bounded: Bounded) -> None:
    """Then none of the request is subscribed, and trades are not limited."""

    async def scenario() -> None:
        products = tuple(VENUES["coinbase"].names(17))
        async with (
            Exchange(products, rate=0).serve("127.0.0.1", 0) as exchange,
            connect(f"ws://127.0.0.1:{exchange.port}", max_size=None) as socket,
        ):
            answer = await ask(socket, type="subscribe", channel="level2", product_ids=products)
            assert answer == {"type": "error", "message": "too many L2 streams"}
            assert exchange.connections[1].channels == {}
            await ask(socket, type="subscribe", channel="level2", product_ids=products[:16])
            await ask(socket, type="subscribe", channel="market_trades", product_ids=products)
            while len(exchange.connections[1].channels) < 2:
                await socket.recv()
            assert [len(names) for names in exchange.connections[1].channels.values()] == [16, 17]
            await socket.send(b'{"type":"subscribe","channel":"level2","product_ids":["%b"]}' % products[16].encode())
            while "error" not in (frame := str(await socket.recv())):
                pass
            assert msgspec.json.decode(frame)["message"] == "too many L2 streams"
            assert exchange.view()["refused"] == {"too many L2 streams": 2}

    bounded(scenario())


def test_coinbase_takes_one_channel_in_a_message(bounded: Bounded) -> None:
    """A list of channels, as Coinbase Exchange takes it, is malformed."""

    async def scenario() -> None:
        async with (
            Exchange(("BTC-USD",), rate=0).serve("127.0.0.1", 0) as exchange,
            connect(f"ws://127.0.0.1:{exchange.port}") as socket,
        ):
            answer = await ask(socket, type="subscribe", channels=["level2", "ticker"], product_ids=["BTC-USD"])
            assert answer["message"].startswith("malformed message")

    bounded(scenario())


def test_coinbase_counts_messages_and_connections_of_an_address(bounded: Bounded) -> None:
    """Eight of each in a second: the ninth message ends its connection, the ninth connection is answered 429."""

    async def scenario() -> None:
        limits = msgspec.structs.replace(LIMITS, address_messages=(8, 60), attempts=(2, 60))
        async with Exchange(("BTC-USD",), rate=0, limits=limits).serve("127.0.0.1", 0) as exchange:
            url = f"ws://127.0.0.1:{exchange.port}"
            async with connect(url) as one, connect(url) as other:
                with pytest.raises(InvalidStatus) as refused:
                    await connect(url)
                assert refused.value.response.status_code == 429
                for _ in range(4):
                    await ask(one, type="subscribe", channel="heartbeats")
                    await ask(other, type="subscribe", channel="heartbeats")
                await other.send(b'{"type":"subscribe","channel":"status"}')
                assert await until_closed(other) == (1008, "too many messages")
            assert exchange.view()["refused"] == {"attempts": 1}

    bounded(scenario())


# --- Alpaca ---


def test_alpaca_limits_the_symbols_of_the_free_plan_only(bounded: Bounded) -> None:
    """Code 405 for the 31st symbol of trades and quotes; bars are not counted, and the paid plan has no limit."""

    async def scenario() -> None:
        symbols = VENUES["alpaca"].names(31)
        async with AlpacaExchange(symbols).serve("127.0.0.1", 0) as exchange:
            codes = {}
            for key in (ALPACA_FREE_KEY, ALPACA_KEY):
                async with connect(f"ws://127.0.0.1:{exchange.port}/v2/iex") as socket:
                    await socket.recv()
                    await ask(socket, action="auth", key=key, secret=ALPACA_SECRET)
                    wanted: list[dict[str, list[str]]] = [{"bars": symbols}, {"trades": symbols[:30]}]
                    wanted += [{"quotes": symbols[30:]}, {"quotes": symbols[:30]}]
                    answers = [await ask(socket, action="subscribe", **one) for one in wanted]
                    codes[key] = [answer[0].get("code") for answer in answers]
            assert codes == {ALPACA_FREE_KEY: [None, None, 405, None], ALPACA_KEY: [None] * 4}
            assert exchange.view()["refused"] == {"symbol limit exceeded": 1}

    bounded(scenario())


# --- FIX ---

US = Identity(sender="US", target="THEM", username="us", password="right")
THEM = Identity(sender="THEM", target="US", username="us", password="right")


class FixClient:
    """Writes messages as a client may, also such as our own session never would."""

    def __init__(self) -> None:
        self._number = 0

    def message(self, kind: str, *fields: tuple[int, str]) -> bytes:
        """Return the next message."""
        self._number += 1
        head: Fields = [(35, kind), (49, "US"), (56, "THEM"), (34, str(self._number)), (52, utc(TS))]
        return encode("FIX.4.4", [*head, *fields])

    def logon(self, password: str = "right") -> bytes:
        """Return a Logon."""
        return self.message("A", (98, "0"), (108, "30"), (141, "Y"), (553, "us"), (554, password))

    def request(self, number: str, symbol: str, *, kind: str = "1", depth: str = "0", update: str = "1") -> bytes:
        """Return a MarketDataRequest."""
        return self.message("V", (262, number), (263, kind), (264, depth), (265, update), (146, "1"), (55, symbol))


def answers(venue: FixVenue, *frames: bytes) -> list[Message]:
    """Return what the venue answers."""
    return [decode(answer) for frame in frames for answer in venue.received(frame, TS)]


def test_fix_rejects_a_request_with_the_standards_reason() -> None:
    """MDReqRejReason (281) says why, and the session goes on."""
    venue, client = FixVenue(THEM, ["BTC-USD", "ETH-USD"], requests_max=1), FixClient()
    venue.opened(TS)
    answers(venue, client.logon())
    rejected = answers(
        venue,
        client.request("1", "DOGE-USD"), client.request("2", "BTC-USD", kind="0"),
        client.request("3", "BTC-USD", depth="1"), client.request("4", "BTC-USD", update="0"),
        client.request("5", "BTC-USD"), client.request("5", "ETH-USD"), client.request("6", "ETH-USD"),
    )  # fmt: skip
    assert [(one.kind, one.get(262), one.get(281)) for one in rejected] == [
        ("Y", "1", "0"), ("Y", "2", "4"), ("Y", "3", "5"), ("Y", "4", "6"), ("W", "5", ""), ("Y", "5", "1"),
        ("Y", "6", "2"),
    ]  # fmt: skip
    answers(venue, client.request("5", "BTC-USD", kind="2"))
    assert [one.kind for one in answers(venue, client.request("7", "ETH-USD"))] == ["W"]


def test_fix_refuses_a_logon_with_a_wrong_password_and_any_other_first_message() -> None:
    """A Logout with the reason ends the session."""
    for first, text in (
        (FixClient().logon("wrong"), "invalid username or password"),
        (FixClient().request("1", "BTC-USD"), "the first message is not a Logon"),
    ):
        venue = FixVenue(THEM, ["BTC-USD"])
        venue.opened(TS)
        assert [(one.kind, one.get(58)) for one in answers(venue, first)] == [("5", text)]
        assert venue.session.state == "closed"


def test_fix_session_takes_one_connection(bounded: Bounded) -> None:
    """Another one is closed at once, and the first goes on."""

    async def scenario() -> None:
        async with FixExchange(FixVenue(THEM, ["BTC-USD"])).serve("127.0.0.1", 0) as exchange:
            reader, writer = await asyncio.open_connection("127.0.0.1", exchange.port)
            client, splitter = FixClient(), FixSplitter()
            writer.write(client.logon())
            assert [decode(frame).kind for frame in splitter.split(await reader.read(4_096))] == ["A"]
            second, other = await asyncio.open_connection("127.0.0.1", exchange.port)
            assert await second.read() == b""
            await disconnect(other)
            writer.write(client.request("1", "BTC-USD"))
            assert [decode(frame).kind for frame in splitter.split(await reader.read(65_536))] == ["W"]
            assert exchange.view()["refused"] == {"connection": 1}
            await disconnect(writer)

    bounded(scenario())


# --- Databento ---


class GatewayClient:
    """A client of the gateway, as far as its limits are concerned."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client = Client(1, reader, writer)

    async def start(self, *subscriptions: dict[str, Any]) -> list[Any]:
        """Log in, subscribe, and return the records that come until the gateway closes, or the first few."""
        await self._client.read_line()
        challenge = (await self._client.read_line())["cram"]
        digest = hashlib.sha256(f"{challenge}|{DATABENTO_KEY}".encode()).hexdigest()
        self._client.line(auth=f"{digest}-{DATABENTO_KEY[-5:]}", dataset="GLBX.MDP3", encoding="dbn", ts_out=0)
        assert (await self._client.read_line())["success"] == "1"
        for one in subscriptions:
            self._client.line(**one)
        self._client.line(start_session=0)
        data = await self._client.reader.read(65_536)
        records: list[Any] = databento_dbn.DBNDecoder().write_and_decode(data)
        return [record for record in records if not isinstance(record, databento_dbn.Metadata)]

    async def close(self) -> None:
        """Disconnect."""
        await disconnect(self._client.writer)


MBO = {"schema": "mbo", "stype_in": "raw_symbol", "symbols": "BTCZ6", "snapshot": 1, "id": 1, "is_last": 1}


async def clients(exchange: DatabentoExchange, count: int) -> list[GatewayClient]:
    """Return clients that have connected."""
    return [GatewayClient(*await asyncio.open_connection("127.0.0.1", exchange.port)) for _ in range(count)]


def test_databento_refuses_the_eleventh_session_of_a_dataset(bounded: Bounded) -> None:
    """An error record with code 3, and the connection is closed."""

    async def scenario() -> None:
        exchange = DatabentoExchange(["BTCZ6"], every_s=0, limits=Limits(streams=10))
        async with exchange.serve("127.0.0.1", 0):
            connected = await clients(exchange, 11)
            got = [await client.start(MBO) for client in connected]
            errors = [[one.code for one in records if isinstance(one, databento_dbn.ErrorMsg)] for records in got]
            assert errors == [[]] * 10 + [[databento_dbn.ErrorCode.CONNECTION_LIMIT_EXCEEDED]]
            assert exchange.view()["refused"] == {"sessions": 1}
            for client in connected:
                await client.close()

    bounded(scenario())


def test_databento_closes_the_sixth_connection_within_a_second(bounded: Bounded) -> None:
    """At once, without a greeting; the others stay."""

    async def scenario() -> None:
        exchange = DatabentoExchange(["BTCZ6"], every_s=0, limits=Limits(attempts=(5, 60)))
        async with exchange.serve("127.0.0.1", 0):
            connected = await clients(exchange, 6)
            with pytest.raises(EOFError):
                await connected[5].start(MBO)
            assert await connected[4].start(MBO)
            assert exchange.view()["refused"] == {"attempts": 1}
            for client in connected:
                await client.close()

    bounded(scenario())


def test_databento_delays_the_eleventh_subscription_and_names_what_does_not_resolve(bounded: Bounded) -> None:
    """It is acknowledged like the others, but later; an unknown symbol is an error record that ends nothing."""

    async def scenario() -> None:
        exchange = DatabentoExchange(["BTCZ6"], every_s=0, limits=Limits(messages=(10, 0.5)))
        async with exchange.serve("127.0.0.1", 0):
            (client,) = await clients(exchange, 1)
            began = asyncio.get_running_loop().time()
            records = await client.start(*[MBO] * 10, MBO | {"symbols": "NONEZ6"})
            assert asyncio.get_running_loop().time() - began >= 0.5
            errors = [(one.code, one.err) for one in records if isinstance(one, databento_dbn.ErrorMsg)]
            assert errors == [(databento_dbn.ErrorCode.SYMBOL_RESOLUTION_FAILED, "Failed to resolve symbol NONEZ6")]
            await client.close()

    bounded(scenario())


def test_databento_ends_a_session_with_an_invalid_subscription(bounded: Bounded) -> None:
    """An error record with code 5 for a schema that is not simulated."""

    async def scenario() -> None:
        async with DatabentoExchange(["BTCZ6"], every_s=0).serve("127.0.0.1", 0) as exchange:
            (client,) = await clients(exchange, 1)
            records = await client.start(MBO | {"schema": "imbalance"})
            errors = [one.code for one in records if isinstance(one, databento_dbn.ErrorMsg)]
            assert errors == [databento_dbn.ErrorCode.INVALID_SUBSCRIPTION]
            await client.close()

    bounded(scenario())

"""Coinbase Exchange's signed channels: the key from the environment to a book of single orders on a real connection."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest
import structlog
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from marketdata.book import L2Book
from marketdata.errors import SettingsError
from marketdata.events import AnyEvent, BookUpdate, FeedStatus, RawFrame
from marketdata.feed import Reconnect, Refused, Send
from producers.live.connection import Connection, Options
from producers.live.settings import find_tokens, load_for_venue
from producers.venues import find_venue
from producers.venues.coinbase_exchange.feed import CoinbaseExchangeFeed
from producers.venues.coinbase_exchange.login import ExchangeKey

LIMIT_S = 20.0
T0 = 1_790_000_000_000_000_000
NAME = "BTC-USD"
KEY, PASSPHRASE = "3fd1key", 'open "sesame"'
SECRET = "dGlja3N0cmVhbSB0ZXN0IHNlY3JldCwgbm90IGEgcmVhbCBvbmU="
# printf 1790000000GET/users/self/verify | openssl dgst -sha256 -mac HMAC -macopt hexkey:... -binary | base64
SIGNATURE = "SqMBOIR7M6qjbbTa2rDf0pwFjnZDLXddZYZWgDF6MwY="
PARTS = {"KEY": KEY, "SECRET": SECRET, "PASSPHRASE": PASSPHRASE}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExchangeKey | None]:
    """Returns what signs, from these parts of the key and this channel; everything else as nobody set it."""

    def found(parts: Iterable[str], **variables: str) -> ExchangeKey | None:
        monkeypatch.setenv("TICKSTREAM_VENUE", "coinbase_exchange")
        for name in ("DEPTH", *(f"API_{part}" for part in PARTS)):
            monkeypatch.delenv(f"COINBASE_EXCHANGE_{name}", raising=False)
        for part in parts:
            monkeypatch.setenv(f"COINBASE_EXCHANGE_API_{part}", PARTS[part])
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings, venue = load_for_venue()
        assert not any(value in repr(settings) for value in PARTS.values())
        tokens = find_tokens(settings, venue)
        assert tokens is None or isinstance(tokens, ExchangeKey)
        return tokens

    return found


# --- The key ---


def test_signature_is_the_one_that_openssl_computes(environment: Callable[..., ExchangeKey | None]) -> None:
    """HMAC-SHA256 by the decoded secret over time, method and path; the feed puts it into each subscription."""
    tokens = environment(PARTS, COINBASE_EXCHANGE_DEPTH="full")
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), token=tokens)
    sent = [json.loads(output.frame) for output in feed.opened(T0 + 999_999_999) if isinstance(output, Send)]
    assert [order["channels"] for order in sent] == [["status"], ["full"], ["ticker"], ["heartbeat"]]
    for order in sent:
        signed = {name: order[name] for name in ("signature", "key", "passphrase", "timestamp")}
        assert signed == {"signature": SIGNATURE, "key": KEY, "passphrase": PASSPHRASE, "timestamp": "1790000000"}


@pytest.mark.parametrize("depth", ["level2", "full"])
@pytest.mark.parametrize("parts", [(), ("KEY",), ("KEY", "SECRET"), ("SECRET", "PASSPHRASE")])
def test_channel_that_wants_a_key_is_refused_without_one(
    environment: Callable[..., ExchangeKey | None], depth: str, parts: tuple[str, ...]
) -> None:
    """The variables that are missing are named before anything is started; a replay needs none of them."""
    with pytest.raises(SettingsError, match="without a key") as caught:
        environment(parts, COINBASE_EXCHANGE_DEPTH=depth)
    named = str(caught.value).partition(":")[0].split(", ")
    assert named == [f"COINBASE_EXCHANGE_API_{part}" for part in PARTS if part not in parts]
    assert environment(parts, COINBASE_EXCHANGE_DEPTH=depth, TICKSTREAM_SOURCE="replay") is None


def test_public_channel_needs_no_key_but_takes_no_half_of_one(
    environment: Callable[..., ExchangeKey | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing set is as before; a part alone, a secret that is no base64 and an unknown channel are told by name."""
    assert environment(()) is None
    with pytest.raises(
        SettingsError, match=r"COINBASE_EXCHANGE_API_SECRET, COINBASE_EXCHANGE_API_PASSPHRASE: .* three"
    ):
        environment(("KEY",))
    monkeypatch.setitem(PARTS, "SECRET", "no base64!")
    with pytest.raises(SettingsError, match="COINBASE_EXCHANGE_API_SECRET") as caught:
        environment(PARTS)
    assert "no base64!" not in str(caught.value)
    with pytest.raises(SettingsError, match="COINBASE_EXCHANGE_DEPTH"):
        environment((), COINBASE_EXCHANGE_DEPTH="level9")


def test_what_signs_is_not_stored_and_the_rest_is(environment: Callable[..., ExchangeKey | None]) -> None:
    """The stored subscription still is JSON and tells its channels; a passphrase with quotes leaves nothing behind."""
    tokens = environment(PARTS, COINBASE_EXCHANGE_DEPTH="full")
    assert tokens is not None
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), token=tokens)
    frame = next(output.frame for output in feed.opened(T0) if isinstance(output, Send))
    before, after = json.loads(frame), json.loads(tokens.redact(frame))
    assert after == before | dict.fromkeys(("signature", "key", "passphrase"), "***")


@pytest.mark.parametrize(
    ("message", "reason", "is_final"),
    [
        ("Failed to subscribe", "level2, level3, and full channels now require authentication.", True),
        ("Sorry, you could not be authenticated: Bad Request", "invalid signature", True),
        ("Authentication Failed", '{"message":"Invalid API Key"}', True),
        ("Sorry, you could not be authenticated: Unauthorized", "IP does not match IP whitelist", True),
        ("Authentication Failed", '{"message":"request timestamp expired"}', False),
        ("Failed to subscribe", "ABC-USD is not a valid product", False),
        ("Sorry, you could not be authenticated: Service Unavailable", "", False),
    ],
)
def test_only_a_rejected_key_is_final(message: str, reason: str, is_final: bool) -> None:
    """What another try may mend goes on; a recording of somebody else's refusal is no refusal of ours."""
    frame = json.dumps({"type": "error", "message": message, "reason": reason}).encode()
    token = ExchangeKey(KEY, SECRET, PASSPHRASE, "full")
    for products, final in (((NAME,), is_final), (None, False)):
        feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=products, token=token)
        feed.opened(T0)
        out = feed.received(frame, T0)
        assert [output.reason for output in out if isinstance(output, Refused)] == ["auth_failed"] * final
        assert not any(isinstance(output, Reconnect) for output in out)


# --- A real connection ---


class Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.raw: list[RawFrame] = []
        self.states: list[str] = []

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Keep what one frame brought."""
        self.events += events
        if raw is not None:
            self.raw.append(raw)

    def updates(self) -> list[BookUpdate]:
        """Return the book changes so far."""
        return [event for event in self.events if isinstance(event, BookUpdate)]


class Exchange:
    """A venue of one product: signed subscriptions over a WebSocket, the book of level 3 over HTTP.

    After sequence 10, where the REST book is, it sends one message of each kind; one of 9 before them.
    """

    ROWS = (("bids", "100.10", "1.5", "a"), ("bids", "100.10", "0.5", "b"), ("bids", "99", "3", "c"),
            ("asks", "101", "2", "d"), ("asks", "102", "4", "e"))  # fmt: skip
    LIVE = (
        ("done", 9, {"order_id": "gone", "reason": "canceled"}),
        ("received", 10, {"order_id": "e"}),
        ("open", 11, {"order_id": "f", "side": "sell", "price": "100.9", "remaining_size": "0.25"}),
        ("match", 12, {"trade_id": 7, "maker_order_id": "a", "side": "buy", "price": "100.10", "size": "1.25"}),
        ("change", 13, {"order_id": "d", "side": "sell", "price": "101", "old_size": "2", "new_size": "1"}),
        ("done", 14, {"order_id": "c", "reason": "canceled"}),
    )
    BOOK = ({"100.10": "0.75"}, {"100.9": "0.25", "101": "1", "102": "4"})

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.connections = 0

    def refusal(self, order: dict[str, Any]) -> str | None:
        """Return why a subscription is not accepted, or None."""
        message = f"{order.get('timestamp')}GET/users/self/verify".encode()
        signature = base64.b64encode(hmac.new(base64.b64decode(SECRET), message, hashlib.sha256).digest()).decode()
        if order.get("signature") != signature:
            return "invalid signature"
        if abs(time.time() - float(order["timestamp"])) > 30:
            return "request timestamp expired"
        return None if (order["key"], order["passphrase"]) == (KEY, PASSPHRASE) else "invalid passphrase"

    async def talk(self, connection: ServerConnection) -> None:
        """Speak to one client."""
        self.connections += 1
        with suppress(ConnectionClosed):
            for _ in range(4):
                self.orders.append(json.loads(await connection.recv()))
                refusal = self.refusal(self.orders[-1])
                if refusal is not None:
                    await connection.send(json.dumps({"type": "error", "message": "Authentication Failed",
                                                      "reason": refusal}))  # fmt: skip
                    await connection.wait_closed()
            listed = [{"name": order["channels"][0], "product_ids": order.get("product_ids", [])}
                      for order in self.orders]  # fmt: skip
            for _ in self.orders:
                await connection.send(json.dumps({"type": "subscriptions", "channels": listed}))
            for kind, sequence, fields in self.LIVE:
                told = {"type": kind, "product_id": NAME, "sequence": sequence, "time": "2026-09-21T14:13:20.000000Z"}
                await connection.send(json.dumps(told | fields))
            await connection.wait_closed()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one HTTP request."""
        target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        self.requests.append(target)
        book: dict[str, Any] = {"sequence": 10, "bids": [], "asks": []}
        for side, *row in self.ROWS:
            book[side].append(row)
        body = json.dumps(book if target == f"/products/{NAME}/book?level=3" else []).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is in many places
            await asyncio.sleep(0.005)


@asynccontextmanager
async def line_to(exchange: Exchange, tokens: ExchangeKey) -> AsyncIterator[Kept]:
    """Run the producer's own line against an exchange, and stop it in order."""
    kept = Kept()
    http = await asyncio.start_server(exchange.answer, "127.0.0.1", 0)
    async with http, serve(exchange.talk, "127.0.0.1", 0) as server:
        ports = [next(iter(one.sockets)).getsockname()[1] for one in (server, http)]
        feed = find_venue("coinbase_exchange").make(line="coinbase_exchange/0", products=(NAME,), token=tokens)
        options = Options(ws_url=f"ws://127.0.0.1:{ports[0]}", rest_url=f"http://127.0.0.1:{ports[1]}", tick_s=0.02,
                          backoff_base_s=0.01, redact=tokens.redact,
                          on_state=lambda _line, state: kept.states.append(state))  # fmt: skip
        line = Connection(feed, "coinbase_exchange/0", kept, options)
        task = asyncio.create_task(line.run())
        try:
            yield kept
        finally:
            line.stop()
            async with asyncio.timeout(LIMIT_S):
                await task


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> str:
    """Run a scenario and return all that it logged."""
    with structlog.testing.capture_logs() as logs:
        uvloop.run(scenario())
    return repr(logs)


def stored(kept: Kept) -> bytes:
    """Return all bytes that were kept."""
    return b"".join(raw.data for raw in kept.raw) + repr(kept.events).encode()


def assert_no_secret(exchange: Exchange, text: str) -> None:
    """Check that nothing of the key, nor what it signed, is in a text."""
    secrets = {KEY, SECRET, PASSPHRASE, json.dumps(PASSPHRASE)[1:-1], *(o["signature"] for o in exchange.orders)}
    assert [secret for secret in secrets if secret in text] == []


def test_signed_line_has_the_book_of_single_orders() -> None:
    """The server checks each signature; REST's book and the messages after it give the right levels."""
    exchange = Exchange()

    async def scenario() -> None:
        async with line_to(exchange, ExchangeKey(KEY, SECRET, PASSPHRASE, "full")) as kept:
            await until(lambda: any(event.sequence == 14 for event in kept.updates()))
            book = L2Book()
            for event in kept.updates():
                assert event.valid
                book.bids.apply(event.bid_prices, event.bid_sizes)
                book.asks.apply(event.ask_prices, event.ask_sizes)
            for side, levels in zip((book.bids, book.asks), Exchange.BOOK, strict=True):
                got = {Decimal(price): Decimal(size) for price, size in side.top()}
                assert got == {Decimal(price): Decimal(size) for price, size in levels.items()}
            assert f"/products/{NAME}/book?level=3" in exchange.requests
            sent = [json.loads(raw.data) for raw in kept.raw if raw.kind == "send"]
            assert [order["channels"][0] for order in sent] == ["status", "full", "ticker", "heartbeat"]
        assert_no_secret(exchange, stored(kept).decode())

    logged = run(scenario)
    assert "connected" in logged
    assert_no_secret(exchange, logged)


@pytest.mark.parametrize("wrong", ["secret", "passphrase"])
def test_rejected_key_stops_the_line_for_good(wrong: str) -> None:
    """One connection, no other: the line says which variables to look at and stays down."""
    exchange = Exchange()
    tokens = ExchangeKey(KEY, SECRET if wrong != "secret" else base64.b64encode(b"other").decode(),
                         PASSPHRASE if wrong != "passphrase" else "other", "full")  # fmt: skip

    async def scenario() -> None:
        async with line_to(exchange, tokens) as kept:
            await until(lambda: any(isinstance(e, FeedStatus) and e.kind == "refused" for e in kept.events))
            assert kept.states[-1].startswith("refused, auth_failed: check COINBASE_EXCHANGE_API_KEY")
            assert exchange.connections == 1
            assert not any(event.kind == "snapshot" for event in kept.updates())
        assert_no_secret(exchange, stored(kept).decode())

    assert_no_secret(exchange, run(scenario))

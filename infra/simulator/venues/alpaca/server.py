"""The simulated Alpaca stream: clients, subscriptions and faults behind a real socket.

Theory of operation. A client receives a welcome message, has ten seconds to log in (404), and may have one session per
key (406). Then it subscribes by channel and symbol, `*` for all symbols; corrections and cancels are sent with the
trades. The account's plan limits the symbols of trades and quotes (405): 30 on the free one. Frames are JSON, or
msgpack if the handshake's Content-Type requests it. Market events are sent in frames of a few messages, through the
faults, to each client by its subscriptions. A symbol that a fault refuses is missing from the list that answers the
subscription. The clock is the real one, or a simulated one driven by `play`.

Sources: "Real-time Stock Data", https://docs.alpaca.markets/docs/real-time-stock-pricing-data, and "WebSocket Stream",
https://docs.alpaca.markets/docs/streaming-market-data ("Connection limit", "Authentication", "Errors").
"""

from __future__ import annotations

import asyncio
import random
import re
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from infra.simulator.ends import reset
from infra.simulator.faults import Fault, Hit, Injection, Injector, Variant, check
from infra.simulator.venues.alpaca.market import Market, Message, time_text
from infra.simulator.venues.facts import ALPACA_FREE_KEY, ALPACA_KEY, ALPACA_SECRET
from marketdata.clock import SECOND_NS

# Default key pairs, valid only on this server: of an account with the paid plan, and of one with the free plan.
DEMO_KEYS = dict.fromkeys((ALPACA_KEY, ALPACA_FREE_KEY), ALPACA_SECRET)
FREE_KEYS = frozenset({ALPACA_FREE_KEY})
FREE_SYMBOLS_MAX = 30

AUTH_TIMEOUT_S = 10.0
REQUEST_BYTES_MAX = 1024 * 1024
CONNECTIONS_MAX = 256
WRITE_BUFFER_BYTES_MAX = 64 * 1024 * 1024
MESSAGES_MAX = 4

# Channels by the type of their messages; those with None cannot be subscribed separately.
CHANNELS = {"t": "trades", "q": "quotes", "b": "bars", "u": "updatedBars", "d": "dailyBars", "s": "statuses",
            "l": "lulds", "c": "corrections", "x": "cancelErrors"}  # fmt: skip
_WITH_TRADES = ("corrections", "cancelErrors")
_SYMBOL = re.compile(r"[A-Z][A-Z0-9.]{0,15}|\*", re.ASCII)
ERRORS = {
    400: "invalid syntax", 401: "not authenticated", 402: "auth failed", 403: "already authenticated",
    404: "auth timeout", 405: "symbol limit exceeded", 406: "connection limit exceeded", 407: "slow client",
    409: "insufficient subscription", 410: "invalid subscribe action for this feed", 500: "internal error",
}  # fmt: skip

_LOG = structlog.get_logger()
_JSON = msgspec.json.Encoder(decimal_format="number")
_MSGPACK = msgspec.msgpack.Encoder(decimal_format="number")


def encode(messages: list[Message], *, packed: bool) -> bytes:
    """Return a frame; `t` becomes RFC 3339 with nanoseconds, or msgpack's timestamp."""
    if packed:
        return _MSGPACK.encode([_timed(message, _packed_time) for message in messages])
    return _JSON.encode([_timed(message, time_text) for message in messages])


def _timed(message: Message, write: Callable[[int], Any]) -> Message:
    return message | {"t": write(message["t"])} if "t" in message else message


def _packed_time(ts: int) -> msgspec.msgpack.Ext:
    seconds, nanoseconds = divmod(ts, SECOND_NS)
    if not nanoseconds:
        return msgspec.msgpack.Ext(-1, struct.pack(">I", seconds))
    return msgspec.msgpack.Ext(-1, struct.pack(">Q", nanoseconds << 34 | seconds))


class Spoiler(Injector):
    """The faults, which corrupt the contents of Alpaca's messages."""

    def _spoil(self, frame: bytes, variant: Variant | None) -> bytes:
        """Return a corrupted frame: an invalid price, an unknown type, or half of the bytes."""
        codec: Any = msgspec.msgpack if frame[:1] >= b"\x80" else msgspec.json
        chosen = variant or ("truncated", "type", "number", "side")[self._spoilt % 4]
        self._spoilt += variant is None
        messages = codec.decode(frame) if chosen != "truncated" else []
        if not messages:
            return frame[: len(frame) // 2]
        message = messages[-1]
        name = next((name for name in ("p", "bp", "o", "cp") if name in message), "S")
        if chosen == "side":
            message["T"] = "?"
        else:
            message[name] = {"unexpected": True} if chosen == "type" else "NaN"
        spoilt: bytes = codec.encode(messages)
        return spoilt


class Client(WSListener):
    """One connection: its key and its subscriptions."""

    def __init__(self, exchange: AlpacaExchange, number: int, *, packed: bool) -> None:
        super().__init__()
        self._exchange = exchange
        self._transport: WSTransport | None = None
        self._parts: list[bytes] = []
        self._deadline: asyncio.TimerHandle | None = None
        self.id = number
        self.packed = packed
        self.key: str | None = None
        self.sent = 0
        self.channels: dict[str, list[str]] = {name: [] for name in CHANNELS.values()}

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Send the welcome message and start the log-in timeout."""
        self._transport = transport
        self._exchange.clients[self.id] = self
        self.write([{"T": "success", "msg": "connected"}])
        self._deadline = asyncio.get_running_loop().call_later(self._exchange.auth_timeout_s, self._too_late)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Answer one message of the client, which may have several frames."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type in {WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION}:
            self._parts.append(frame.get_payload_as_bytes())
            if frame.fin:
                payload = b"".join(self._parts)
                self._parts.clear()
                self._take(payload)
        elif frame.msg_type == WSMsgType.PING and not self._is_mute():
            transport.send_pong(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 - picows calls it with the transport
        """Forget the client."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport = None
        self._exchange.clients.pop(self.id, None)
        self._exchange.injector.forget(self.id)

    def _too_late(self) -> None:
        self._refuse(404)
        self.end("auth timeout")

    def _take(self, payload: bytes) -> None:
        codec: Any = msgspec.msgpack if self.packed else msgspec.json
        try:
            request = codec.decode(payload, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeError):
            self._refuse(400)
            return
        action = request.pop("action", None)
        if action == "auth":
            self._log_in(request)
        elif action not in {"subscribe", "unsubscribe"}:
            self._refuse(400)
        elif self.key is None:
            self._refuse(401)
        else:
            self._subscribe(request, add=action == "subscribe")

    def _log_in(self, request: Mapping[str, Any]) -> None:
        key, secret = request.get("key"), request.get("secret")
        if self.key is not None:
            self._refuse(403)
        elif not isinstance(key, str) or self._exchange.keys.get(key) != secret:
            self._refuse(402)
        elif any(other.key == key for other in self._exchange.clients.values()):
            self._refuse(406)
        else:
            self.key = key
            if self._deadline is not None:
                self._deadline.cancel()
            self.write([{"T": "success", "msg": "authenticated"}])

    def _subscribe(self, request: Mapping[str, Any], *, add: bool) -> None:
        code = self._exchange.refusal(self, request)
        if code is not None:
            self._refuse(code)
            return
        for channel, asked in request.items():
            symbols = [symbol for symbol in asked if not (add and self._is_refused(channel, symbol))]
            had = self.channels[channel]
            kept = [symbol for symbol in had if symbol not in symbols]
            self.channels[channel] = list(dict.fromkeys([*had, *symbols])) if add else kept
        for channel in _WITH_TRADES:
            self.channels[channel] = self.channels["trades"]
        self.write([{"T": "subscription", **self.channels}])

    def _is_refused(self, channel: str, symbol: str) -> bool:
        return self._exchange.injector.refuses(Hit(self.id, self.sent, channel, symbol, self._exchange.clock()))

    def wants(self, message: Message) -> bool:
        """Return whether the client subscribed to this message."""
        symbols = self.channels[CHANNELS[message["T"]]]
        return "*" in symbols or message["S"] in symbols

    def _refuse(self, code: int) -> None:
        self._exchange.refused[ERRORS[code]] += 1
        self.write([{"T": "error", "code": code, "msg": ERRORS[code]}])

    def deliver(self, messages: list[Message]) -> None:
        """Send a frame of market data through the faults."""
        frame = encode(messages, packed=self.packed)
        self.sent += 1
        hit = Hit(self.id, self.sent, CHANNELS[messages[0]["T"]], messages[0]["S"], self._exchange.clock())
        for data in self._exchange.injector.frames(hit, frame):
            self._send(data)

    def write(self, messages: list[Message]) -> None:
        """Send a control message, which no fault affects."""
        self._send(encode(messages, packed=self.packed))

    def _send(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_close_frame_sent or self._is_mute():
            return
        transport.send(WSMsgType.BINARY if self.packed else WSMsgType.TEXT, data)
        if transport.underlying_transport.get_write_buffer_size() > WRITE_BUFFER_BYTES_MAX:
            _LOG.warning("client reads too slowly, connection reset", connection=self.id)
            self.reset()

    def _is_mute(self) -> bool:
        return self._exchange.injector.is_mute(self.id, self._exchange.clock())

    def end(self, reason: str) -> None:
        """Close the connection from our side."""
        if self._transport is not None:
            self._transport.send_close(WSCloseCode.OK, reason.encode())
            self._transport.disconnect()

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        if self._transport is not None:
            reset(self._transport.underlying_transport)


class AlpacaExchange:
    """The whole venue. `rate` is events per second; with 0 only `play` causes events.

    Accounts of `free_keys` may have `symbols_max` symbols of trades and quotes; the others any number.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        *,
        keys: Mapping[str, str] | None = None,
        seed: int = 1,
        rate: float = 0.0,
        faults: Iterable[Fault] = (),
        free_keys: Collection[str] = FREE_KEYS,
        symbols_max: int = FREE_SYMBOLS_MAX,
        closed_channels: Iterable[str] = (),
        auth_timeout_s: float = AUTH_TIMEOUT_S,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.keys = dict(DEMO_KEYS if keys is None else keys)
        self.market = Market(tuple(symbols), seed)
        self.injector = Spoiler(seed)
        self.clients: dict[int, Client] = {}
        self.auth_timeout_s = auth_timeout_s
        self.clock = clock
        self.rate = rate
        self.port = 0
        self.broken = asyncio.Event()
        self.published: list[Message] = []
        self.refused: Counter[str] = Counter()
        self._keep = not rate
        self._free_keys = frozenset(free_keys)
        self._symbols_max = symbols_max
        self._closed_channels = frozenset(closed_channels)
        self._random = random.Random(seed)
        self._next = 1
        for fault in faults:
            self.inject(fault)

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[AlpacaExchange]:
        """Serve on a port (0 selects a free one, see `port`) until the context ends."""
        server = await ws_create_server(
            self._accept, host, port, max_frame_size=REQUEST_BYTES_MAX, enable_auto_pong=False
        )
        self.port = server.sockets[0].getsockname()[1]
        task = asyncio.create_task(self._live(), name="market")
        task.add_done_callback(self._ended)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.close()
            for client in list(self.clients.values()):
                client.end("going away")
            await server.wait_closed()

    def _accept(self, request: WSUpgradeRequest) -> Client | None:
        if len(self.clients) >= CONNECTIONS_MAX:
            return None
        self._next += 1
        return Client(self, self._next - 1, packed=request.headers.get("Content-Type") == "application/msgpack")

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken.set()
            _LOG.error("the exchange is broken", exc_info=error)

    async def _live(self) -> None:
        began, steps = time.monotonic(), 0
        while self.rate:
            due = int((time.monotonic() - began) * self.rate) - steps
            steps += due
            # After a pause of the machine the flow continues without catching up.
            self._publish([self.market.step(self.clock()) for _ in range(min(due, 1_000))])
            await asyncio.sleep(max(0.01, 1 / self.rate))

    def play(self, steps: int, *, since: int, every: int) -> int:
        """Cause a number of events, one every `every` nanoseconds from `since`; return the time of the next."""
        self._publish([self.market.step(since + number * every) for number in range(steps)])
        return since + steps * every

    def _publish(self, steps: list[list[Message]]) -> None:
        """Send messages in their order, one or a few in a frame."""
        messages = [message for step in steps for message in step]
        if self._keep:
            self.published += messages
        while messages:
            size = self._random.randint(1, MESSAGES_MAX)
            frame, messages = messages[:size], messages[size:]
            for client in list(self.clients.values()):
                wanted = [message for message in frame if client.wants(message)]
                if wanted:
                    client.deliver(wanted)

    def refusal(self, client: Client, request: Mapping[str, Any]) -> int | None:
        """Return the error code of an invalid subscription, or None."""
        if any(name not in client.channels or name in _WITH_TRADES for name in request):
            return 410
        if self._closed_channels & set(request):
            return 409
        lists = list(request.values())
        if not all(isinstance(symbols, list) and all(map(_is_symbol, symbols)) for symbols in lists):
            return 400
        asked = {symbol for name in ("trades", "quotes") for symbol in (*request.get(name, ()), *client.channels[name])}
        return 405 if client.key in self._free_keys and len(asked) > self._symbols_max else None

    def view(self) -> dict[str, Any]:
        """Return what was refused so far, by reason."""
        return {"symbols": len(self.market.stocks), "refused": dict(self.refused), "ended": {}}

    def inject(self, fault: Fault) -> Injection:
        """Activate a fault.

        Raises ValueError when its symbol or connection does not exist.
        """
        check(fault, self.market.stocks, self.clients)
        if fault.kind == "disconnect":
            for client in list(self.clients.values()):
                if fault.connection in {None, client.id}:
                    client.reset()
        elif fault.kind in {"halt", "resume"}:
            act = self.market.halt if fault.kind == "halt" else self.market.resume
            names = self.market.stocks if fault.symbol is None else (fault.symbol,)
            stocks = [self.market.stocks[name] for name in names]
            self._publish([act(stock, self.clock()) for stock in stocks if stock.halted == (fault.kind == "resume")])
        return self.injector.add(fault, self.clock())


def _is_symbol(value: object) -> bool:
    return isinstance(value, str) and _SYMBOL.fullmatch(value) is not None

"""A simulated FIX market-data venue: random markets over FIX 4.4 or 5.0SP2, with limits, refusals and faults.

The venue itself is pure: frames and the time in, frames out. It remembers every book by the number of the message that
led to it. `FixExchange` puts it behind a real socket.

1. A session takes one connection at a time; another one is closed at once. The first message is a Logon, within ten
   seconds, with the names, username and password that were agreed upon; otherwise a Logout with the reason ends it.
2. A MarketDataRequest is rejected with MarketDataRequestReject (Y) and MDReqRejReason (281): 0 an unknown symbol, 1 a
   duplicate MDReqID, 2 too many subscriptions, 3 no permission (a fault), 4 to 6 an unsupported
   SubscriptionRequestType, MarketDepth or MDUpdateType.

Sources: "FIX Session Layer", https://www.fixtrading.org/standards/fix-session-layer-online/, and FIX 4.4 volume 3,
"Market Data". The standard leaves the limits to the two parties.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog

from infra.simulator.faults import Fault, Hit, Injection, Injector, check
from infra.simulator.venues.fix.market import TICK, By, Levels, Market
from marketdata.fix.codec import Fields, Garbled, Message, decode, encode, utc
from marketdata.fix.outgoing import LOGON, LOGOUT
from marketdata.fix.session import Session
from marketdata.fix.split import FixSplitter
from marketdata.fix.steps import Identity, Received, Sent, Step

REQUESTS_MAX = 1_000
READ_BYTES = 64 * 1024
MOVE_NS = 10_000_000
TICK_S = 0.05

# What a request must have: the tag, its only value, and the MDReqRejReason of another.
_SUPPORTED = (
    (263, "1", "4", "SubscriptionRequestType"),
    (264, "0", "5", "MarketDepth"),
    (265, "1", "6", "MDUpdateType"),
)

_KIND = re.compile(rb"\x0135=([^\x01]*)\x01")
_NUMBER = re.compile(rb"\x0134=(\d+)\x01")
_SYMBOL = re.compile(rb"\x0155=([^\x01]*)\x01")
_LOG = structlog.get_logger()


class FixVenue:
    """The venue's side of one client. Without `resends` it answers every ResendRequest with GapFill, as many venues do.

    With a `fragment`, snapshots are sent in parts of that many entries, which state their number or which is the last.
    With `remembers`, `states` has every book after each message, by its number, `trades` the trades sent, and `got` the
    client's messages. `is_refused` takes a symbol, and returns whether a fault refuses its subscription.
    """

    def __init__(
        self,
        identity: Identity,
        symbols: Iterable[str],
        *,
        seed: int = 1,
        by: By = "price",
        resends: bool = True,
        fragment: int = 0,
        requests_max: int = REQUESTS_MAX,
        remembers: bool = True,
    ) -> None:
        self.session = Session(identity, acceptor=True)
        self._chance = random.Random(seed)
        self.markets = {symbol: Market(symbol, self._chance) for symbol in symbols}
        self.by = by
        self.fragment = fragment
        self.resends = resends
        self.requests_max = requests_max
        self.is_refused: Callable[[str], bool] = lambda _symbol: False
        self.refused: Counter[str] = Counter()
        self._remembers = remembers
        self.requests: dict[str, str] = {}
        self.states: dict[int, dict[str, Levels]] = {}
        self.trades: list[str] = []
        self.got: list[Message] = []

    def opened(self, ts: int) -> list[bytes]:
        """Accept a new connection, without subscriptions."""
        self.requests.clear()
        return self._frames(self.session.opened(ts), ts)

    def received(self, frame: bytes, ts: int) -> list[bytes]:
        """Answer one frame of the client."""
        refusal = self._logon_refusal(frame, ts) if self.session.state == "waiting" else None
        if refusal is not None:
            self.refused["logon"] += 1
            self.session.closed()
            return [refusal]
        return self._frames(self.session.received(frame, ts), ts)

    def ticked(self, ts: int) -> list[bytes]:
        """Advance the time."""
        return self._frames(self.session.ticked(ts), ts)

    def move(self, ts: int, moves: int = 1) -> list[bytes]:
        """Change the subscribed markets, and send the changes in one message."""
        symbols = sorted(set(self.requests.values()))
        if not symbols or self.session.state != "up":
            return []
        entries = [self.markets[self._chance.choice(symbols)].move(self.by) for _ in range(moves)]
        fields: Fields = [(268, str(moves)), *(field for entry in entries for field in entry)]
        if self._remembers:
            self.trades += [dict(entry)[278] for entry in entries if (269, "2") in entry]
        return self.publish("X", fields, ts)

    def publish(self, kind: str, fields: Fields, ts: int) -> list[bytes]:
        """Send a message."""
        number = self.session.next_out
        frames = self._frames(self.session.send(kind, fields, ts), ts)
        if not self.resends:
            self.session.forget_sent()
        if not self._remembers:
            return frames
        if number <= next(reversed(self.states), 0):  # the sequence was reset
            self.states.clear()
        self.states[number] = {symbol: market.levels() for symbol, market in self.markets.items()}
        return frames

    def _frames(self, steps: list[Step], ts: int) -> list[bytes]:
        frames: list[bytes] = []
        for step in steps:
            if isinstance(step, Sent):
                frames.append(step.frame)
            elif isinstance(step, Received):
                if self._remembers:
                    self.got.append(step.message)
                frames += self._answer(step.message, ts)
        return frames

    def _answer(self, message: Message, ts: int) -> list[bytes]:
        symbol, number = message.get(55), message.get(262)
        if message.kind == "x" and symbol in self.markets:
            return self.publish("y", [(320, message.get(320)), (322, "1"), (560, "0"), (146, "1"), (55, symbol),
                                   (15, "USD"), (120, "USD"), (541, "20301220"), (231, "50"), (969, f"{TICK}"),
                                   (562, "0.01")], ts)  # fmt: skip
        if message.kind == "e" and symbol in self.markets:
            return self.publish("f", [(324, message.get(324)), (55, symbol), (326, "17"), (60, utc(ts))], ts)
        if message.kind != "V":
            return []
        if message.get(263) == "2":
            self.requests.pop(number, None)
            return []
        reason = self._refusal(message)
        if reason is not None:
            code, text = reason
            self.refused[f"{code} {text}"] += 1
            return self.publish("Y", [(262, number), (281, code), (58, text)], ts)
        self.requests[number] = symbol
        return self._snapshot(number, symbol, ts)

    def _logon_refusal(self, frame: bytes, ts: int) -> bytes | None:
        """Return the Logout that answers a Logon with a wrong name or password, or None."""
        identity = self.session.identity
        try:
            message = decode(frame)
        except Garbled:
            return None
        if identity is None or not identity.username or message.kind != LOGON:
            return None
        if (message.get(553), message.get(554)) == (identity.username, identity.password):
            return None
        fields = [(35, LOGOUT), (49, identity.sender), (56, identity.target), (34, "1"), (52, utc(ts)),
                  (1409, "5"), (58, "invalid username or password")]  # fmt: skip
        return encode(identity.begin, fields)

    def _refusal(self, message: Message) -> tuple[str, str] | None:
        """Return the MDReqRejReason (281) of a request, with a text, or None."""
        symbol = message.get(55)
        if symbol not in self.markets:
            return "0", f"no such symbol: {symbol}"
        if message.get(262) in self.requests:
            return "1", "duplicate MDReqID"
        if len(self.requests) >= self.requests_max:
            return "2", f"at most {self.requests_max} subscriptions a session"
        if self.is_refused(symbol):
            return "3", f"no permission for {symbol}"
        unsupported = [
            (code, f"{name} is not {only}") for tag, only, code, name in _SUPPORTED if message.get(tag) != only
        ]
        return unsupported[0] if unsupported else None

    def _snapshot(self, request: str, symbol: str, ts: int) -> list[bytes]:
        """Send a whole book, in as many messages as necessary."""
        entries = self.markets[symbol].snapshot(self.by)
        size = self.fragment or len(entries)
        parts = [entries[at : at + size] for at in range(0, len(entries), size)]
        counted = self._chance.random() < 0.5
        frames = []
        for number, part in enumerate(parts, start=1):
            fields: Fields = [(262, request), (55, symbol)]
            if self.fragment:
                fields.append((911, str(len(parts))) if counted else (893, "NY"[number == len(parts)]))
            fields += [(268, str(len(part))), *(field for entry in part for field in entry)]
            frames += self.publish("W", fields, ts)
        return frames


def recorded(venue: FixVenue, moves: int, ts: int) -> Iterator[tuple[int, bytes]]:
    """Yield (time, frame) of everything that a client with subscriptions to all markets receives."""
    theirs = venue.session.identity
    if theirs is None:
        return
    client = Session(Identity(sender=theirs.target, target=theirs.sender, begin=theirs.begin))
    sent = venue.opened(ts)
    said = client.opened(ts)
    for number in range(moves + 1):
        while sent or said:
            for step in said:
                sent += venue.received(step.frame, ts) if isinstance(step, Sent) else []
            said = []
            for frame in sent:
                yield ts, frame
                said += client.received(frame, ts)
            sent = []
        if not number:
            for symbol in venue.markets:
                said += client.send(
                    "V", [(262, f"r-{symbol}"), (263, "1"), (264, "0"), (265, "1"), (146, "1"), (55, symbol)], ts
                )
        ts += MOVE_NS
        sent = venue.move(ts)


class FixExchange:
    """The venue behind a socket. Each `every_s` the markets make `moves` moves; with 0 only `move` causes them.

    A fault's channel is a MsgType, such as X for the changes of books or V for a request; its symbol applies to
    messages of that symbol alone.
    """

    def __init__(
        self,
        venue: FixVenue,
        *,
        every_s: float = 0.0,
        moves: int = 1,
        faults: Iterable[Fault] = (),
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.venue = venue
        self.clock = clock
        self.injector = Injector()
        self.broken = asyncio.Event()
        self.port = 0
        self.connections = 0
        self._every_s = every_s
        self._moves = moves
        self._writer: asyncio.StreamWriter | None = None
        venue.is_refused = self._is_refused
        for fault in faults:
            self.inject(fault)

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[FixExchange]:
        """Serve on a port (0 takes a free one, see `port`), one client at a time, until the context ends."""
        server = await asyncio.start_server(self._attend, host, port)
        self.port = server.sockets[0].getsockname()[1]
        task = asyncio.create_task(self._live(), name="market")
        task.add_done_callback(self._done)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.close()
            self._hang_up()

    def move(self, moves: int = 1) -> None:
        """Change the markets, and send it."""
        self._send(self.venue.move(self.clock(), moves))

    def inject(self, fault: Fault) -> Injection:
        """Activate a fault.

        Raises ValueError when its symbol or connection does not exist, and for halts, which these markets lack.
        """
        check(fault, self.venue.markets, () if self._writer is None else (self.connections,))
        if fault.kind in {"halt", "resume"}:
            raise ValueError("these markets have no halts")
        injection = self.injector.add(fault, self.clock())
        if fault.kind == "disconnect":
            injection.hit(Hit(self.connections, self.venue.session.next_out - 1, "", "", self.clock()))
            self._hang_up()
        return injection

    def view(self) -> dict[str, Any]:
        """Return what was refused so far, by reason."""
        return {"symbols": len(self.venue.markets), "refused": dict(self.venue.refused), "ended": {}}

    def _is_refused(self, symbol: str) -> bool:
        hit = Hit(self.connections, self.venue.session.next_out, "V", symbol, self.clock())
        return self.injector.refuses(hit)

    def _send(self, frames: Iterable[bytes]) -> None:
        """Send the venue's frames, or what the faults make of them."""
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        now = self.clock()
        for frame in frames:
            kind, number, symbols = _KIND.search(frame), _NUMBER.search(frame), set(_SYMBOL.findall(frame))
            symbol = symbols.pop().decode() if len(symbols) == 1 else ""
            hit = Hit(self.connections, int(number[1]) if number else 0, kind[1].decode() if kind else "", symbol, now)
            writer.writelines(self.injector.frames(hit, frame))

    def _hang_up(self) -> None:
        """Break the connection without a close message."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def _live(self) -> None:
        due = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            self._send(self.venue.ticked(self.clock()))
            if self._every_s and time.monotonic() >= due:
                due = time.monotonic() + self._every_s
                self.move(self._moves)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken.set()
            _LOG.error("the venue is broken", exc_info=error)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it disconnects."""
        if self._writer is not None:
            self.venue.refused["connection"] += 1
            writer.close()
            return
        self.connections += 1
        self._writer, splitter = writer, FixSplitter()
        self._send(self.venue.opened(self.clock()))
        with suppress(OSError):
            while self.venue.session.state != "closed" and (data := await reader.read(READ_BYTES)):
                for frame in splitter.split(data):
                    self._send(self.venue.received(frame, self.clock()))
        self.venue.session.closed()
        writer.close()
        self._writer = None

"""A simulated FIX market-data venue: random markets over FIX 4.4 or 5.0SP2, with injectable faults on the line.

The venue itself is pure: frames and the time in, frames out. It remembers every book by the number of the message that
led to it. `serve` puts it behind a real socket.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from itertools import count
from typing import Literal

from marketdata.fix.codec import Fields, Message, utc
from marketdata.fix.session import Session
from marketdata.fix.split import FixSplitter
from marketdata.fix.steps import Identity, Received, Sent, Step

SIDES = ("0", "1")
TICK = Decimal("0.50")
LEVELS_MAX = 20
READ_BYTES = 64 * 1024
MOVE_NS = 10_000_000

# What a fault sends in place of a frame: the frame, nothing, the frame twice, or other bytes.
Fault = Callable[[bytes], Iterable[bytes]]
# How entries are identified: by price, by id, or by the number of their level.
By = Literal["price", "id", "number"]
Levels = tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]


class Market:
    """One symbol: entries by id, several of which may share a price unless levels are sent."""

    def __init__(self, symbol: str, chance: random.Random) -> None:
        self.symbol = symbol
        self._chance = chance
        self._ids = count(1)
        self.entries: tuple[dict[str, tuple[Decimal, Decimal]], dict[str, tuple[Decimal, Decimal]]] = ({}, {})
        for side in (0, 1):
            for depth in range(5):
                self.entries[side][self._id()] = (self._price(side, depth), self._size())

    def levels(self) -> Levels:
        """Return the sizes by price, of both sides."""
        sides: Levels = ({}, {})
        for levels, entries in zip(sides, self.entries, strict=True):
            for price, size in entries.values():
                levels[price] = levels.get(price, Decimal(0)) + size
        return sides

    def move(self, by: By) -> Fields:
        """Change one entry, or trade; return the message entry of the change."""
        if by == "number":
            return self.move_level()
        side = self._chance.randrange(2)
        entries = self.entries[side]
        action = self._chance.choice("0001112") if len(entries) > 2 else "0"
        if len(entries) >= LEVELS_MAX:
            action = "2"
        if self._chance.random() < 0.3:
            return self.trade()
        if action == "0":
            entry = self._id()
            taken = {price for price, _ in entries.values()}
            free = [self._price(side, depth) for depth in range(LEVELS_MAX + 1)]
            price = self._chance.choice([price for price in free if by == "id" or price not in taken])
        else:
            entry = self._chance.choice(sorted(entries))
            price = entries[entry][0]
        entries[entry] = (price, self._size())
        fields: Fields = [(279, action), (269, SIDES[side]), (278, entry), (55, self.symbol), (270, f"{price}")]
        if action == "2":
            del entries[entry]
        else:
            fields.append((271, f"{entries[entry][1]}"))
        return [field for field in fields if by == "id" or field[0] != 278]

    def move_level(self) -> Fields:
        """Change levels by their number from the best, or trade; return the message entry of the change."""
        if self._chance.random() < 0.3:
            return self.trade()
        side = self._chance.randrange(2)
        entries = self.entries[side]
        order = sorted(entries, key=lambda entry: entries[entry][0], reverse=side == 0)
        action = "4" if len(order) >= LEVELS_MAX else self._chance.choice("00112345") if len(order) > 4 else "0"
        number = self._chance.randrange(1, 3 if action == "3" else len(order) + 1)
        if action == "4":
            number = len(order) - self._chance.randrange(2)
        first, last = {"0": (0, 0), "3": (0, number), "4": (number - 1, len(order))}.get(action, (number - 1, number))
        gone = [entries.pop(entry)[0] for entry in order[first:last]]
        fields: Fields = [(279, action), (269, SIDES[side]), (55, self.symbol)]
        if action in "015":
            price = gone[0] if action == "1" else self._new_price(side, action, gone, number)
            size = self._size()
            entries[self._id()] = (price, size)
            fields += [] if action == "1" else [(270, f"{price}")]
            fields.append((271, f"{size}"))
            number = 1 + sum((at > price) if side == 0 else (at < price) for at, _ in entries.values())
        return [*fields, (1023, str(number))]

    def _new_price(self, side: int, action: str, gone: list[Decimal], number: int) -> Decimal:
        """Return an unused price; for a replacement, one that keeps the level's number."""
        taken = sorted((price for price, _ in self.entries[side].values()), reverse=side == 0)
        free = {self._price(side, depth) for depth in range(LEVELS_MAX + 1)} - set(taken)
        if action == "5":
            free = {at for at in free if sorted((*taken, at), reverse=side == 0)[number - 1] == at}
        return self._chance.choice(sorted(free | set(gone)))

    def trade(self) -> Fields:
        """Return the entry of a trade."""
        return [(279, "0"), (269, "2"), (278, self._id()), (55, self.symbol), (270, f"{self._price(1, 0)}"),
                (271, f"{self._size()}"), (2446, self._chance.choice("12"))]  # fmt: skip

    def snapshot(self, by: By) -> list[Fields]:
        """Return the entries of the whole book."""
        return [
            [(269, side), *([(278, entry)] if by == "id" else []), (270, f"{price}"), (271, f"{size}")]
            for side, entries in zip(SIDES, self.entries, strict=True)
            for entry, (price, size) in entries.items()
        ]

    def _id(self) -> str:
        return f"{self.symbol}.{next(self._ids)}"

    def _price(self, side: int, depth: int) -> Decimal:
        return Decimal("1000.00") + (depth + 1) * (TICK if side else -TICK)

    def _size(self) -> Decimal:
        return Decimal(self._chance.randrange(1, 9_999)).scaleb(-2)


class FixVenue:
    """The venue's side of one client. Without `resends` it answers every ResendRequest with GapFill, as many venues do.

    With a `fragment`, snapshots are sent in parts of that many entries, which state their number or which is the last.
    `states` has every book after each message, by its number; `trades` has the trades sent.
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
    ) -> None:
        self.session = Session(identity, acceptor=True)
        self._chance = random.Random(seed)
        self.markets = {symbol: Market(symbol, self._chance) for symbol in symbols}
        self.by = by
        self.fragment = fragment
        self.resends = resends
        self.password = identity.password
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
        self.trades += [dict(entry)[278] for entry in entries if (269, "2") in entry]
        return self.tell("X", fields, ts)

    def tell(self, kind: str, fields: Fields, ts: int) -> list[bytes]:
        """Send a message."""
        number = self.session.next_out
        frames = self._frames(self.session.send(kind, fields, ts), ts)
        if not self.resends:
            self.session.forget_sent()
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
                self.got.append(step.message)
                frames += self._answer(step.message, ts)
        return frames

    def _answer(self, message: Message, ts: int) -> list[bytes]:
        symbol, number = message.get(55), message.get(262)
        if message.kind == "x" and symbol in self.markets:
            return self.tell("y", [(320, message.get(320)), (322, "1"), (560, "0"), (146, "1"), (55, symbol),
                                   (15, "USD"), (120, "USD"), (541, "20301220"), (231, "50"), (969, f"{TICK}"),
                                   (562, "0.01")], ts)  # fmt: skip
        if message.kind == "e" and symbol in self.markets:
            return self.tell("f", [(324, message.get(324)), (55, symbol), (326, "17"), (60, utc(ts))], ts)
        if message.kind != "V":
            return []
        if message.get(263) == "2":
            self.requests.pop(number, None)
            return []
        if symbol not in self.markets:
            return self.tell("Y", [(262, number), (281, "0"), (58, f"no such symbol: {symbol}")], ts)
        self.requests[number] = symbol
        return self._snapshot(number, symbol, ts)

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
            frames += self.tell("W", fields, ts)
        return frames


def recorded(venue: FixVenue, moves: int, ts: int) -> Iterator[tuple[int, bytes]]:
    """Yield (time, frame) of everything that a client with subscriptions to all markets receives."""
    theirs = venue.session.identity
    if theirs is None:
        return
    client = Session(Identity(sender=theirs.target, target=theirs.sender, begin=theirs.begin))
    told = venue.opened(ts)
    said = client.opened(ts)
    for number in range(moves + 1):
        while told or said:
            for step in said:
                told += venue.received(step.frame, ts) if isinstance(step, Sent) else []
            said = []
            for frame in told:
                yield ts, frame
                said += client.received(frame, ts)
            told = []
        if not number:
            for symbol in venue.markets:
                said += client.send("V", [(262, f"r-{symbol}"), (263, "1"), (146, "1"), (55, symbol)], ts)
        ts += MOVE_NS
        told = venue.move(ts)


class FaultyConnection:
    """The venue behind a socket. `fault` is applied to each frame; `hang_up` breaks the current connection."""

    def __init__(self, venue: FixVenue) -> None:
        self.venue = venue
        self.port = 0
        self.fault: Fault = lambda frame: (frame,)
        self.connections = 0
        self._writer: asyncio.StreamWriter | None = None

    def send(self, frames: Iterable[bytes]) -> None:
        """Send the venue's frames through the fault."""
        if self._writer is not None and not self._writer.is_closing():
            for frame in frames:
                self._writer.writelines(self.fault(frame))

    def hang_up(self) -> None:
        """Break the connection without a close message."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until it disconnects."""
        self.connections += 1
        self._writer, splitter = writer, FixSplitter()
        self.send(self.venue.opened(time.time_ns()))
        with suppress(OSError):
            while self.venue.session.state != "closed" and (data := await reader.read(READ_BYTES)):
                for frame in splitter.split(data):
                    self.send(self.venue.received(frame, time.time_ns()))
        self.venue.session.closed()
        writer.close()


@asynccontextmanager
async def serve(venue: FixVenue, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[FaultyConnection]:
    """Serve on a port (0 takes a free one, see `port`), one client at a time, until the context ends."""
    line = FaultyConnection(venue)
    server = await asyncio.start_server(line.take, host, port)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        line.hang_up()

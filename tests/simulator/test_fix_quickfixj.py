"""Our FIX line against QuickFIX/J, an engine that is not ours: what it sends is told, whatever the line does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop

from infra.local.components import install_quickfixj
from infra.local.folders import Folders
from infra.simulator.venues.fix.quickfixj import VERSIONS, QuickFix, run
from marketdata.book import L2Book
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, FeedStatus, RawFrame, Trades
from marketdata.fix.codec import decode
from marketdata.fix.split import FixSplitter
from producers.live.connection import Connection, Options
from producers.venues import make_feed
from producers.venues.fix.login import FixLogin

LIMIT_S = 120.0
EACH = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="module")
def engine() -> Iterator[QuickFix]:
    """QuickFIX/J with a session of each version."""
    install_quickfixj(Folders(), print)
    with run(Folders()) as engine:
        uvloop.run(until(lambda: len(engine.ports) == len(VERSIONS)))
        yield engine


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.01)


class Kept:
    """A sink that follows books and trades as a consumer does."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.raw: list[RawFrame] = []
        self.book = L2Book()
        self.valid = False
        self.trades: list[tuple[str, str, str, str]] = []

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Keep what one frame brought."""
        self.raw += [raw] if raw is not None else []
        for event in events:
            self.events.append(event)
            if isinstance(event, Trades):
                self.trades += [(trade.trade_id, trade.price, trade.size, trade.side) for trade in event.trades]
            elif isinstance(event, BookUpdate):
                self._follow(event)

    def _follow(self, event: BookUpdate) -> None:
        self.valid = event.kind != "clear"
        if event.kind in {"snapshot", "clear"}:
            self.book.clear()
        self.book.bids.apply(event.bid_prices, event.bid_sizes)
        self.book.asks.apply(event.ask_prices, event.ask_sizes)

    def count(self, kind: str) -> int:
        """Return how many FeedStatus of a kind came."""
        return sum(isinstance(event, FeedStatus) and event.kind == kind for event in self.events)


class Middle:
    """Between the two: drops the next messages of a kind, in either direction."""

    def __init__(self) -> None:
        self.port = 0
        self.to_drop: list[tuple[str, str]] = []  # sender and kind of each message that is to be lost
        self.is_cut = False

    async def take(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        if self.is_cut:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter = FixSplitter()
        with suppress(OSError):
            while data := await reader.read(65_536):
                for frame in splitter.split(data):
                    message = decode(frame)
                    what = (message.get(49), message.kind)
                    if what in self.to_drop:
                        self.to_drop.remove(what)
                    else:
                        writer.write(frame)
        writer.close()


class Proof:
    """One line to QuickFIX/J, what that was told to send, and the book that follows from it."""

    def __init__(self, engine: QuickFix, version: str, middle: Middle, sink: Kept) -> None:
        self.engine = engine
        self.version = version
        self.middle = middle
        self.sink = sink
        self.began = len(engine.said[version])
        self.book = L2Book()
        self.trades: list[tuple[str, str, str, str]] = []
        self.snapshots = 0

    def said(self, what: str) -> list[str]:
        """Return what QuickFIX/J said of messages since this line began."""
        return [line for line in self.engine.said[self.version][self.began :] if line.startswith(what)]

    def kinds(self, direction: str, kind: str) -> int:
        """Return how many messages of a kind it sent or got."""
        return sum(f"|35={kind}|" in line for line in self.said(direction))

    async def snapshot(self, marks: tuple[str, ...] = ("",)) -> None:
        """Answer the next MarketDataRequest with the whole book, in as many parts as there are marks."""
        self.snapshots += 1
        await until(lambda: sum("|35=V|" in line and "|263=1|" in line for line in self.said("GOT ")) == self.snapshots)
        request = next(field for field in self.said("GOT ")[::-1] if "|35=V|" in field).split("|262=")[1].split("|")[0]
        levels = [(269, side, price, size) for side, levels in (("0", self.book.bids), ("1", self.book.asks))
                  for price, size in levels.top(None)]  # fmt: skip
        for place, mark in enumerate(marks):
            part = levels[place :: len(marks)]
            entries = "".join(f"|269={side}|270={price}|271={size}" for _, side, price, size in part)
            self.engine.tell(self.version, f"send W 262={request}|55=BTC-USD{mark}|group=268{entries}")

    def change(self, *levels: tuple[str, str, str], trade: str = "") -> None:
        """Send one X: levels as (side, price, size), size 0 deletes; a trade by its id."""
        entries = ""
        for side, price, size in levels:
            (self.book.bids if side == "0" else self.book.asks).apply([price], [size])
            action = "279=2" if size == "0" else "279=1"
            entries += f"|{action}|269={side}|55=BTC-USD|270={price}" + ("" if size == "0" else f"|271={size}")
        if trade:
            self.trades.append((trade, "100.50", "0.10", "unknown"))
            entries += f"|279=0|269=2|278={trade}|55=BTC-USD|270=100.50|271=0.10"
        self.engine.tell(self.version, f"send X group=268{entries}")

    async def is_same(self) -> None:
        """Wait until consumers have the very book and the very trades."""

        def same() -> bool:
            ours, book = self.sink.book, self.book
            return (
                self.sink.valid
                and self.sink.trades == self.trades
                and (ours.bids.top(None), ours.asks.top(None)) == (book.bids.top(None), book.asks.top(None))
            )

        await until(same)


@asynccontextmanager
async def proof(engine: QuickFix, version: str, **login: Any) -> AsyncIterator[tuple[Proof, Connection]]:
    """Run one line to QuickFIX/J through the middle, and stop it in order."""
    middle, sink = Middle(), Kept()
    server = await asyncio.start_server(
        lambda reader, writer: middle.take(engine.ports[version], reader, writer), "127.0.0.1", 0
    )
    middle.port = server.sockets[0].getsockname()[1]
    told = {"senders": ("US",), "target": "THEM", "begin": version, "heartbeat_s": 30, "reset": True,
            "username": "me", "password": "secret"} | login  # fmt: skip
    token = FixLogin(**told)
    feed = make_feed("fix", products=("BTC-USD",), token=token)
    options = Options(
        ws_url=f"tcp://127.0.0.1:{middle.port}", rest_url="http://127.0.0.1:9", splitter=FixSplitter, tick_s=0.05,
        backoff_base_s=0.05, redact=token.redact,
    )  # fmt: skip
    line = Connection(feed, "fix/0", sink, options)
    told_of = Proof(engine, version, middle, sink)
    task = asyncio.create_task(line.run())
    try:
        yield told_of, line
    finally:
        line.stop()
        async with asyncio.timeout(LIMIT_S):
            await task
            server.close()
            # A session that QuickFIX/J has not ended yet would refuse the next line's Logon.
            await until(lambda: len(told_of.said("LOGOUT")) >= len(told_of.said("LOGON")))


@EACH
def test_books_and_trades_are_those_that_quickfixj_sent(engine: QuickFix, version: str) -> None:
    """Snapshot and changes; lost messages are repaired by its own resend; after it hangs up all begins again."""

    async def scenario() -> None:
        async with proof(engine, version) as (it, _):
            it.book.bids.apply(["100.50", "100"], ["1.0", "2"])
            it.book.asks.apply(["101"], ["3.25"])
            await it.snapshot()
            for n in range(20):
                it.change(("0", f"{90 + n}.50", f"{n + 1}.10"), ("1", f"{102 + n}", "7"), trade=f"t{n}")
            it.change(("0", "100", "0"))
            await it.is_same()

            it.middle.to_drop = [("THEM", "X")] * 3
            for n in range(5):
                it.change(("0", f"80.{n}", "1"), ("0", f"{90 + n}.50", "0"), trade=f"lost{n}")
            await it.is_same()
            assert it.kinds("GOT", "2") == 1, "asked once for what was lost"
            # It prints what it has sent on a thread of its own.
            await until(lambda: sum("|43=Y|" in line and "|35=X|" in line for line in it.said("SENT")) >= 3)
            assert it.snapshots == 1, "no new snapshot was needed"
            assert it.sink.count("gap") == it.sink.count("resynced") == 1

            engine.tell(version, "hangup")
            await until(lambda: not it.sink.valid)
            await it.snapshot()
            it.change(("1", "101", "9"), trade="after")
            await it.is_same()
            assert it.kinds("GOT", "A") == 2
            letters = [event.detail for event in it.sink.events if isinstance(event, DeadLetter)]
            assert letters == []
            assert not any(b"secret" in raw.data for raw in it.sink.raw)
        assert it.kinds("GOT", "5") == 1, "leaving is said"
        assert it.kinds("SENT", "3") == 0, "QuickFIX/J rejected nothing of ours"

    uvloop.run(scenario())


@EACH
@pytest.mark.parametrize("marks", [("|893=N", "|893=Y"), ("|911=2",) * 2], ids=["last", "counted"])
def test_snapshots_in_parts_and_levels_by_number(engine: QuickFix, version: str, marks: tuple[str, ...]) -> None:
    """As QuickFIX/J writes them, which sorts what is not in the group by tag."""

    async def scenario() -> None:
        async with proof(engine, version) as (it, _):
            it.book.bids.apply(["100", "99", "98", "97"], ["1", "2", "3", "4"])
            it.book.asks.apply(["101", "102", "103"], ["5", "6", "7"])
            await it.snapshot(marks)
            await it.is_same()
            assert it.sink.count("gap") == 0
            for entry in ("279=5|269=0|1023=2|270=98.5|271=8", "279=3|269=1|1023=2", "279=4|269=0|1023=4"):
                engine.tell(version, f"send X 55=BTC-USD|group=268|{entry}")
            it.book.bids.apply(["99", "98.5", "97"], ["0", "8", "0"])
            it.book.asks.apply(["101", "102"], ["0", "0"])
            await it.is_same()
            assert it.sink.count("gap") == 0

    uvloop.run(scenario())


@EACH
def test_numbers_that_go_on_bring_the_trades_of_a_lost_connection(engine: QuickFix, version: str) -> None:
    """What QuickFIX/J sent to nobody comes again; its own messages that were lost meanwhile are taken for no trades.

    The first Logon learns from its refusal where the numbers are, as after a restart.
    """

    async def scenario() -> None:
        async with proof(engine, version) as (it, _):
            await until(lambda: it.kinds("GOT", "V") == 1)
        async with proof(engine, version, reset=False) as (it, _):
            it.book.bids.apply(["100"], ["1"])
            await it.snapshot()
            it.change(("0", "99", "2"), trade="before")
            await it.is_same()
            assert it.sink.count("refused") == 0
            it.middle.to_drop = [("THEM", "1")]
            engine.tell(version, "test")
            await until(lambda: not it.middle.to_drop)
            it.middle.is_cut = True
            engine.tell(version, "hangup")
            await until(lambda: not it.sink.valid)
            for number in range(3):
                it.change(("0", f"9{number}.5", "1"), trade=f"away{number}")
            await until(lambda: len([line for line in it.said("SENT") if "=away" in line]) == 3)
            it.middle.is_cut = False
            await it.snapshot()
            await it.is_same()
            assert it.kinds("SENT", "4") >= 1, "its TestRequest was skipped"
            back = max(at for at, event in enumerate(it.sink.events)
                       if isinstance(event, FeedStatus) and event.kind == "resynced")  # fmt: skip
            invalid = [at for at, event in enumerate(it.sink.events) if isinstance(event, Trades) and event.reason]
            assert all(at < back for at in invalid), "nothing is missing once all came again"
            gaps = [event for event in it.sink.events if isinstance(event, FeedStatus) and event.kind == "gap"]
            assert [event.channel for event in gaps] == [None], "one, and it says nothing of trades"
            assert it.sink.count("resynced") == 1
            assert not [line for line in it.said("GOT") if "|35=A|" in line and "|141=Y|" in line]

    uvloop.run(scenario())


@EACH
def test_a_gap_that_nothing_fills_brings_a_new_snapshot(engine: QuickFix, version: str) -> None:
    """Only where QuickFIX/J has lost what it sent: then the trades that may be missing are told of."""

    async def scenario() -> None:
        async with proof(engine, version) as (it, _):
            it.book.bids.apply(["100"], ["1"])
            await it.snapshot()
            it.change(("0", "99", "2"), trade="a")
            await it.is_same()
            engine.tell(version, "skip 3")
            engine.tell(version, "test")
            await until(lambda: it.sink.count("resynced") == 1)
            assert (it.kinds("SENT", "4"), it.kinds("GOT", "V")) == (1, 1)
            await it.is_same()
            it.middle.to_drop = [("THEM", "X")]
            it.change(("0", "98", "5"), trade="lost")
            await until(lambda: not it.middle.to_drop)
            it.trades.pop()
            engine.tell(version, "forget")
            engine.tell(version, "test")
            await it.snapshot()
            await it.is_same()
            assert [e.channel for e in it.sink.events if isinstance(e, FeedStatus) and e.kind == "gap"] == [
                None, None, "trades"]  # fmt: skip

    uvloop.run(scenario())


@EACH
def test_what_quickfixj_misses_of_ours_is_repaired_too(engine: QuickFix, version: str) -> None:
    """Our answer to a TestRequest is lost; its ResendRequest is answered, and both sides agree again."""

    async def scenario() -> None:
        async with proof(engine, version) as (it, _):
            it.book.bids.apply(["100"], ["1"])
            await it.snapshot()
            await it.is_same()
            it.middle.to_drop = [("US", "0")]
            engine.tell(version, "test")
            await until(lambda: not it.middle.to_drop)
            engine.tell(version, "test")
            await until(lambda: it.kinds("SENT", "2") == 1)
            await until(lambda: it.kinds("GOT", "4") == 1)
            engine.tell(version, "test")
            await until(lambda: it.kinds("GOT", "0") >= 1)
            it.change(("0", "99", "2"), trade="a")
            await it.is_same()
            assert it.sink.count("disconnected") == 0

    uvloop.run(scenario())


@EACH
def test_heartbeats_go_both_ways(engine: QuickFix, version: str) -> None:
    """With an interval of a second nobody is taken for dead."""

    async def scenario() -> None:
        async with proof(engine, version, heartbeat_s=1) as (it, _):
            it.book.bids.apply(["100"], ["1"])
            await it.snapshot()
            await until(lambda: it.kinds("SENT", "0") >= 2 and it.kinds("GOT", "0") >= 2)
            await it.is_same()
            assert any(isinstance(e, BookUpdate) and e.kind == "heartbeat" for e in it.sink.events)
            assert it.sink.count("disconnected") == 0

    uvloop.run(scenario())


@EACH
def test_a_wrong_password_is_final(engine: QuickFix, version: str) -> None:
    """QuickFIX/J refuses the Logon once, and is not asked again."""

    async def scenario() -> None:
        async with proof(engine, version, password="wrong") as (it, _):
            await until(lambda: it.sink.count("refused") == 1)
            assert it.kinds("GOT", "A") == 1

    uvloop.run(scenario())

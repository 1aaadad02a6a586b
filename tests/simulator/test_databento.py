"""The simulated gateway of Databento, and the feed through it over real TCP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import databento_dbn
import pytest

from infra.simulator import faults
from infra.simulator.replay.databento import Fault, Gateway
from infra.simulator.venues.databento.server import DatabentoExchange
from marketdata import dbn
from marketdata.book import L2Book
from marketdata.errors import CodecError
from marketdata.events import AnyEvent, BookUpdate, FeedStatus, RawFrame, Trades
from producers.live.connection import Connection, Options
from producers.venues.databento.feed import DatabentoFeed
from producers.venues.databento.gateway import Login, Session, Splitter
from producers.venues.kit.backoff import Policy
from runtime import recordings

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
KEY = "db-0123456789abcdefghijklmnopqrs"


class Memory:
    """Keeps what a line wrote."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.raw: list[RawFrame] = []

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Keep it."""
        self.events += events
        if raw is not None:
            self.raw.append(raw)

    def statuses(self, kind: str) -> list[FeedStatus]:
        """Return what was sent of this kind."""
        return [event for event in self.events if isinstance(event, FeedStatus) and event.kind == kind]

    def trade_ids(self) -> list[str]:
        """Return the ids of all trades, in order."""
        return [trade.trade_id for event in self.events if isinstance(event, Trades) for trade in event.trades]

    def book(self) -> tuple[L2Book, bool]:
        """Return the book that consumers hold, and whether it is good."""
        return fold(self.events)


def fold(events: Iterable[AnyEvent]) -> tuple[L2Book, bool]:
    """Return the one book that these events make, and whether it is good."""
    book, valid = L2Book(), False
    for event in events:
        if isinstance(event, BookUpdate):
            if event.kind == "snapshot":
                book.bids.replace(event.bid_prices, event.bid_sizes)
                book.asks.replace(event.ask_prices, event.ask_sizes)
            elif event.kind == "update":
                book.bids.apply(event.bid_prices, event.bid_sizes)
                book.asks.apply(event.ask_prices, event.ask_sizes)
            elif event.kind == "clear":
                book.clear()
            valid = event.valid if event.kind != "heartbeat" else valid
    return book, valid


def recorded(name: str) -> Path:
    """Return a recording."""
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    return path


def whole(path: Path) -> Memory:
    """Return what a file says when it is read at one go."""
    memory, feed = Memory(), DatabentoFeed(line="databento/0")
    for line in recordings.read(path):
        memory.events += [event for event in feed.received(line.frame, line.ts_recv) if isinstance(event, AnyEvent)]
    return memory


async def listen(
    gateway: Gateway, *, schemas: tuple[str, ...], key: str = KEY, symbols: tuple[str, ...] | None = None
) -> tuple[Memory, DatabentoFeed, list[str]]:
    """Run one line against a gateway until the recording is over, or until it is refused."""
    memory, states, over = Memory(), [], asyncio.Event()

    def published(_line: str, state: str) -> None:
        states.append(state)
        if state.startswith("refused"):
            over.set()

    login = Login(key, Session(dataset=gateway.dataset, schemas=schemas))
    feed = DatabentoFeed(line="databento/0", products=symbols, token=login)
    async with gateway.serve("127.0.0.1", 0):
        options = Options(
            ws_url=f"tcp://127.0.0.1:{gateway.port}",
            rest_url="http://127.0.0.1:1",
            replay=True,
            splitter=Splitter,
            tick_s=0.02,
            backoff=Policy(base_s=0.001, cap_s=0.01),
            redact=login.redact,
            on_state=published,
        )
        line = Connection(feed, "databento/0", memory, options)
        tasks = [asyncio.create_task(one) for one in (line.run(), line.ended.wait(), over.wait())]
        async with asyncio.timeout(60):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        line.stop()
        await tasks[0]
        for task in tasks[1:]:
            task.cancel()
    return memory, feed, states


# --- A small market of our own: one record an event, then two, with a trade; the file is quick to play ---

TS = 1_700_000_000_000_000_000


def market(events: int = 40) -> list[bytes]:
    """Return the records of a book: empty at first, orders that come and go, and trades; two share each moment."""
    records = [order("R", 0, 0, 0, flags=8, ts=TS)]
    for number in range(1, events + 1):
        ts = TS + number // 2 * 1_000
        side, price = ("B", 100 - number % 5) if number % 2 else ("A", 101 + number % 5)
        records.append(order("A", number, price, number, side=side, flags=128, ts=ts))
        if number % 4 == 0:
            records.append(order("T", 0, 101, 1, side="B", flags=0, ts=ts))
            records.append(order("F", number, price, 1, side=side, flags=0, ts=ts))
            records.append(order("C", number, price, 1, side=side, flags=128, ts=ts))
        if number > 10:
            gone = number - 10
            records.append(order("C", gone, 0, gone - (gone % 4 == 0), side="B" if gone % 2 else "A", flags=128, ts=ts))
    return records


def order(action: str, number: int, price: int, size: int, *, side: str = "N", flags: int, ts: int) -> bytes:
    """Return one record of orders."""
    nano = price * 10**9 if price else dbn.UNDEF_PRICE
    return dbn.ORDER.pack(14, dbn.MBO, 1, 7, ts, number, nano, size, flags, 0, ord(action), ord(side), ts, 0, 5)


def file(tmp_path: Path, records: list[bytes]) -> Path:
    """Write a file of these records, of instrument 7, ESM4."""
    metadata = databento_dbn.Metadata(
        dataset="GLBX.MDP3",
        start=TS,
        stype_in=dbn.RAW_SYMBOL,
        stype_out=dbn.INSTRUMENT_ID,
        schema=databento_dbn.Schema.from_str("mbo"),
        version=3,
    )
    mapping = databento_dbn.SymbolMappingMsg(1, 7, TS, dbn.RAW_SYMBOL, "ESM4", dbn.RAW_SYMBOL, "ESM4", 0, 2**62)
    path = tmp_path / "orders.dbn"
    path.write_bytes(b"".join([bytes(metadata), bytes(mapping), *records]))
    return path


def same_book(memory: Memory, plain: Memory) -> bool:
    """Tell whether consumers of both hold the same good book."""
    (book, valid), (other, _) = memory.book(), plain.book()
    return valid and book.bids.top() == other.bids.top() and book.asks.top() == other.asks.top()


def test_a_recording_goes_on_where_the_connection_broke_off() -> None:
    """Reset within events, and bytes that nobody can follow: every trade once, the right book, no gap left open."""
    path = recorded("cme_esm4_mbo.dbn.zst")
    faults: dict[int, Fault] = {13_601: "disconnect", 13_700: "corrupt"}
    gateway = Gateway(path, speed=float("inf"), faults=faults, keys=[KEY])
    memory, feed, _ = asyncio.run(listen(gateway, schemas=("mbo",)))
    plain = whole(path)
    assert not gateway.faults
    assert memory.trade_ids() == plain.trade_ids()
    assert same_book(memory, plain)
    assert {gap.gap_id for gap in memory.statuses("gap")} == {gap.gap_id for gap in memory.statuses("resynced")}
    assert feed.counts["dead_letters"] == 0


@pytest.mark.parametrize("fault", ["disconnect", "corrupt", "skip"])
def test_every_record_counts_once_wherever_the_connection_breaks_off(tmp_path: Path, fault: Fault) -> None:
    """At every sixth record in turn: trades, book and gaps are as if nothing had been."""
    path = file(tmp_path, market())
    plain = whole(path)
    total = len(market())
    gateway = Gateway(path, speed=float("inf"), faults=dict.fromkeys(range(1, total, 6), fault), keys=[KEY])
    memory, _, _ = asyncio.run(listen(gateway, schemas=("mbo",), symbols=("ESM4",)))
    assert not gateway.faults
    assert memory.trade_ids() == plain.trade_ids()
    assert same_book(memory, plain)
    assert {gap.gap_id for gap in memory.statuses("gap")} == {gap.gap_id for gap in memory.statuses("resynced")}


def test_a_record_that_the_gateway_lost_is_noticed_and_a_snapshot_begins_anew(tmp_path: Path) -> None:
    """An order is missing: its cancel shows it, a snapshot mends the book, and the trades between stay a gap."""
    path = file(tmp_path, market())
    # What an order of the 13th number begins with.
    added = next(place for place, record in enumerate(market()) if dbn.ORDER.unpack(record)[5] == 13)
    gateway = Gateway(path, speed=float("inf"), faults={added: "drop"}, keys=[KEY])
    memory, feed, _ = asyncio.run(listen(gateway, schemas=("mbo",), symbols=("ESM4",)))
    assert same_book(memory, whole(path))
    assert feed.counts["snapshots"] == 2
    assert memory.statuses("gap")


def test_a_snapshot_of_the_gateway_is_the_book_that_it_stands_for(tmp_path: Path) -> None:
    """Who comes later gets every order that rests, and goes on from there."""
    path = file(tmp_path, market())
    gateway = Gateway(path, speed=float("inf"), keys=[KEY])
    gateway.past = 50
    memory, feed, _ = asyncio.run(listen(gateway, schemas=("mbo",), symbols=("ESM4",)))
    assert feed.counts["deltas_before_snapshot"] == 0
    assert same_book(memory, whole(path))


def test_a_wrong_key_is_refused_once_and_for_good(tmp_path: Path) -> None:
    """One attempt, one word that says what to do, and nothing of the key in what is stored."""
    gateway = Gateway(file(tmp_path, market()), speed=float("inf"), keys=["db-another-key"])
    memory, _, states = asyncio.run(listen(gateway, schemas=("mbo",)))
    assert gateway.refused == {"Authentication failed.": 1}
    assert "DATABENTO_API_KEY" in states[-1]
    assert memory.statuses("refused")
    stored = b"".join(frame.data for frame in memory.raw)
    assert b"auth=<answer>" in stored
    assert KEY.encode() not in stored
    assert KEY[-5:].encode() not in stored


def test_an_unknown_symbol_is_told_and_costs_the_others_nothing(tmp_path: Path) -> None:
    """The gateway names it in an error; the records of the other come."""
    gateway = Gateway(file(tmp_path, market(4)), speed=float("inf"), keys=[KEY])
    memory, feed, _ = asyncio.run(listen(gateway, schemas=("mbo",), symbols=("ESM4", "NOSUCH")))
    assert feed.counts["dead_letters"] == 1
    assert memory.trade_ids()


def test_heartbeats_come_while_the_market_is_quiet(tmp_path: Path) -> None:
    """Records a second apart, heartbeats every tenth: they move the book's time on."""
    records = [order("R", 0, 0, 0, flags=128, ts=TS), order("A", 1, 5, 1, side="B", flags=128, ts=TS + 10**9)]
    gateway = Gateway(file(tmp_path, records), speed=2.0, heartbeat_s=0.1, keys=[KEY])
    memory, feed, _ = asyncio.run(listen(gateway, schemas=("mbo",)))
    assert feed.counts["heartbeats"] >= 1
    published = [event for event in memory.events if isinstance(event, BookUpdate) and event.kind == "heartbeat"]
    assert published
    assert all(event.valid and TS <= event.ts_event < TS + 10**9 for event in published)


def test_a_recording_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The gateway says so at once, instead of taking frames for records."""
    file = tmp_path / "other.jsonl.zst"
    recordings.write(file, [recordings.Recorded("recv", 1, None, '{"event":"heartbeat"}')])
    with pytest.raises(CodecError, match="not a file of Databento's"):
        Gateway(file)


class Resolving(Memory):
    """Keeps what a line wrote until the book of ESU4 is there and changes."""

    def __init__(self) -> None:
        super().__init__()
        self.resolved = asyncio.Event()

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Keep it, unless the book is there."""
        if not self.resolved.is_set():
            await super().write(line, events, t_recv, raw)
            if any(event.valid and event.kind == "update" for event in self.books("ESU4")):
                self.resolved.set()

    def books(self, symbol: str) -> list[BookUpdate]:
        """Return the updates of a symbol's book."""
        return [event for event in self.events if isinstance(event, BookUpdate) and event.symbol == symbol]


def test_a_symbol_that_resolves_later_comes_in_the_same_session() -> None:
    """The gateway maps it by itself: it is requested once, invalid until then, and its book begins with a snapshot."""
    memory = Resolving()
    refused = faults.Fault(kind="refuse", channel="mbo", symbol="ESU4", count=3)

    async def run() -> None:
        login = Login(KEY, Session(schemas=("mbo",)))
        feed = DatabentoFeed(line="databento/0", products=("ESM4", "ESU4"), token=login)
        exchange = DatabentoExchange(["ESM4", "ESU4"], keys=(KEY,), every_s=0.05, faults=(refused,))
        async with exchange.serve("127.0.0.1", 0), asyncio.timeout(60):
            options = Options(ws_url=f"tcp://127.0.0.1:{exchange.port}", rest_url="http://127.0.0.1:1",
                              splitter=Splitter, tick_s=0.02, redact=login.redact)  # fmt: skip
            line = Connection(feed, "databento/0", memory, options)
            task = asyncio.create_task(line.run())
            await memory.resolved.wait()
            line.stop()
            await task

    asyncio.run(run())
    (gap,) = memory.statuses("gap")
    assert (gap.symbol, gap.reason) == ("ESU4", "unsubscribed")
    assert [(one.symbol, one.reason) for one in memory.statuses("unsubscribed")] == [("ESU4", "refused")]
    assert [one.symbol for one in memory.statuses("subscribed")] == ["ESU4"]
    assert len(memory.statuses("connected")) == 1
    assert gap.gap_id in {one.gap_id for one in memory.statuses("resynced")}
    assert next(event.kind for event in memory.books("ESU4") if event.valid) == "snapshot"
    assert all(event.valid for event in memory.books("ESM4"))

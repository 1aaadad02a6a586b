"""A producer that is killed again and again loses no trade silently: each is published, or an open gap covers it.

Real feeds of a venue that numbers trades and of one whose ids have no order, with several symbols and lines, against a
venue made here. Kafka is a list; what was handed over and not delivered is lost with the process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from marketdata.clock import SECOND_NS
from marketdata.events import AnyEvent, Candle, FeedStatus, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.live.orphaned_gaps import OrphanedGaps
from producers.venues import find_venue, is_of_trades, make_feed
from producers.venues.kit.published import History, PreviousRun, previous_run
from producers.venues.kit.venue import LiveFeed
from tickstream.pipe import Pipeline

BEGAN = 1_790_000_000 * SECOND_NS
MINUTE_NS = 60 * SECOND_NS
# Short lists, so that they often do not reach back far enough.
LISTED_LIVE, LISTED_REST = 3, 6


class Made:
    """One trade that the venue made."""

    def __init__(self, name: str, number: int, ts: int) -> None:
        self.name = name
        self.number = number
        self.ts = ts
        self.id = ""


class Coinbase:
    """What Coinbase Advanced Trade sends: numbers that rise by one, a list of trades with each subscription."""

    venue = "coinbase"
    names: ClassVar[dict[str, str]] = {"BTC-USD": "BTC-USD", "ETH-USD": "ETH-USD", "SOL-USD": "SOL-USD"}

    @staticmethod
    def name(made: Made) -> str:
        """Return a trade's id."""
        return str(made.number)

    @staticmethod
    def _frame(channel: str, events: list[Any], sequence: int, ts: int) -> bytes:
        sent = {"channel": channel, "timestamp": _iso(ts), "sequence_num": sequence, "events": events}
        return json.dumps(sent, separators=(",", ":")).encode()

    @staticmethod
    def _listed(trades: list[Made]) -> list[dict[str, str]]:
        return [{"product_id": one.name, "trade_id": one.id, "price": "100", "size": "1", "time": _iso(one.ts),
                 "side": "BUY"} for one in reversed(trades)]  # fmt: skip

    def trade(self, made: Made, line: LiveLine, ts: int) -> bytes:
        """Return the frame of one trade."""
        events = [{"type": "update", "trades": self._listed([made])}]
        return self._frame("market_trades", events, line.number(), ts)

    def heartbeat(self, line: LiveLine, ts: int) -> bytes:
        """Return a heartbeat."""
        now = _iso(ts).replace("T", " ").replace("Z", " +0000 UTC m=+1")
        return self._frame("heartbeats", [{"current_time": now, "heartbeat_counter": 1}], line.number(), ts)

    def answers(self, order: dict[str, Any], line: LiveLine, trades: dict[str, list[Made]], ts: int) -> Iterator[bytes]:
        """Return what a subscription brings first."""
        if order["type"] != "subscribe":
            return
        for name in order["product_ids"]:
            last = trades.get(name, [])[-LISTED_LIVE:]
            if order["channel"] == "level2":
                level = {"side": "bid", "event_time": _iso(ts), "price_level": "99", "new_quantity": "1"}
                book = {"type": "snapshot", "product_id": name, "updates": [level]}
                yield self._frame("l2_data", [book], line.number(), ts)
            elif order["channel"] == "market_trades" and last:
                events = [{"type": "snapshot", "trades": self._listed(last)}]
                yield self._frame("market_trades", events, line.number(), ts)

    def rest(self, trades: list[Made]) -> bytes:
        """Return REST's list of a product's last trades."""
        return json.dumps({"trades": self._listed(trades[-LISTED_REST:])}).encode()


class Bybit:
    """What Bybit sends on its linear market: ids without an order, no list of trades but REST's."""

    venue = "bybit"
    names: ClassVar[dict[str, str]] = {
        "BTCUSDT": "BTC-USDT-PERP", "ETHUSDT": "ETH-USDT-PERP", "SOLUSDT": "SOL-USDT-PERP"
    }  # fmt: skip

    @staticmethod
    def name(made: Made) -> str:
        """Return a trade's id."""
        return f"{made.number * 7919 % 10_007:05d}-{made.name}"

    def trade(self, made: Made, line: LiveLine, ts: int) -> bytes:
        """Return the frame of one trade."""
        del line
        sent = {"T": made.ts // 1_000_000, "s": made.name, "S": "Buy", "v": "1", "p": "100", "i": made.id}
        topic = f"publicTrade.{made.name}"
        return json.dumps({"topic": topic, "type": "snapshot", "ts": ts // 1_000_000, "data": [sent]}).encode()

    def heartbeat(self, line: LiveLine, ts: int) -> bytes:
        """Return an answer to a ping, which vouches for nothing."""
        del line, ts
        return b'{"op":"pong","success":true}'

    def answers(self, order: dict[str, Any], line: LiveLine, trades: dict[str, list[Made]], ts: int) -> Iterator[bytes]:
        """Return what a subscription brings first."""
        del line, trades
        for topic in order.get("args", ()) if order["op"] == "subscribe" else ():
            if topic.startswith("orderbook"):
                book = {"s": topic.rpartition(".")[2], "b": [["99", "1"]], "a": [], "u": 1, "seq": 1}
                yield json.dumps({"topic": topic, "type": "snapshot", "ts": ts // 1_000_000, "data": book}).encode()

    def rest(self, trades: list[Made]) -> bytes:
        """Return REST's list of a product's last trades, newest first."""
        listed = [{"execId": one.id, "time": str(one.ts // 1_000_000), "price": "100", "size": "1", "side": "Buy"}
                  for one in reversed(trades[-LISTED_REST:])]  # fmt: skip
        return json.dumps({"result": {"category": "linear", "list": listed}}).encode()


def _iso(ts: int) -> str:
    return datetime.fromtimestamp(ts / SECOND_NS, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class LiveLine:
    """One line of the process that runs, and whether its connection is up."""

    def __init__(self, name: str, feed: LiveFeed) -> None:
        self.name = name
        self.feed = feed
        self.is_up = False
        self.sequence = 0

    def number(self) -> int:
        """Return the next number of this connection."""
        self.sequence += 1
        return self.sequence - 1


class Restarts(RuleBasedStateMachine):
    """Trades, heartbeats, lost connections, kills, stops and starts, in any order."""

    venue: Any

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGAN
        self.trades: dict[str, list[Made]] = {name: [] for name in self.venue.names}
        self.lines: list[LiveLine] = []
        self.gaps = OrphanedGaps()
        self.is_checked = True
        self.rest_answers = True
        self.waiting: list[AnyEvent] = []  # handed over, not delivered
        self.log: list[AnyEvent] = []  # delivered, of each partition in order

    # --- The process ---

    def _perform(self, line: LiveLine, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Send):
                for frame in list(self.venue.answers(json.loads(output.frame), line, self.trades, self.now)):
                    self._perform(line, line.feed.received(frame, self.now))
            elif isinstance(output, Fetch):
                if is_of_trades(self.venue.venue, output.purpose) and self.rest_answers and self.trades[output.symbol]:
                    body = self.venue.rest(self.trades[output.symbol])
                    self._perform(line, line.feed.fetched(output, body, self.now))
            elif isinstance(output, Reconnect):
                self._disconnect(line, output.reason)
            else:
                self.waiting.append(output)  # type: ignore[arg-type]
                if isinstance(output, FeedStatus):
                    self.waiting += self.gaps.status(output)

    def _connect(self, line: LiveLine) -> None:
        line.is_up, line.sequence = True, 0
        self._perform(line, line.feed.opened(self.now))

    def _disconnect(self, line: LiveLine, reason: str) -> None:
        line.is_up = False
        self._perform(line, line.feed.closed(reason, self.now))

    def _each(self, call: Callable[[LiveLine], list[Output]]) -> None:
        for line in self.lines:
            if line.is_up:
                self._perform(line, call(line))

    def _deliver(self) -> None:
        self.log += self.waiting
        self.waiting.clear()

    def _pass(self, seconds: int) -> None:
        self.now += seconds * SECOND_NS

    def _trade(self, name: str, count: int) -> None:
        known = self.trades[name]
        for _ in range(count):
            self.now += 1_000_000
            made = Made(name, known[-1].number + 1 if known else 1, self.now)
            made.id = self.venue.name(made)
            known.append(made)
            for line in [line for line in self.lines if line.is_up]:
                self._perform(line, line.feed.received(self.venue.trade(made, line, self.now), self.now))

    # --- What happens ---

    @initialize(lines=st.integers(1, 2))
    def begin(self, lines: int) -> None:
        """The first process begins, after some trades that nobody follows."""
        self._trade(next(iter(self.trades)), 2)
        self._start(lines, None)

    @rule(name=st.integers(0, 2), count=st.integers(1, 9), seconds=st.integers(0, 7))
    def trade(self, name: int, count: int, seconds: int) -> None:
        """Some trades are made, and delivered where they are read."""
        self._pass(seconds)
        self._trade(list(self.trades)[name], count)
        self._deliver()

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        """Nothing is traded; the venue sends heartbeats."""
        for _ in range(seconds):
            self._pass(1)
            self._each(lambda line: line.feed.received(self.venue.heartbeat(line, self.now), self.now))
            self._each(lambda line: line.feed.ticked(self.now))
        self._deliver()

    @rule(answers=st.booleans())
    def rest(self, answers: bool) -> None:
        """REST begins or ceases to answer."""
        self.rest_answers = answers

    @precondition(lambda self: self.lines)
    @rule(which=st.integers(0, 1), name=st.integers(0, 2), missed=st.integers(0, 9))
    def lose_connection(self, which: int, name: int, missed: int) -> None:
        """A connection is lost, some trades are made, and it is there again."""
        line = self.lines[which % len(self.lines)]
        self._disconnect(line, "reset")
        self._trade(list(self.trades)[name], missed)
        self._connect(line)
        self._deliver()

    @precondition(lambda self: self.lines)
    @rule(data=st.data(), count=st.integers(0, 9))
    def kill(self, data: st.DataObject, count: int) -> None:
        """The process is killed: of each partition some of the last records are not delivered."""
        for name in self.trades:
            self._trade(name, count)
        partitions: dict[tuple[str, int], list[AnyEvent]] = {}
        for event in self.waiting:
            partitions.setdefault((event.schema, self._partition(event)), []).append(event)
        for events in partitions.values():
            self.log += events[: data.draw(st.integers(0, len(events)))]
        self.waiting.clear()
        self.lines, self.is_checked = [], False

    @precondition(lambda self: self.lines)
    @rule()
    def stop(self) -> None:
        """The process is stopped in order: its feeds say so, and everything is delivered."""
        for line in self.lines:
            self._disconnect(line, "stopped")
        self._deliver()
        self.lines, self.is_checked = [], False

    @precondition(lambda self: not self.lines)
    @rule(lines=st.integers(1, 2), missed=st.integers(0, 9), name=st.integers(0, 2), tail=st.integers(1, 60))
    def start(self, lines: int, missed: int, name: int, tail: int) -> None:
        """Another process begins, which reads the ends of the topics."""
        self._trade(list(self.trades)[name], missed)
        self.now += 1
        self._start(lines, tail)

    def _start(self, count: int, tail: int | None) -> None:
        names = [f"{self.venue.venue}/{number}" for number in range(count)]
        previous = PreviousRun() if tail is None else self._previous(tail)
        self.gaps = OrphanedGaps()
        ours = frozenset(self.venue.names.values())
        self.waiting += self.gaps.start(previous, ours, names, find_venue(self.venue.venue), self.now)
        self.lines = [
            LiveLine(name, make_feed(self.venue.venue, line=name, products=tuple(self.venue.names), market="linear"))
            for name in names
        ]
        for line in self.lines:
            self._perform(line, line.feed.resume(previous, self.now))
        for line in self.lines:
            self._connect(line)
        self._deliver()
        self.is_checked = True

    def _previous(self, tail: int) -> PreviousRun:
        """Return what the ends of the topics show, read as the producer does."""
        partitions: dict[int, list[Trades]] = {}
        for event in self.log:
            if isinstance(event, Trades):
                partitions.setdefault(self._partition(event), []).append(event)
        histories: dict[str, History] = {}
        for number, events in partitions.items():
            for event in events[-tail:]:
                histories.setdefault(event.symbol, History(number)).take(event)
        is_all = all(len(events) <= tail for events in partitions.values())
        return previous_run(histories, self._open_gaps(), frozenset(self.venue.names.values()), is_all=is_all)

    def _partition(self, event: AnyEvent) -> int:
        """Return the partition of an event's topic: two symbols share one."""
        symbols = list(self.venue.names.values())
        symbol = getattr(event, "symbol", "*")
        return symbols.index(symbol) // 2 if symbol in symbols else 0

    # --- What must be true ---

    def _open_gaps(self) -> list[FeedStatus]:
        gaps: dict[str, FeedStatus] = {}
        for event in self.log:
            if isinstance(event, FeedStatus) and event.gap_id is not None:
                if event.kind == "gap":
                    gaps[event.gap_id] = event
                elif event.kind == "resynced":
                    gaps.pop(event.gap_id, None)
        return list(gaps.values())

    @invariant()
    def every_trade_is_published_or_in_an_open_gap(self) -> None:
        """From the first event of its symbol on; what happens while no process runs is the next one's to report."""
        if not self.is_checked:
            return
        followed: dict[str, int] = {}
        for event in self.log:
            if isinstance(event, Trades) and event.valid:
                followed.setdefault(event.symbol, event.ts_event)
        published = {
            (event.symbol, trade.trade_id)
            for event in self.log if isinstance(event, Trades) for trade in event.trades
        }  # fmt: skip
        gaps = self._open_gaps()
        for name, made in self.trades.items():
            symbol = self.venue.names[name]
            mine = [
                gap
                for gap in gaps
                if gap.symbol == symbol and (gap.channel is None or is_of_trades(gap.venue, gap.channel))
            ]
            for trade in made:
                if trade.ts > followed.get(symbol, self.now) and (symbol, trade.id) not in published:
                    assert any(_covers(gap, trade) for gap in mine), (symbol, trade.id, trade.ts, mine)

    def teardown(self) -> None:
        """No candle is final and valid that does not hold every trade of its minute."""
        pipeline = Pipeline()
        candles: dict[tuple[str, int], Candle] = {}
        for event in self.log:
            if isinstance(event, Trades):
                for topic, output in pipeline.push(event):
                    if topic == "md.candles" and isinstance(output, Candle) and output.interval == "1m":
                        candles[output.symbol, output.start] = output
        for name, made in self.trades.items():
            symbol = self.venue.names[name]
            for (owner, start), candle in candles.items():
                if owner == symbol and candle.state != "open" and candle.valid:
                    there = sum(start <= trade.ts < start + MINUTE_NS for trade in made)
                    assert candle.trades == there, (symbol, start, candle)


def _covers(gap: FeedStatus, trade: Made) -> bool:
    if gap.expected is not None and gap.received is not None:
        return gap.expected <= trade.number < gap.received
    return gap.ts_from is not None and gap.ts_from <= trade.ts and (gap.ts_to is None or trade.ts <= gap.ts_to)


class CoinbaseRestarts(Restarts):
    """Of a venue that numbers trades."""

    venue = Coinbase()


class BybitRestarts(Restarts):
    """Of a venue whose trade ids have no order."""

    venue = Bybit()


_SETTINGS = settings(max_examples=60, stateful_step_count=25, deadline=None,
                     suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip


@pytest.mark.parametrize("machine", [CoinbaseRestarts, BybitRestarts])
def test_restarts(machine: type[Restarts]) -> None:
    """Whatever happens in whatever order."""
    machine.TestCase.settings = _SETTINGS
    machine.TestCase("runTest").runTest()

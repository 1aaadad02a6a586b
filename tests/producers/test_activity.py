"""A product that falls silent by itself is found by evidence; thin, resting and halted markets raise no alarm."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import STALE, AnyEvent, BookUpdate, FeedStatus, Instrument, Trade, Trades
from marketdata.feed import Output, Send
from producers.venues.kit import numbered_trades
from producers.venues.kit.activity import SILENT_NS_MIN, WARM_UP_NS, Activity, Silent
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from runtime.recordings import read
from stream_apps.operators.anomalies_status import AnomaliesStatus
from tickstream.pipe import Connections, Pipeline, run

SECOND = 1_000_000_000
T0 = 1_786_309_200 * SECOND
RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
QUICK = settings(max_examples=25, deadline=None)
# Which seconds have an event of a series.
Pattern = Callable[[int], bool]


def watched(patterns: dict[tuple[str, str], Pattern], seconds: int) -> list[tuple[int, Silent]]:
    """Return what was reported, each with its second."""
    activity = Activity()
    marks: dict[tuple[str, str], int | None] = dict.fromkeys(patterns, 0)
    found: list[tuple[int, Silent]] = []
    for second in range(seconds):
        for key, pattern in patterns.items():
            if pattern(second):
                marks[key] = second + 1
        found += [(second, each) for each in activity.observe(T0 + second * SECOND, marks)]
    return found


def busy(share: float, seed: int, until: int = 10**9) -> Pattern:
    """Return a pattern with this share of seconds with an event, that ends."""
    rng = random.Random(seed)
    return lambda second: rng.random() < share and second < until


def test_a_product_that_falls_silent_alone_is_reported_with_its_evidence() -> None:
    """The others of its channel go on as usual; each further report needs a silence four times as long."""
    patterns = {("book", f"P{n}"): busy(0.7, n) for n in range(5)} | {("book", "MUTE"): busy(0.8, 9, until=1_000)}
    (second, silent), *more = watched(patterns, 3_000)
    assert len(more) < 4
    assert 999 + SILENT_NS_MIN // SECOND <= second < 1_090
    assert (silent.channel, silent.name, silent.others) == ("book", "MUTE", 5)
    assert silent.active >= 4
    assert "of 5 others of this connection are active" in silent.text()


def test_trades_of_a_lone_product_are_judged_by_its_book() -> None:
    """Quotes go on, and trades that came each second do not."""
    patterns = {("book", "P"): busy(0.9, 1), ("trades", "P"): busy(0.9, 2, until=1_000)}
    (second, silent), *_ = watched(patterns, 2_000)
    assert (silent.channel, silent.name) == ("trades", "P")
    assert second < 1_100


def test_a_market_that_rests_as_a_whole_is_no_loss() -> None:
    """Nothing shows that a product is silent alone when all are."""
    assert watched({("book", f"P{n}"): busy(0.8, n, until=1_000) for n in range(6)}, 3_000) == []


def test_nothing_is_reported_before_the_usual_rate_is_known() -> None:
    """Ten minutes at least."""
    until = WARM_UP_NS // SECOND - 60
    patterns = {("book", "P"): busy(0.9, 1), ("book", "MUTE"): busy(0.9, 2, until=until)}
    assert watched(patterns, 3_000) == []


def test_time_without_a_call_is_no_silence() -> None:
    """Our process was stopped, or a replay is faster than time."""
    activity = Activity()
    marks: dict[tuple[str, str], int | None] = {("book", "A"): 0, ("book", "B"): 0}
    for second in range(1_000):
        marks = dict.fromkeys(marks, second)
        assert activity.observe(T0 + second * SECOND, marks) == []
    for jump in range(1, 20):
        marks["book", "B"] = -jump
        assert activity.observe(T0 + (1_000 + 60 * jump) * SECOND, marks) == []


@QUICK
@given(st.floats(0.001, 0.2), st.integers(0, 2**32), st.floats(0.3, 1.0))
def test_thin_products_raise_no_alarm(share: float, seed: int, others: float) -> None:
    """At whatever steady rate, beside busy neighbours, for two hours."""
    patterns = {("book", "THIN"): busy(share, seed)} | {("book", f"P{n}"): busy(others, seed + n) for n in range(1, 4)}
    assert watched(patterns, 7_200) == []


@QUICK
@given(st.integers(0, 2**32), st.integers(40, 400))
def test_a_product_that_comes_in_bursts_raises_no_alarm(seed: int, pause: int) -> None:
    """Its pauses are as long as they usually are, though its average rate makes them improbable."""
    rng = random.Random(seed)
    edges = [0]
    while edges[-1] < 7_200:
        edges.append(edges[-1] + rng.randint(20, 60))
        edges.append(edges[-1] + rng.randint(pause // 2, pause))
    on = {second for begin, end in list(pairwise(edges))[::2] for second in range(begin, end)}
    patterns = {("book", "BURSTS"): lambda second: second in on, ("book", "P"): busy(0.8, seed)}
    assert watched(patterns, 7_200) == []


@pytest.mark.parametrize(
    ("name", "venue"),
    [("coinbase_advanced", "coinbase"), ("kraken_futures", "kraken_futures"), ("okx", "okx"), ("bybit", "bybit"),
     ("bitfinex", "bitfinex"), ("gemini", "gemini"), ("kraken_v1", "kraken"), ("binance_spot_multi", "binance_spot"),
     ("okx_redundant_line1", "okx"), ("coinbase_exchange_legacy", "coinbase_exchange")],
)  # fmt: skip
@pytest.mark.parametrize("slower", [1, 40])
def test_recordings_raise_no_alarm(name: str, venue: str, slower: int) -> None:
    """At their own pace, and stretched so that each lasts long enough to know its rates."""
    path = RECORDINGS / f"{name}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    activity = Activity()
    marks: dict[tuple[str, str], int | None] = {}
    began = next(iter(read(path))).ts_recv
    now = began
    connections = Connections(venue)
    for _, event in run([path], connections, Nothing()):
        if not isinstance(event, BookUpdate | Trades) or event.origin != "live":
            continue
        ts = began + (event.ts_recv - began) * slower
        while now + SECOND < ts:
            now += SECOND
            assert activity.observe(now, marks) == []
        if isinstance(event, BookUpdate) or event.trades:
            marks[type(event).__name__, event.symbol] = event.ts_event


class Nothing(Pipeline):
    """The pipeline of feeds alone."""

    def push(self, event: AnyEvent) -> Iterator[tuple[str, AnyEvent]]:
        """Return the event of the feed."""
        yield "", event


class _Frame(msgspec.Struct):
    s: str
    id: int
    ms: int


class EchoFeed(VenueFeed):
    """A feed of trades alone."""

    venue = "echo"
    book_channel = "book"
    trades_channel = "trades"
    silence_ns = 60 * SECOND
    channels = ("trades",)
    acknowledges = False

    def _describe(self, name: str) -> Instrument:
        return Instrument(
            venue="echo", symbol=name, ts_recv=0, venue_symbol=name, base_currency="A", quote_currency="B"
        )

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> list[Output]:
        del call
        return [Send(f"{verb} {channel} {' '.join(names)}".encode())]

    def _read(self, call: Call) -> None:
        frame = msgspec.json.decode(call.payload, type=_Frame)
        self._advance(call, frame.ms * 1_000_000)
        product = self._products.find(call, frame.s)
        assert product is not None
        trade = Trade(trade_id=str(frame.id), ts_event=call.now, price="1", size="1", side="buy")
        numbered_trades.take(call, product, self._ledger, [(frame.id, trade)])


def test_a_feed_loses_what_fell_silent_and_subscribes_it_again() -> None:
    """A status with the evidence, trades that are not valid, and a request; the neighbours are left alone."""
    feed = EchoFeed(line="echo/0", products=("MUTE", "GOOD"))
    feed.opened(T0)
    out: list[Output] = []
    for second in range(1, 800):
        ts = T0 + second * SECOND
        for name in ("MUTE", "GOOD") if second < 700 else ("GOOD",):
            feed.received(msgspec.json.encode(_Frame(name, second, ts // 1_000_000)), ts)
        out += feed.ticked(ts)
    (silent,) = [each for each in out if isinstance(each, FeedStatus) and each.kind == "silent"]
    assert (silent.symbol, silent.channel, silent.reason) == ("MUTE", "trades", STALE)
    assert "1 of 1 others of this connection are active" in silent.detail
    lost = [each for each in out if isinstance(each, Trades) and not each.valid]
    assert {each.symbol for each in lost} == {"MUTE"}
    sent = [each.frame for each in out if isinstance(each, Send)]
    assert b"subscribe trades MUTE" in sent
    assert not any(b"trades" in frame and b"GOOD" in frame for frame in sent)
    (anomaly,) = AnomaliesStatus().step(AnomaliesStatus().start("echo:MUTE"), silent)[1]
    assert (anomaly.schema, getattr(anomaly, "kind", "")) == ("Anomaly", "stale")

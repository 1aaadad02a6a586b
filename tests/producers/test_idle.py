"""Time passes for products without trades by evidence only: each minute once, never ahead, and not over a silence."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.events import GAP, BookUpdate, Instrument, Trade, Trades
from marketdata.feed import Fetch, Output
from producers.venues import VENUES, find_venue, make_feed
from producers.venues.kit import idle, trades
from producers.venues.kit.calls import Call, Line
from producers.venues.kit.idle import CONFIRM_NS, Idle, Proof, proof_of
from producers.venues.kit.products import LATE_NS, Product
from producers.venues.kit.published import PreviousRun

T0 = 1_786_309_200_000_000_000  # a whole minute
SILENCE = 30 * SECOND_NS
QUICK = settings(max_examples=100, deadline=None)


class Feed:
    """The least feed: a frame is the number of seconds by which the venue's clock is behind, or empty."""

    venue = "acme"

    def __init__(self, silence_ns: int | None = SILENCE) -> None:
        self.silence_ns = silence_ns
        self.counts: Counter[str] = Counter()
        self.ts_venue: int | None = None
        self.line = Line("acme", "acme/0")
        self.product = Product(
            Instrument(venue="acme", symbol="A-B", ts_recv=0, venue_symbol="AB", base_currency="A", quote_currency="B")
        )

    def symbols(self) -> frozenset[str] | None:
        """Return None."""
        return None

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Return nothing."""
        del previous, ts
        return []

    def opened(self, ts: int) -> list[Output]:
        """Return nothing."""
        del ts
        return []

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Note the venue's time; the frame `trade` is a trade at that time."""
        call = Call(self.line, ts, None)
        if frame == b"trade":
            self.ts_venue = ts
            trades.send(call, self.product, [Trade(trade_id=str(ts), ts_event=ts, price="1", size="1", side="buy")])
        elif frame:
            self.ts_venue = ts - int(frame) * SECOND_NS
        return call.out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Return nothing."""
        del request, body, ts
        return []

    def ticked(self, ts: int) -> list[Output]:
        """Return nothing."""
        del ts
        return []

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when trades are complete."""
        return idle.time_passed(Call(self.line, ts, None), [self.product], ts_event, skipped=skipped)

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Return nothing."""
        del reason, ts
        return []


def played(
    frames: list[tuple[float, bytes]], *, silence_ns: int | None = SILENCE, proof: Proof = "none", recorded: bool = True
) -> list[Trades]:
    """Return the events of trades of frames at these seconds after T0."""
    feed = Feed(silence_ns)
    line = Idle(feed, proof, recorded=recorded)
    line.opened(T0)
    out: list[Output] = []
    for second, frame in frames:
        ts = T0 + round(second * SECOND_NS)
        out += line.came(ts)
        out += feed.received(frame, ts)
    return [each for each in out if isinstance(each, Trades)]


def stated(events: list[Trades]) -> list[tuple[float, str]]:
    """Return the events without trades: their time after T0 in seconds, and their reason."""
    return [((e.ts_event - T0) / SECOND_NS, e.reason) for e in events if not e.trades and e.complete_from is None]


def test_other_frames_of_the_connection_show_each_minute_that_nothing_was_traded() -> None:
    """At the end of the grace period after each minute, whenever the next frame came."""
    frames = [(30.0, b"trade"), *((30.0 + 7.3 * n, b"0") for n in range(1, 26))]
    events = played(frames)
    assert stated(events) == [(62, ""), (122, ""), (182, "")]
    assert [event.ts_recv > event.ts_event for event in events if not event.trades] == [True] * 3


def test_a_product_that_trades_gets_one_a_minute_at_most_and_one_that_never_did_gets_none() -> None:
    """Its own trades move the time as well; before the first event there is no candle to close."""
    busy = [(second / 2, b"trade") for second in range(1, 400)]
    assert stated(played(busy)) == [(2, ""), (62, ""), (122, ""), (182, "")]
    assert played([(float(second), b"0") for second in range(1, 200)]) == []


def test_time_follows_the_venues_clock_where_it_is_behind_ours() -> None:
    """A feed that is 15 minutes late, as Alpaca's delayed one, states what it has reached itself."""
    frames = [(30.0, b"trade"), *((30.0 + second, b"20") for second in range(1, 120))]
    events = played([(0.5, b"20"), *frames])
    times = [second for second, _ in stated(events)]
    assert times
    assert all((event.ts_recv - event.ts_event) >= 0 for event in events)


def test_a_silence_longer_than_in_health_vouches_for_nothing_in_a_recording() -> None:
    """The recorder was stopped: trades are not valid from before the silence until after it."""
    frames = [(5.0, b"trade"), (10.0, b"0"), (300.0, b"0"), (310.0, b"0")]
    assert stated(played(frames)) == [(5, GAP), (300, ""), (302, "")]
    assert stated(played(frames, proof="frames")) == [(62, ""), (122, ""), (182, ""), (242, ""), (302, "")], (
        "all are numbered"
    )
    assert stated(played(frames[:3], proof="trades")) == [], "the next trade shows whether any is missing"
    assert stated(played(frames, silence_ns=None)) == stated(played(frames, proof="frames")), "silence is normal there"
    live = [one for one in stated(played(frames, recorded=False)) if one[0] % 60 == LATE_NS // SECOND_NS]
    assert live == stated(played(frames, proof="frames")), "it was read in order"


def test_a_live_line_confirms_what_is_quiet_while_other_frames_come() -> None:
    """Every few seconds, as of the newest frame; not after the last of them, and not what has events of its own."""
    frames = [(1.0, b"trade"), *((float(second), b"0") for second in range(2, 40))]
    times = [second for second, reason in stated(played(frames, recorded=False)) if not reason]
    assert [later - before for before, later in pairwise([1.0, *times, 39.0])] <= [CONFIRM_NS / SECOND_NS + 1] * 99
    assert 35 <= max(times) <= 39
    busy = [(float(second), b"trade") for second in range(1, 40)]
    assert stated(played(busy, recorded=False)) == [(2, "")]


def test_a_quiet_book_of_a_live_line_is_confirmed_until_the_line_is_silent() -> None:
    """Another product's frames show that the connection delivers; a lost book is not confirmed."""

    def book(name: str, number: int, ts: int) -> bytes:
        data = {"asks": [["101", "1", "0", "1"]], "bids": [["100", "1", "0", "1"]], "ts": str(ts // 1_000_000),
                "checksum": 0, "seqId": number, "prevSeqId": -1 if number == 1 else number - 1}  # fmt: skip
        arg = {"channel": "books", "instId": name}
        return json.dumps({"arg": arg, "action": "snapshot" if number == 1 else "update", "data": [data]}).encode()

    feed = find_venue("okx").make(line="okx/0", products=("BTC-USDT", "ETH-USDT"), token=None)
    feed.opened(T0)
    line = Idle(feed, "trades", recorded=False)
    line.opened(T0)
    feed.received(book("ETH-USDT", 1, T0), T0)
    confirmed: list[int] = []
    for second in range(1, 60):
        ts = T0 + second * SECOND_NS
        if second < 40:
            out = line.came(ts)
            feed.received(book("BTC-USDT", second, ts), ts)
        else:
            out = line.came(T0 + 39 * SECOND_NS)  # nothing came since
        confirmed += [second for one in out if isinstance(one, BookUpdate) and one.symbol == "ETH-USDT"]
    assert max(later - before for before, later in pairwise([0, *confirmed])) <= 6
    assert 30 <= max(confirmed) < 40
    feed.closed("reset", T0 + 60 * SECOND_NS)
    line.opened(T0 + 60 * SECOND_NS)
    assert not [one for one in line.came(T0 + 70 * SECOND_NS) if isinstance(one, BookUpdate)]


def test_hours_without_a_frame_are_not_vouched_for_even_where_silence_is_normal() -> None:
    """A recorder that goes on the next day with the same connection's name."""
    frames = [(5.0, b"trade"), (10.0, b"0"), (86_400.0, b"0")]
    assert stated(played(frames, silence_ns=None)) == [(5, GAP), (86_400, "")]


def test_a_loss_is_stated_at_once_and_time_still_passes() -> None:
    """While trades are missing, or trading is halted, the time has that reason."""
    feed = Feed()
    call = Call(feed.line, T0, T0)
    feed.received(b"trade", T0)
    trades.lose(call, feed.product)
    (lost,) = call.out
    assert isinstance(lost, Trades)
    assert (lost.ts_event, lost.valid, lost.reason) == (T0, False, GAP)
    (passed,) = feed.time_passed(T0 + 62 * SECOND_NS, T0 + 62 * SECOND_NS)
    assert isinstance(passed, Trades)
    assert (passed.valid, passed.reason) == (False, GAP)
    trades.found(feed.product)
    back, complete = feed.time_passed(T0 + 122 * SECOND_NS, T0 + 122 * SECOND_NS)
    assert isinstance(back, Trades)
    assert isinstance(complete, Trades)
    assert (back.valid, complete.complete_from) == (True, T0 - LATE_NS)


def test_after_minutes_without_any_statement_the_next_states_nothing_of_them() -> None:
    """As after a listing of old trades: nobody knows what was traded since the last of them."""
    feed = Feed()
    feed.received(b"trade", T0)
    events = feed.time_passed(T0 + 600 * SECOND_NS, T0 + 600 * SECOND_NS)
    assert [(e.ts_event, e.reason) for e in events if isinstance(e, Trades)] == [
        (T0, GAP), (T0 + 600 * SECOND_NS, ""),
    ]  # fmt: skip


@QUICK
@given(
    st.lists(st.tuples(st.floats(0.01, 90), st.sampled_from([b"trade", b"0", b"1", b""])), max_size=40),
    st.sampled_from(["none", "trades", "frames"]),
)
def test_each_minute_is_stated_at_most_once_and_never_before_it_is_over(
    steps: list[tuple[float, bytes]], proof: Proof
) -> None:
    """Whatever comes when: no time ahead of the frame that shows it, none twice, none valid over a silence."""
    now, frames = 0.0, []
    for pause, frame in steps:
        now += pause
        frames.append((now, frame))
    events = played(frames, proof=proof)
    assert events == played(frames, proof=proof), "the same frames give the same events"
    empty = [event for event in events if not event.trades and event.valid]
    assert all(event.ts_event <= event.ts_recv for event in events)
    minutes = [event.ts_event // MINUTE_NS for event in empty if (event.ts_event - LATE_NS) % MINUTE_NS == 0]
    assert len(set(minutes)) == len(minutes)
    if proof == "none":
        last = T0
        for second, _ in frames:
            ts = T0 + round(second * SECOND_NS)
            inside = [e for e in empty if ts - last > SILENCE and last < e.ts_event < ts - LATE_NS]
            assert not inside, "a time inside of a silence"
            last = ts


def test_every_venue_says_how_long_it_may_be_silent() -> None:
    """The limit is the venue's: for FIX it follows from the session's HeartBtInt."""
    limits = {name: make_feed(name).silence_ns for name in VENUES}
    assert limits["alpaca"] is None
    assert all(limit is None or 5 * SECOND_NS <= limit <= 120 * SECOND_NS for limit in limits.values())
    assert limits["fix"] == 72 * SECOND_NS
    assert proof_of(find_venue("bitfinex")) == "frames"


def test_frame_that_shows_a_loss_takes_back_the_minutes_that_it_closed() -> None:
    """Frames are numbered: the one that comes after a silence states minutes, until its own number is read."""
    feed = Feed()
    line = Idle(feed, "frames", recorded=True)
    line.opened(T0)
    for second in (5, 65):
        line.came(T0 + second * SECOND_NS)
        feed.received(b"trade" if second == 5 else b"0", T0 + second * SECOND_NS)
    ts = T0 + 250 * SECOND_NS
    passed = [event for event in line.came(ts) if isinstance(event, Trades)]
    assert [event.valid for event in passed] == [True, True, True]
    call = Call(feed.line, ts, ts)
    trades.lose(call, feed.product)
    (lost,) = call.out
    assert isinstance(lost, Trades)
    assert (lost.ts_event, lost.reason) == (T0 + 60 * SECOND_NS, GAP), "what the frame before it had shown"


def usdm(second: float, **fields: Any) -> bytes:
    """Return a frame of Binance's futures stream."""
    ms = round(T0 / 1_000_000 + second * 1_000)
    kind = "trade" if "t" in fields else "bookTicker"
    data = {"e": kind, "E": ms, "T": ms, "s": "BTCUSDT"} | fields
    return json.dumps({"stream": f"btcusdt@{kind}", "data": data}).encode()


def test_skipped_number_of_a_trade_is_dated_from_the_last_trade_however_many_minutes_ago() -> None:
    """Quotes go on and close the minutes; then a trade's id shows that the venue left others out since the last."""
    feed = make_feed("binance_usdm")
    line = Idle(feed, "trades", recorded=True)
    line.opened(T0)
    out: list[Output] = []
    quote = {"b": "10", "B": "1", "a": "11", "A": "2"}
    traded = {"p": "10", "q": "1", "X": "MARKET", "m": False}
    frames = [(10.0, usdm(10, t=1, **traded)), *((s, usdm(s, u=s, **quote)) for s in range(20, 200, 10)),
              (201.0, usdm(201, t=5, **traded))]  # fmt: skip
    for second, frame in frames:
        ts = T0 + round(second * SECOND_NS)
        out += line.came(ts)
        out += feed.received(frame, ts)
    events = [event for event in out if isinstance(event, Trades)]
    assert [event for event in events if event.valid and not event.trades], "minutes without trades were stated"
    lost = next(event for event in events if event.reason == GAP)
    assert lost.ts_event == T0 + 10 * SECOND_NS

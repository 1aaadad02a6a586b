"""Alpaca's feed: its frames in both encodings, logging in, and what holds whatever happens to a frame on its way."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.simulator.venues.alpaca.market import Market, Message
from infra.simulator.venues.alpaca.server import encode
from marketdata.clock import TS_MIN
from marketdata.codec import Codec
from marketdata.errors import SettingsError
from marketdata.events import EVENTS, AnyEvent, Candle, DeadLetter, FeedStatus, Instrument, Quote, Trade, Trades
from marketdata.feed import Output, Reconnect, Refused, Send
from producers.live.settings import find_tokens, load_for_venue
from producers.venues import find_venue
from producers.venues.alpaca.feed import AlpacaFeed
from producers.venues.alpaca.login import KeyPair

SECOND = 1_000_000_000
T0 = 1_786_372_200 * SECOND  # 2026-08-10T14:30:00Z
SYMBOLS = ("AAPL", "BRK.B", "SPY")
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})
QUICK = settings(max_examples=15, deadline=None)
ENCODINGS = pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])


def feed_of(*products: str, key: bool = True) -> AlpacaFeed:
    """Return a feed of these products, with a key."""
    return AlpacaFeed(line="alpaca/0", products=products or SYMBOLS, token=KeyPair("PK", "secret") if key else None)


def logged_in(*products: str) -> AlpacaFeed:
    """Return a feed that has subscribed."""
    feed = feed_of(*products)
    feed.opened(T0)
    for message in ({"T": "success", "msg": "connected"}, {"T": "success", "msg": "authenticated"}, *answers()):
        feed.received(encode([message], packed=False), T0)
    return feed


def answers(*refused: str) -> list[Message]:
    """Return the answers to the messages that subscribe trades, quotes and statuses, each with all that there are."""
    names = [name for name in SYMBOLS if name not in refused]
    channels: dict[str, list[str]] = {"trades": [], "quotes": [], "statuses": []}
    sent = []
    for channel in channels:
        channels[channel] = names
        sent.append({"T": "subscription", **channels})
    return sent


def outputs_of(feed: AlpacaFeed, *messages: Message, packed: bool = False, ts: int = T0 + SECOND) -> list[Output]:
    """Return what a frame of these messages brings."""
    return feed.received(encode(list(messages), packed=packed), ts)


def only(out: list[Output], kind: type[Any]) -> Any:
    """Return the one output of a kind."""
    found = [output for output in out if isinstance(output, kind)]
    assert len(found) == 1, out
    return found[0]


def trade(number: int = 1, **fields: Any) -> Message:
    """Return a trade."""
    return {"T": "t", "S": "AAPL", "i": number, "x": "V", "p": 150.25, "s": 100, "t": T0, "c": ["@"], "z": "C"} | fields


def quote(**fields: Any) -> Message:
    """Return a quote."""
    return {"T": "q", "S": "AAPL", "bx": "V", "bp": 150.2, "bs": 3, "ax": "Q", "ap": 150.3, "as": 4, "t": T0,
            "c": ["R"], "z": "C"} | fields  # fmt: skip


def bar(kind: str = "b", **fields: Any) -> Message:
    """Return a bar."""
    return {"T": kind, "S": "AAPL", "o": 150, "h": 151, "l": 149.5, "c": 150.5, "v": 1200, "n": 17, "vw": 150.25,
            "t": T0} | fields  # fmt: skip


def status(code: str, tape: str = "C") -> Message:
    """Return a trading status."""
    return {"T": "s", "S": "AAPL", "sc": code, "sm": "Message", "rc": "T1", "rm": "Reason", "t": T0, "z": tape}


def sent(out: list[Output], *, packed: bool = False) -> list[Any]:
    """Return the messages that the feed wants sent."""
    codec: Any = msgspec.msgpack if packed else msgspec.json
    return [codec.decode(output.frame) for output in out if isinstance(output, Send)]


@ENCODINGS
def test_logs_in_when_greeted_and_subscribes_when_let_in(*, packed: bool) -> None:
    """It answers in the encoding that it is greeted in, with a message for each channel."""
    feed = feed_of()
    assert sent(feed.opened(T0)) == []
    out = outputs_of(feed, {"T": "success", "msg": "connected"}, packed=packed)
    assert sent(out, packed=packed) == [{"action": "auth", "key": "PK", "secret": "secret"}]
    out = outputs_of(feed, {"T": "success", "msg": "authenticated"}, packed=packed)
    names = list(SYMBOLS)
    assert sent(out, packed=packed) == [
        {"action": "subscribe", "trades": names, "bars": names, "updatedBars": names},
        {"action": "subscribe", "quotes": names},
        {"action": "subscribe", "statuses": names},
    ]


def test_login_that_does_not_get_on_is_tried_again_and_silence_after_it_is_not() -> None:
    """Ten seconds for all of it; then hours without a word are normal."""
    feed = feed_of()
    feed.opened(T0)
    outputs_of(feed, {"T": "success", "msg": "connected"})
    assert feed.ticked(T0 + 9 * SECOND) == []
    assert feed.ticked(T0 + 10 * SECOND) == [Reconnect("no_login")]
    assert logged_in().ticked(T0 + 10_000 * SECOND) == []


@pytest.mark.parametrize("code", [400, 402, 405, 409])
def test_what_only_other_settings_can_end_is_final(code: int) -> None:
    """A wrong key, a plan, too many symbols: the reason is a word, and the advice names a variable."""
    feed = feed_of()
    feed.opened(T0)
    refused = only(outputs_of(feed, {"T": "error", "code": code, "msg": "no"}), Refused)
    assert refused.reason.replace("_", "").isalpha()
    assert "A_" in refused.advice.upper()


@pytest.mark.parametrize("code", [401, 404, 406, 407, 500])
def test_what_passes_is_tried_again(code: int) -> None:
    """Another session, time that was too short, a line that was too slow."""
    feed = feed_of()
    feed.opened(T0)
    assert not only(outputs_of(feed, {"T": "error", "code": code, "msg": "no"}), Reconnect).reason.isdigit()


@ENCODINGS
def test_product_that_the_venue_leaves_out_is_on_the_ledger(*, packed: bool) -> None:
    """WebSocket Stream: `subscription` lists every subscription there is; a later one may have it again."""
    feed = logged_in()
    out = outputs_of(feed, {"T": "subscription", "trades": ["BRK.B", "SPY"], "quotes": list(SYMBOLS)}, packed=packed)
    statuses = [(o.kind, o.symbol, o.channel, o.reason) for o in out if isinstance(o, FeedStatus)]
    assert statuses == [("unsubscribed", "AAPL", "trades", "refused"), ("gap", "AAPL", "trades", "unsubscribed")]
    assert [(o.symbol, o.valid) for o in out if isinstance(o, Trades)] == [("AAPL", False)]
    later = feed.time_passed(T0 + 120 * SECOND, T0 + 100 * SECOND)
    assert "AAPL" not in {o.symbol for o in later if isinstance(o, Trades) and o.valid}
    out = outputs_of(feed, {"T": "subscription", "trades": list(SYMBOLS), "quotes": list(SYMBOLS)}, packed=packed)
    kinds = [(o.kind, o.symbol, o.reason) for o in out if isinstance(o, FeedStatus)]
    # What was traded meanwhile is a gap of its own, which stays open for history.
    assert kinds == [("subscribed", "AAPL", ""), ("gap", "AAPL", "gap"), ("resynced", "AAPL", "")]


def test_channel_that_a_plan_lacks_costs_no_other() -> None:
    """Messages are answered in order, so that an error names its channel: here that of statuses."""
    feed = feed_of()
    feed.opened(T0)
    for message in ({"T": "success", "msg": "connected"}, {"T": "success", "msg": "authenticated"}, *answers()[:2]):
        outputs_of(feed, message)
    out = outputs_of(feed, {"T": "error", "code": 409, "msg": "insufficient subscription"})
    statuses = [(o.kind, o.symbol, o.channel) for o in out if isinstance(o, FeedStatus)]
    assert statuses == [("unsubscribed", symbol, "statuses") for symbol in SYMBOLS]
    assert not any(isinstance(output, Refused | Reconnect | Trades) for output in out)
    outputs_of(feed, trade(1))
    later = feed.time_passed(T0 + 120 * SECOND, T0 + 100 * SECOND)
    assert [(event.symbol, event.valid) for event in later if isinstance(event, Trades)] == [("AAPL", True)]


def test_channel_that_is_not_answered_is_on_the_ledger_and_requested_again() -> None:
    """Ten seconds for the answer; then trades are invalid, and nothing vouches for them until it comes."""
    feed = feed_of("AAPL")
    feed.opened(T0)
    outputs_of(feed, {"T": "success", "msg": "connected"}, ts=T0)
    outputs_of(feed, {"T": "success", "msg": "authenticated"}, ts=T0)
    out = feed.ticked(T0 + 10 * SECOND)
    statuses = [(o.kind, o.symbol, o.channel, o.reason) for o in out if isinstance(o, FeedStatus)]
    assert ("unsubscribed", "AAPL", "trades", "unacknowledged") in statuses
    assert [(event.symbol, event.valid) for event in out if isinstance(event, Trades)] == [("AAPL", False)]
    later = feed.time_passed(T0 + 15 * SECOND, T0 + 14 * SECOND)
    assert not any(event.valid for event in later if isinstance(event, Trades))
    assert {"trades", "quotes", "statuses"} <= {name for one in sent(feed.ticked(T0 + 20 * SECOND)) for name in one}


@pytest.mark.parametrize("code", [403, 405, 409, 410, 999])
def test_error_of_a_stream_that_runs_stops_nothing(code: int) -> None:
    """It is kept as a dead letter, and the stream goes on."""
    out = outputs_of(logged_in(), {"T": "error", "code": code, "msg": "no"})
    assert only(out, DeadLetter).value == str(code)
    assert not any(isinstance(output, Refused | Reconnect) for output in out)


def test_pipe_and_replay_have_no_key_and_ask_for_nothing() -> None:
    """Frames are read all the same."""
    feed = AlpacaFeed(line="alpaca/0")
    feed.opened(T0)
    for message in ({"T": "success", "msg": "connected"}, {"T": "success", "msg": "authenticated"}):
        assert outputs_of(feed, message) == []
    assert feed.ticked(T0 + 100 * SECOND) == []
    assert only(outputs_of(feed, trade()), Trades).trades


def test_live_line_without_a_key_is_refused_at_the_start() -> None:
    """The message names the variables; a replay needs none."""
    venue = find_venue("alpaca")
    with pytest.raises(SettingsError, match="APCA_API_KEY_ID and APCA_API_SECRET_KEY"):
        find_tokens(load_for_venue(venue="alpaca", source="live")[0], venue)
    assert find_tokens(load_for_venue(venue="alpaca", source="replay")[0], venue) is None


@ENCODINGS
def test_trade_is_told_with_an_id_of_its_day_and_exchange(*, packed: bool) -> None:
    """The venue restarts its ids each day and on each exchange, and does not send the aggressor."""
    out = outputs_of(logged_in(), trade(7), packed=packed)
    event = only(out, Trades)
    assert event.trades == (
        Trade(trade_id="20260810-V-7", ts_event=T0, price="150.25", size="100", side="unknown", conditions=("@",)),
    )  # fmt: skip
    instrument = only(out, Instrument)
    assert (instrument.symbol, instrument.quote_currency, instrument.kind) == ("AAPL", "USD", "equity")


def test_evening_of_new_york_is_the_same_day_though_it_is_tomorrow_in_utc() -> None:
    """At 19:30 in winter, 00:30 UTC, an id is still of the day that it was counted on."""
    ids = [only(outputs_of(logged_in(), trade(7, t=at)), Trades).trades[0].trade_id
           for at in (1_767_744_000 * SECOND, 1_767_744_000 * SECOND + 5 * 1_800 * SECOND)]  # fmt: skip
    assert ids == ["20260106-V-7", "20260106-V-7"]


@ENCODINGS
def test_correction_names_what_it_replaces_and_a_cancel_what_it_takes_back(*, packed: bool) -> None:
    """Both are trades that amend; each once."""
    correction = {"T": "c", "S": "AAPL", "x": "V", "oi": 7, "op": 150.25, "os": 100, "oc": [], "ci": 9, "cp": 150.5,
                  "cs": 90, "cc": [], "t": T0, "z": "C"}  # fmt: skip
    cancel = {"T": "x", "S": "AAPL", "i": 9, "x": "V", "p": 150.5, "s": 90, "a": "C", "t": T0, "z": "C"}
    feed = logged_in()
    trades = only(outputs_of(feed, trade(7), correction, cancel, packed=packed), Trades).trades
    assert [(t.action, t.trade_id, t.original_id, t.price, t.size) for t in trades] == [
        ("new", "20260810-V-7", "", "150.25", "100"),
        ("correct", "20260810-V-9", "20260810-V-7", "150.5", "90"),
        ("cancel", "20260810-V-9", "", "150.5", "90"),
    ]
    assert outputs_of(feed, trade(7), correction, cancel, packed=packed) == []
    assert (feed.counts["duplicates"], feed.counts["corrections"], feed.counts["cancels"]) == (3, 1, 1)


def test_json_numbers_keep_their_digits() -> None:
    """150.10 stays 150.10, an exponent is written out, and a side without a price is none."""
    frame = (
        b'[{"T":"q","S":"AAPL","bp":150.10,"bs":1,"ap":0,"as":0,"t":"2026-08-10T14:30:00Z"},'
        b'{"T":"t","S":"AAPL","i":1,"x":"V","p":1.5e2,"s":5e-3,"t":"2026-08-10T14:30:00.000000001Z"}]'
    )
    out = logged_in().received(frame, T0)
    bid = only(out, Quote)
    assert (bid.bid, bid.ask, bid.ask_size) == ("150.10", None, None)
    only_trade = only(out, Trades).trades[0]
    assert (only_trade.price, only_trade.size, only_trade.ts_event) == ("150", "0.005", T0 + 1)


@given(seconds=st.integers(TS_MIN // SECOND, 9_000_000_000), nanoseconds=st.integers(0, SECOND - 1))
@QUICK
def test_msgpack_times_of_every_length_are_read_to_the_nanosecond(seconds: int, nanoseconds: int) -> None:
    """Four bytes of seconds, eight with nanoseconds, twelve for any year."""
    forms = [struct.pack(">Iq", nanoseconds, seconds), struct.pack(">Q", nanoseconds << 34 | seconds)]
    if not nanoseconds and seconds < 2**32:
        forms.append(struct.pack(">I", seconds))
    for data in forms:
        message = quote(t=msgspec.msgpack.Ext(-1, data))
        ts = seconds * SECOND + nanoseconds
        event = only(logged_in().received(msgspec.msgpack.encode([message]), ts), Quote)
        assert event.ts_event == ts


@ENCODINGS
def test_bar_is_the_venues_candle_and_an_updated_one_its_next_revision(*, packed: bool) -> None:
    """Final first, then revised, as often as it is sent again."""
    feed = logged_in()
    first = only(outputs_of(feed, bar(), packed=packed), Candle)
    assert (first.interval, first.start, first.end) == ("1m", T0, T0 + 60 * SECOND)
    assert (first.open, first.high, first.low, first.close, first.volume) == ("150", "151", "149.5", "150.5", "1200")
    assert (first.trades, first.quote_volume, first.state, first.revision) == (17, "180300", "final", 0)
    for revision in (1, 2):
        again = only(outputs_of(feed, bar("u", v=1300), packed=packed), Candle)
        assert (again.state, again.revision, again.volume, again.key) == ("revised", revision, "1300", first.key)
    assert only(outputs_of(feed, bar(h=100)), DeadLetter).reason == "not_a_candle"


@pytest.mark.parametrize(("tape", "codes"), [("C", "HQT"), ("O", "PQT"), ("A", "2-3"), ("B", "2-3")])
def test_halt_and_resume_are_told_in_each_stream(tape: str, codes: str) -> None:
    """Whatever is said of a symbol that is halted is marked so; on tape C quotes alone are no trading yet."""
    feed = logged_in()
    outputs_of(feed, trade(1), quote())
    out = outputs_of(feed, status(codes[0], tape))
    halted = only(out, FeedStatus)
    assert (halted.kind, halted.detail) == ("halted", f"{codes[0]} Message; T1 Reason")
    assert (only(out, Trades).valid, only(out, Trades).reason) == (False, "halted")
    assert only(outputs_of(feed, quote(bp=1)), Quote).reason == "halted"
    if codes[1] == "Q":
        assert only(outputs_of(feed, status("Q", tape)), Instrument).status == "auction"
        assert only(outputs_of(feed, quote(bp=2)), Quote).reason == "halted"
    out = outputs_of(feed, status(codes[2], tape))
    assert only(out, FeedStatus).kind == "resumed"
    assert only(outputs_of(feed, quote(bp=3)), Quote).valid


def test_statuses_of_other_things_change_nothing_and_unknown_ones_are_kept() -> None:
    """An imbalance is no halt; a code that no document knows is a dead letter, also on a tape that has no such code."""
    feed = logged_in()
    outputs_of(feed, quote())
    assert outputs_of(feed, status("7", "A")) == []
    assert only(outputs_of(feed, status("2", "C")), DeadLetter).reason == "unknown_status"
    assert only(outputs_of(feed, status("2", "?")), DeadLetter).reason == "unknown_tape"


def test_symbols_and_messages_that_nobody_asked_for_are_counted_and_left_out() -> None:
    """The venue may add message types at any time; channels that exist are known, others become dead letters."""
    feed = logged_in("AAPL")
    assert outputs_of(feed, trade(S="MSFT")) == []
    assert outputs_of(feed, {"T": "l", "S": "AAPL", "u": 3.2, "d": 2.6, "i": "B", "t": T0, "z": "C"}) == []
    assert feed.counts["ignored"] == 2
    assert only(outputs_of(feed, {"T": "z", "S": "AAPL"}), DeadLetter).reason == "unknown_frame"
    assert only(outputs_of(AlpacaFeed(line="x"), trade(S="<script>")), DeadLetter).reason == "bad_symbol"


def test_one_bad_message_does_not_cost_its_neighbours() -> None:
    """The trade between two others is missing: that is stated in their stream and on the ledger."""
    feed = logged_in()
    outputs_of(feed, trade(1))
    out = outputs_of(feed, trade(2), trade(3, p="NaN"), trade(4))
    assert [[t.trade_id[-1] for t in event.trades] for event in out if isinstance(event, Trades)] == [["2"], [], ["4"]]
    assert only(out, DeadLetter).field == "p"
    gap = only(out, FeedStatus)
    assert (gap.kind, gap.channel, gap.symbol) == ("gap", "trades", "AAPL")


@ENCODINGS
@pytest.mark.parametrize(("kind", "field", "value", "named"), [
    ("trade", "p", 0, "price"), ("trade", "p", -1, "price"), ("trade", "s", 0, "size"), ("trade", "s", -2.5, "size"),
    ("quote", "bp", -1, "bp"), ("quote", "as", -1, "as"), ("bar", "vw", -150.25, "vw"), ("bar", "v", -1, "v"),
    ("bar", "n", 2**63, "n"),
])  # fmt: skip
def test_value_that_consumers_would_refuse_is_a_dead_letter(
    kind: str, field: str, value: float, named: str, *, packed: bool
) -> None:
    """Nothing of the message is published, and where it was a trade its stream says that one is missing."""
    feed = logged_in()
    outputs_of(feed, trade(1))
    message = {"trade": trade(2), "quote": quote(), "bar": bar()}[kind] | {field: value}
    out = outputs_of(feed, message, packed=packed)
    assert only(out, DeadLetter).field == named
    assert not any(isinstance(output, Quote | Candle) for output in out)
    assert [event.trades for event in out if isinstance(event, Trades)] == ([()] if kind == "trade" else [])


def test_lost_connection_makes_quotes_old_and_leaves_a_hole_in_the_trades() -> None:
    """The quote follows as not valid; after it is subscribed again trades go on, with a gap on the ledger."""
    feed = logged_in()
    outputs_of(feed, trade(1), quote())
    out = feed.closed("reset", T0 + 5 * SECOND)
    assert (only(out, Quote).valid, only(out, Quote).reason, only(out, Quote).bid) == (False, "disconnected", "150.2")
    assert [event.kind for event in out if isinstance(event, FeedStatus)] == ["disconnected", "gap"]
    feed.opened(T0 + 6 * SECOND)
    out = outputs_of(feed, {"T": "subscription", "trades": list(SYMBOLS)}, ts=T0 + 7 * SECOND)
    assert (only(out, Trades).valid, only(out, Trades).reason) == (False, "gap")
    gap = only(out, FeedStatus)
    assert (gap.kind, gap.channel, gap.ts_from, gap.ts_to) == ("gap", "trades", T0, T0 + 7 * SECOND)
    assert only(outputs_of(feed, quote(bp=150.22)), FeedStatus).kind == "resynced"
    later = outputs_of(feed, trade(2, t=T0 + 8 * SECOND), trade(3, t=T0 + 9 * SECOND), ts=T0 + 9 * SECOND)
    claims = [event.complete_from for event in later if isinstance(event, Trades)]
    assert all(since is None or since >= T0 + 7 * SECOND for since in claims), "what was missed is not complete"


def test_halt_that_may_have_ended_meanwhile_is_forgotten() -> None:
    """Nothing says after a new connection whether a symbol trades again: it is unknown, which spoils no value."""
    feed = logged_in()
    outputs_of(feed, quote(), status("H"))
    feed.closed("reset", T0 + 5 * SECOND)
    feed.opened(T0 + 6 * SECOND)
    out = outputs_of(feed, {"T": "subscription", "trades": list(SYMBOLS)})
    assert (only(out, Instrument).status, only(out, FeedStatus).kind) == ("unknown", "resumed")
    assert only(outputs_of(feed, quote(bp=150.1)), Quote).valid


# --- Whatever happens to a frame ---


def frames(*, packed: bool, steps: int = 400) -> list[bytes]:
    """Return frames of a generated market, a few messages each, with some of every kind."""
    market = Market(SYMBOLS, seed=3)
    told_all = [message for step in range(steps) for message in market.step(T0 + step * SECOND)]
    assert {message["T"] for message in told_all} == set("tqbuscx")
    return [encode(told_all[at : at + 3], packed=packed) for at in range(0, len(told_all), 3)]


FRAMES = {packed: frames(packed=packed) for packed in (False, True)}
RECEIVED = T0 + 500 * SECOND


def played(lines: list[bytes]) -> tuple[AlpacaFeed, list[Output]]:
    """Play frames, each event through Avro."""
    feed = logged_in()
    out = [output for line in lines for output in feed.received(line, RECEIVED)]
    for output in out:
        if isinstance(output, EVENTS):
            assert CODEC.decode(CODEC.encode(output)) == output
    return feed, out


def trade_ids(out: list[Output]) -> list[str]:
    """Return the actions and ids of trades."""
    return [f"{t.symbol} {one.action} {one.trade_id}" for t in out if isinstance(t, Trades) for one in t.trades]


@ENCODINGS
def test_generated_frames_are_read_without_a_loss_and_always_the_same(*, packed: bool) -> None:
    """No dead letter, no gap; the feed reads no clock and no chance."""
    feed, out = played(FRAMES[packed])
    assert [feed.counts[name] for name in ("dead_letters", "gaps", "duplicates", "ignored")] == [0] * 4
    assert out == played(FRAMES[packed])[1]


@ENCODINGS
@QUICK
@given(data=st.data())
def test_lost_doubled_and_swapped_frames_tell_no_trade_twice(*, packed: bool, data: st.DataObject) -> None:
    """Nothing raises, and nothing is published that the whole stream would not give."""
    lines = FRAMES[packed]
    places = data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=20, max_size=40))
    _, out = played([lines[place] for place in places])
    ids = trade_ids(out)
    assert len(ids) == len(set(ids))
    assert set(ids) <= set(trade_ids(played(lines)[1]))


@ENCODINGS
@QUICK
@given(data=st.data())
def test_spoilt_frame_is_a_dead_letter_and_lost_trades_are_told(*, packed: bool, data: st.DataObject) -> None:
    """Bytes cut, overwritten or put before: the frame is kept, and where a trade is lost its stream says so."""
    lines = list(FRAMES[packed][:40])
    place = data.draw(st.integers(20, len(lines) - 1))
    whole = lines[place]
    cut = data.draw(st.integers(0, len(whole) - 1))
    lines[place] = data.draw(st.sampled_from([whole[:cut], whole[:cut] + b"\xff" + whole[cut + 1 :], b"\x00" + whole]))
    feed, out = played(lines)
    if feed.counts["dead_letters"] and set(trade_ids(played([whole])[1])) - set(trade_ids(out)):
        marks = [event for event in out if isinstance(event, Trades) and not event.valid and event.reason == "gap"]
        assert marks, "trades were lost, and their stream does not say so"


@QUICK
@given(junk=st.binary(max_size=200))
def test_any_bytes_at_all_raise_nothing(junk: bytes) -> None:
    """What is no frame is a dead letter, or the empty array that it says it is."""
    _, out = played([junk])
    events: list[AnyEvent] = [output for output in out if isinstance(output, DeadLetter)]
    assert len(out) == len(events) <= 1 or junk[:1] in {b"[", b"\x90"}

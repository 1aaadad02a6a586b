"""Databento's live gateway, message by message: login, subscriptions, losses, and what is requested after them."""

from __future__ import annotations

import hashlib

import databento_dbn as codec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata import dbn
from marketdata.errors import SettingsError
from marketdata.events import (
    AnyEvent,
    BookUpdate,
    Candle,
    DeadLetter,
    FeedStatus,
    Trades,
)
from marketdata.feed import Reconnect, Refused
from producers.live.settings import find_tokens, load_for_venue
from producers.venues.databento.feed import SILENCE_NS, DatabentoFeed
from producers.venues.databento.gateway import Login, Position, Session, Splitter, start_of
from producers.venues.kit.venue import FrameError
from tests.producers.databento_records import (
    ESM4,
    KEY,
    NANO,
    TS,
    acknowledged,
    bar,
    books,
    connect,
    fold,
    live,
    metadata,
    order,
    play,
    trade,
)


@pytest.mark.parametrize(("kind", "interval", "length"), [
    (dbn.OHLCV_1M, "1m", 60), (dbn.OHLCV_1H, "1h", 3_600), (dbn.OHLCV_1D, "1d", 86_400),
])  # fmt: skip
def test_bars_of_the_gateway_are_candles_of_the_venue(kind: int, interval: str, length: int) -> None:
    """Final, labelled by their start; a bar that is none is a dead letter, and costs nothing else."""
    feed = live(("ohlcv-1m", "ohlcv-1h", "ohlcv-1d"))
    start = TS // (length * NANO) * length * NANO
    out = feed.received(bar(kind, start=start) + bar(kind, start=start + NANO, low=4 * NANO), TS + NANO)
    (candle,) = [event for event in out if isinstance(event, Candle)]
    assert (candle.open, candle.high, candle.low, candle.close, candle.volume) == ("1", "3", "0.5", "2", "12")
    assert (candle.interval, candle.start, candle.end, candle.state, candle.valid) == (
        interval, start, start + length * NANO, "final", True)  # fmt: skip
    assert [event.reason for event in out if isinstance(event, DeadLetter)] == ["not_a_candle"]
    assert not [event for event in out if isinstance(event, FeedStatus | Reconnect)]


def system(code: int, ts: int = TS) -> bytes:
    """Return a message of the gateway's."""
    return bytes(codec.SystemMsg(ts, "", codec.SystemCode(code)))


def test_a_challenge_is_answered_without_sending_the_key() -> None:
    """SHA-256 of `challenge|key`, a dash, the key's last five characters; then subscriptions, then the start."""
    feed = DatabentoFeed(line="databento/0", products=("ESM4",), token=Login(KEY, Session()))
    answer, *subscriptions, start = connect(feed)
    assert answer.startswith(f"auth={hashlib.sha256(f'abc|{KEY}'.encode()).hexdigest()}-{KEY[-5:]}|dataset=GLBX.MDP3|")
    assert KEY not in answer
    assert [one.split("|")[0] for one in subscriptions] == ["schema=mbo", "schema=status", "schema=definition"]
    assert "|snapshot=1|" in subscriptions[0]
    assert "|snapshot=0|" in subscriptions[1]
    assert start == "start_session=0\n"
    assert Login(KEY, Session()).redact(answer.encode()).startswith(b"auth=<answer>|")


def test_who_is_refused_does_not_try_again() -> None:
    """A wrong key and a bad subscription are final; too many connections pass."""
    feed = live()
    assert isinstance(feed.received(system(0), TS), list)
    feed = DatabentoFeed(line="databento/0", token=Login(KEY, Session()))
    feed.opened(TS)
    (refused,) = feed.received(b"success=0|error=Authentication failed.\n", TS)
    assert isinstance(refused, Refused)
    assert refused.reason == "auth_failed"
    feed.opened(TS)
    published = feed.received(b"success=0|error=User has reached their open connection limit\n", TS)
    assert [type(out) for out in published] == [FeedStatus, Reconnect]
    error = bytes(codec.ErrorMsg(TS, "bad symbols", code=codec.ErrorCode(5)))
    assert [type(out) for out in live().received(error, TS)] == [DeadLetter, Refused]
    many = bytes(codec.ErrorMsg(TS, "too many", code=codec.ErrorCode(3)))
    assert isinstance(live().received(many, TS)[-1], Reconnect)


def test_a_symbol_that_does_not_exist_and_a_warning_cost_nothing() -> None:
    """Both are kept, and the records go on."""
    feed = live()
    unresolved = bytes(codec.ErrorMsg(TS, "no NOSUCH", code=codec.ErrorCode(4)))
    assert [type(out) for out in feed.received(unresolved, TS)] == [DeadLetter]
    assert feed.received(system(2), TS) == []
    assert feed.counts["slow_reader"] == 1
    assert fold(play(feed, order("R")))[1]


def test_records_that_the_gateway_skipped_are_asked_for_again() -> None:
    """We were too slow: everything is lost until the records since have come."""
    feed = live()
    play(feed, order("R"), order("A", 1, 100, 1, side="B"))
    published = feed.received(bytes(codec.ErrorMsg(TS, "skipped", code=codec.ErrorCode(7))) + order("C", 1, 100, 1), TS)
    assert isinstance(published[-1], Reconnect)
    assert not fold([out for out in published if isinstance(out, AnyEvent)])[1]
    feed.closed("loss", TS)
    assert f"|start={TS}|" in connect(feed)[1]


def test_record_of_a_far_future_hides_nothing_of_the_next_connection() -> None:
    """It is refused like any record that cannot be right, and says nothing of how far the records were read."""
    feed = live(("trades",))
    published = play(feed, trade(ts=TS), trade(ts=2 * TS))
    assert [event.reason for event in published if isinstance(event, DeadLetter)] == ["time_out_of_bounds"]
    statuses = [event for event in [*published, *feed.closed("loss", TS)] if isinstance(event, FeedStatus)]
    assert [event.kind for event in statuses] == ["gap", "disconnected"]
    assert all(event.ts_event <= TS for event in statuses)
    assert "|start=" not in connect(feed)[1]
    published = play(feed, trade(ts=TS + 1))
    assert [event.ts_event for event in published if isinstance(event, Trades) and event.trades] == [TS + 1]


def test_settings_that_the_gateway_cannot_be_asked_with_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No key, or schemas that bring the same trades; a replay needs neither."""
    monkeypatch.setenv("TICKSTREAM_VENUE", "databento")
    monkeypatch.setenv("DATABENTO_PRODUCTS", "ES.c.0")
    monkeypatch.setenv("DATABENTO_DATASET", "XNAS.ITCH")
    settings, venue = load_for_venue()
    with pytest.raises(SettingsError, match="DATABENTO_API_KEY"):
        find_tokens(settings, venue)
    monkeypatch.setenv("DATABENTO_API_KEY", KEY)
    settings, venue = load_for_venue()
    login = find_tokens(settings, venue)
    assert isinstance(login, Login)
    assert (login.session.dataset, settings.products_of(venue)) == ("XNAS.ITCH", ("ES.c.0",))
    assert settings.address_of(venue) == "tcp://xnas-itch.lsg.databento.com:13000"
    assert KEY not in repr(settings)
    monkeypatch.setenv("DATABENTO_SCHEMAS", "mbo,trades")
    settings, venue = load_for_venue()
    with pytest.raises(SettingsError, match="DATABENTO_SCHEMAS"):
        find_tokens(settings, venue)
    monkeypatch.setenv("TICKSTREAM_SOURCE", "replay")
    settings, venue = load_for_venue()
    assert isinstance(find_tokens(settings, venue), Login)


def test_after_a_disconnect_the_records_since_are_asked_for_and_those_before_left_out() -> None:
    """From the last time on, without as many records as had it; the book is whole again at the first that is new."""
    feed = live()
    first = [order("R"), order("A", 1, 100, 1, side="B", ts=TS + 5), order("A", 2, 100, 2, side="B", ts=TS + 5)]
    play(feed, *first)
    assert [
        event.kind for event in books(event for event in feed.closed("reset", TS) if isinstance(event, AnyEvent))
    ] == ["clear"]
    sent = connect(feed)
    assert f"|start={TS + 5}|" in sent[1]
    assert not books(play(feed, *first[1:]))
    events = play(feed, order("A", 3, 100, 4, side="B", ts=TS + 5), system(3))
    assert [(event.kind, event.bid_sizes) for event in books(events)] == [("snapshot", ["7"])]
    assert [event.kind for event in events if isinstance(event, FeedStatus)] == ["resynced"]
    assert feed.counts["duplicates"] == 2


def test_a_quiet_book_is_good_again_when_the_gateway_has_told_everything() -> None:
    """Nothing new came: the end of the replay, or a heartbeat, vouches for it."""
    for word in (system(3), system(0)):
        feed = live()
        play(feed, order("R"), order("A", 1, 100, 1, side="B"))
        feed.closed("reset", TS)
        connect(feed)
        events = play(feed, order("R"), order("A", 1, 100, 1, side="B"), word)
        assert [event.kind for event in books(events)][:1] == ["snapshot"]
        assert fold([event for event in events if not (isinstance(event, BookUpdate) and event.kind == "heartbeat")])[1]


def test_records_that_do_not_come_again_mean_a_snapshot() -> None:
    """What was read before is missing from what is sent again: nothing can be joined, so it starts over."""
    feed = live()
    play(feed, order("R"), order("A", 1, 100, 1, side="B"), order("T", 0, 100, 1))
    feed.closed("reset", TS)
    connect(feed)
    published = feed.received(order("A", 2, 100, 1, side="B", ts=TS + 9), TS)
    assert isinstance(published[-1], Reconnect)
    published = feed.closed("loss", TS)
    assert "|snapshot=1|" in connect(feed)[1]


def test_a_gateway_that_no_longer_keeps_the_records_is_asked_for_a_snapshot() -> None:
    """Too long away: the trades between stay a gap."""
    feed = live()
    play(feed, order("R"), order("T", 0, 100, 1))
    feed.closed("reset", TS)
    connect(feed)
    published = feed.received(bytes(codec.ErrorMsg(TS, "aged out", code=codec.ErrorCode(8))), TS)
    assert isinstance(published[-1], Reconnect)
    feed.closed("too_long_away", TS)
    assert "start=" not in connect(feed)[1].replace("start_session", "")


def test_silence_is_a_dead_connection() -> None:
    """After two heartbeats and a half: books are stale, the connection is given up, once."""
    feed = live()
    play(feed, order("R"))
    assert not feed.ticked(TS + SILENCE_NS)
    published = feed.ticked(TS + SILENCE_NS + 1)
    assert [event.reason for event in books(out for out in published if isinstance(out, AnyEvent))] == ["stale"]
    assert isinstance(published[-1], Reconnect)
    assert not feed.ticked(TS + 2 * SILENCE_NS)


def test_a_schema_that_is_not_acknowledged_is_on_the_ledger_until_it_is() -> None:
    """Ten seconds for the acknowledgement; then its books and trades are invalid, and nothing vouches for them."""
    feed = DatabentoFeed(line="databento/0", products=("ESM4",), token=Login(KEY, Session(schemas=("mbo", "status"))))
    connect(feed)
    play(feed, order("R"), order("T", 0, 100, 1))
    feed.closed("reset", TS)
    connect(feed, refused="mbo")
    play(feed, order("R"), order("T", 0, 100, 1))  # those that were read before
    events = [out for out in feed.ticked(TS + 10 * NANO) if isinstance(out, AnyEvent)]
    statuses = [(event.kind, event.channel, event.reason) for event in events if isinstance(event, FeedStatus)]
    assert statuses == [("unsubscribed", "mbo", "unacknowledged")]
    events += play(feed, system(0, TS + 10 * NANO), ts=TS + 10 * NANO)
    events += [out for out in feed.time_passed(TS + 70 * NANO, TS + 62 * NANO) if isinstance(out, AnyEvent)]
    assert not any(event.valid for event in events if isinstance(event, Trades))
    events = play(feed, acknowledged("mbo"), system(0, TS + 72 * NANO), ts=TS + 72 * NANO)
    assert next(event.kind for event in events if isinstance(event, FeedStatus)) == "subscribed"
    assert any(event.valid for event in events if isinstance(event, Trades))


def test_a_login_that_does_not_get_on_is_tried_again() -> None:
    """The gateway greets, and then neither lets us in nor refuses."""
    feed = DatabentoFeed(line="databento/0", token=Login(KEY, Session()))
    feed.opened(TS)
    feed.received(b"cram=abc\n", TS + SILENCE_NS - 1)
    assert feed.ticked(TS + SILENCE_NS) == [Reconnect("no_login")]


def test_a_position_drops_exactly_what_was_seen() -> None:
    """As many records of the last time as were seen, and what is older."""
    position = Position()
    assert [position.take(ts) for ts in (1, 2, 2)] == ["new"] * 3
    position.resume(2)
    assert [position.take(ts) for ts in (1, 2, 2, 2, 3)] == ["old", "old", "old", "new", "new"]
    position.resume(3)
    assert position.take(4) == "lost"
    quiet = Position()
    quiet.take(5)
    assert start_of([position, quiet]) == 3
    assert start_of([]) is None


@given(st.lists(st.integers(1, 90), max_size=12))
@settings(max_examples=20, deadline=None)
def test_frames_are_the_same_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    """Lines, the metadata, then whole records, whatever TCP makes of them."""
    head = metadata(ESM4)
    stream = b"cram=abc\nsuccess=1|session_id=2\n" + head + order("R") + trade() + order("A", 1, 5, 6)
    splitter, frames, rest = Splitter(), [], stream
    for cut in [*cuts, len(stream)]:
        frames += list(splitter.split(rest[:cut]))
        rest = rest[cut:]
    assert frames[:3] == [b"cram=abc\n", b"success=1|session_id=2\n", head]
    assert b"".join(frames) == stream
    with pytest.raises(FrameError):
        list(splitter.split(b"\0\0"))


@pytest.mark.parametrize(
    ("schemas", "refused"),
    [(("mbo", "status"), False), (("mbo", "trades"), True), (("mbo", "nosuch"), True), ((), True)],
)
def test_what_brings_the_same_trades_twice_is_refused(schemas: tuple[str, ...], *, refused: bool) -> None:
    """One schema with trades at most, and none that does not exist."""
    assert (Session(schemas=schemas).refusal() is not None) == refused

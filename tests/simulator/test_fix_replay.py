"""Recorded FIX sessions played over FIX: our own line receives what the recording holds, whatever is wrong with it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from pathlib import Path

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.simulator.replay.fix import Acceptor, Sessions
from infra.simulator.replay.server import Replay, can_play, player
from infra.simulator.venues.fix.server import FixVenue, recorded
from marketdata.book import L2Book
from marketdata.errors import CodecError
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, FeedStatus, RawFrame, Trades
from marketdata.feed import Output, Reconnect, Send
from marketdata.fix.codec import decode, encode, utc
from marketdata.fix.split import FixSplitter
from marketdata.fix.steps import END_REASON, Identity
from producers.live.connection import Connection, Options
from producers.venues import make_feed
from producers.venues.fix.login import FixLogin
from runtime.recordings import Recorded, write

SECOND = 1_000_000_000
START = 1_786_309_500 * SECOND
LIMIT_S = 60.0
SYMBOLS = ("BTC-USD", "EUR/USD")
LOGIN = FixLogin(senders=("ME",), target="YOU", begin="FIXT.1.1", heartbeat_s=30, reset=True, recorded=True)

Lines = list[tuple[int, bytes]]


def session(*, seed: int = 1, moves: int = 60) -> Lines:
    """Return a recorded session of the simulated venue."""
    venue = FixVenue(Identity(sender="THEM", target="US"), SYMBOLS, seed=seed, by="id", fragment=4)
    return list(recorded(venue, moves, START))


class Received:
    """Follows what a feed tells, as consumers do."""

    def __init__(self) -> None:
        self.trades: list[str] = []
        self.books: dict[str, L2Book] = {}
        self.valid: dict[str, bool] = {}
        self.kinds: list[str] = []
        self.letters = 0

    def take(self, events: Iterable[Output]) -> None:
        """Take what came of a frame."""
        for event in events:
            if isinstance(event, Trades):
                self.trades += [trade.trade_id for trade in event.trades]
            elif isinstance(event, BookUpdate):
                book = self.books.setdefault(event.symbol, L2Book())
                if event.kind in {"snapshot", "clear"}:
                    book.clear()
                book.bids.apply(event.bid_prices, event.bid_sizes)
                book.asks.apply(event.ask_prices, event.ask_sizes)
                self.valid[event.symbol] = event.kind != "clear"
            elif isinstance(event, FeedStatus):
                self.kinds.append(event.kind)
            self.letters += isinstance(event, DeadLetter)

    def view(self) -> tuple[list[str], dict[str, bool], dict[str, object], int]:
        """Return what has to be the same, whatever way it was received."""
        levels: dict[str, object] = {
            symbol: (book.bids.top(None), book.asks.top(None)) for symbol, book in self.books.items()
        }
        return sorted(self.trades), self.valid, levels, self.letters

    async def write(self, line: str, events: Iterable[AnyEvent], t_recv: int, raw: RawFrame | None = None) -> None:
        """Be a connection's sink."""
        self.take(events)


def received_directly(lines: Lines) -> Received:
    """Return what a feed makes of a recording by itself."""
    received, feed = Received(), make_feed("fix")
    received.take(feed.opened(START))
    for ts, frame in lines:
        received.take(feed.received(frame, ts))
    return received


def received_from(acceptor: Acceptor, lines: Lines) -> tuple[Received, list[Output]]:
    """Return what a feed makes of a recording that is played to it, and what it wanted done at the end."""
    received, feed = Received(), make_feed("fix", token=LOGIN)

    def talk(out: list[Output], ts: int) -> list[Output]:
        received.take(out)
        for frame in [answer for one in out if isinstance(one, Send) for answer in acceptor.received(one.frame)]:
            talk(feed.received(frame, ts), ts)
        return out

    talk(feed.opened(START), START)
    for ts, frame in lines:
        for sent in acceptor.play(frame):
            assert not [one for one in talk(feed.received(sent, ts), ts) if isinstance(one, Reconnect)]
    return received, talk(feed.received(acceptor.end(END_REASON), START), START)


def test_a_recording_goes_out_as_it_was_but_for_the_names() -> None:
    """Byte for byte where they are the same; numbers and times are the recorded ones, and the client learns the end."""
    lines = session()
    acceptor, same = Acceptor(), Acceptor()
    received, end = received_from(acceptor, lines)
    assert received.view() == received_directly(lines).view()
    assert len(received.trades) > 10
    assert received.letters == 0
    assert "gap" not in received.kinds
    assert [one for one in end if not isinstance(one, Send)] == [Reconnect(END_REASON)]
    logon = encode(
        "FIX.4.4", [(35, "A"), (49, "US"), (56, "THEM"), (34, "1"), (52, utc(START)), (98, "0"), (108, "30")]
    )
    assert [decode(frame).get(141) for frame in same.received(logon)] == ["Y"]
    assert [sent for _, frame in lines for sent in same.play(frame)] == [frame for _, frame in lines[1:]]


def marked(frame: bytes, ts: int) -> bytes:
    """Return a frame as one that is sent again."""
    fields = decode(frame).fields
    return encode("FIX.4.4", [*fields[:4], (43, "Y"), *fields[4:], (122, utc(ts))])


def disturbed(lines: Lines, harm: str, place: int) -> tuple[Lines, frozenset[int]]:
    """Return a recording of which one frame came to harm, and the numbers that come again in it."""
    ts, frame = lines[place]
    number = decode(frame).number(34) or 0
    before, behind = lines[:place], lines[place + 1 :]
    what = {
        "none": [(ts, frame)],
        "lose": [],
        "spoil": [(ts, frame[:-9])],
        "double": [(ts, frame), (ts, marked(frame, ts))],
        "mend": [*behind[:2], (ts, marked(frame, ts))],
    }[harm]
    behind = behind[2:] if harm == "mend" else behind
    later = [(at + 5 * SECOND, frame) for at, frame in behind[5:]]
    return [*before, *what, *behind[:5], *later], frozenset({number} if harm in {"double", "mend"} else ())


@settings(max_examples=20, deadline=None)
@given(
    start=st.sampled_from([0, 1, 4]),
    harm=st.sampled_from(["none", "lose", "spoil", "double", "mend"]),
    place=st.integers(12, 50),
    ending=st.sampled_from(["no", "logout", "cut"]),
)
def test_whatever_is_wrong_with_a_recording_is_sent_as_it_is(start: int, harm: str, place: int, ending: str) -> None:
    """Frames that are lost, spoilt, doubled or sent again later; sessions that begin late, or end and start again."""
    lines, later = disturbed(session()[start:], harm, place)
    ts, last = lines[-1]
    if ending == "logout":
        names = [(35, "5"), (49, "THEM"), (56, "US"), (34, str((decode(last).number(34) or 0) + 1)), (52, utc(ts))]
        lines.append((ts, encode("FIX.4.4", names)))
    if ending != "no":
        lines += [(at + 60 * SECOND, frame) for at, frame in session(seed=2, moves=30)]
    received, _ = received_from(Acceptor(later), lines)
    assert received.view() == received_directly(lines).view()
    assert received.letters == (harm == "spoil")
    assert len(received.trades) > 10
    if harm not in {"lose", "spoil"}:
        assert all(received.valid.values()), "nothing is missing in the end"


def test_a_recording_with_many_holes_is_heard_once() -> None:
    """A venue would be left after so many losses; a recording would only begin again."""
    lines = [line for number, line in enumerate(session()) if number < 12 or number % 9]
    received, _ = received_from(Acceptor(), lines)
    assert received.kinds.count("gap") > 2


def test_a_message_without_a_number_does_not_end_the_session() -> None:
    """It is reported as what cannot be read, and what follows is received."""
    lines = session()
    lines.insert(20, (lines[20][0], encode("FIX.4.4", [(35, "X"), (49, "THEM"), (56, "US"), (52, utc(START))])))
    received, _ = received_from(Acceptor(), lines)
    assert received.letters == 1
    assert received.view() == received_directly(lines).view()


def test_a_question_and_silence_are_answered_without_a_number() -> None:
    """SequenceReset to the number that is due changes nothing, and what is asked for again is marked."""
    lines = session()
    acceptor = Acceptor()
    received_from(acceptor, lines)
    due = (decode(lines[-1][1]).number(34) or 0) + 1
    question = encode("FIXT.1.1", [(35, "1"), (49, "ME"), (56, "YOU"), (34, "9"), (52, utc(START)), (112, "there?")])
    (beat,) = [decode(frame) for frame in acceptor.received(question)]
    assert (beat.kind, beat.get(36), beat.get(123)) == ("4", str(due), "")
    again = encode("FIXT.1.1", [(35, "2"), (49, "ME"), (56, "YOU"), (34, "9"), (52, utc(START)), (7, "5"), (16, "6")])
    answers = [decode(frame) for frame in acceptor.received(again)]
    assert [(one.get(34), one.get(43), one.get(122)) for one in answers] == [
        (str(number), "Y", one.get(52)) for number, one in zip((5, 6), answers, strict=True)]  # fmt: skip


@pytest.mark.parametrize("files", [1, 2])
def test_lines_hear_the_recording_over_tcp(tmp_path: Path, files: int) -> None:
    """As the producer makes them; each its own file, at full speed, and each knows when it is over."""
    lines = session()
    paths = [tmp_path / f"{number}.jsonl.zst" for number in range(files)]
    for path in paths:
        write(path, [Recorded("recv", ts, None, frame.decode()) for ts, frame in lines])

    async def scenario() -> None:
        replay = player(paths, venue="fix", speed=math.inf, loop=False)
        async with replay.serve("127.0.0.1", 0), asyncio.timeout(LIMIT_S):
            assert isinstance(replay, Replay)
            options = Options(ws_url=f"tcp://127.0.0.1:{replay.port}", rest_url="http://127.0.0.1:9", replay=True,
                              splitter=FixSplitter)  # fmt: skip
            results = [Received() for _ in paths]
            running = [Connection(make_feed("fix", line=f"fix/{n}", token=LOGIN), f"fix/{n}", received, options)
                       for n, received in enumerate(results)]  # fmt: skip
            tasks = [asyncio.create_task(line.run()) for line in running]
            await asyncio.gather(*(line.ended.wait() for line in running))
            assert [received.view() for received in results] == [received_directly(lines).view()] * files
            assert replay.finished == files
            for line in running:
                line.stop()
            await asyncio.gather(*tasks)

    uvloop.run(scenario())


def test_what_is_no_fix_is_not_played(tmp_path: Path) -> None:
    """It is said before anybody connects."""
    write(tmp_path / "other.jsonl.zst", [Recorded("recv", START, None, '{"type": "ticker"}')])
    with pytest.raises(CodecError, match="no FIX message"):
        Sessions([tmp_path / "other.jsonl.zst"])
    assert can_play("fix", "tcp")

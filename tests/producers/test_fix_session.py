"""The FIX session: two sides agree despite lost frames, corrupt frames and disconnects; and each rule by itself."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from marketdata.fix.codec import Fields, Message, decode, encode, framed, utc
from marketdata.fix.outgoing import REJECT
from marketdata.fix.session import Session
from marketdata.fix.steps import (
    Ended,
    HeartbeatReceived,
    Identity,
    LoggedOn,
    Lost,
    Received,
    Recovered,
    Repeated,
    ResendConfirmed,
    Sent,
    Skipped,
    Step,
    Unreadable,
)

SECOND = 1_000_000_000
START = 1_786_309_500 * SECOND
OURS = Identity(sender="US", target="THEM", reset=False, heartbeat_s=10)
THEIRS = Identity(sender="THEM", target="US", reset=False, heartbeat_s=10)


class Side:
    """One side: its session, the frames in transit, and what the application received."""

    def __init__(self, identity: Identity, *, acceptor: bool) -> None:
        self.session = Session(identity, acceptor=acceptor)
        self.line: deque[bytes] = deque()
        self.got: list[str] = []
        self.sent: list[str] = []
        self.lost = False
        self.ended = True

    def take(self, steps: list[Step]) -> None:
        """Apply the session's steps, and check that it keeps its guarantees."""
        for step in steps:
            if isinstance(step, Sent):
                self.line.append(step.frame)
            elif isinstance(step, Received) and step.message.kind != REJECT:
                self.got.append(step.message.get(58))
            elif isinstance(step, Lost):
                assert not self.lost, "a loss was reported twice"
                self.lost = True
            elif isinstance(step, Recovered):
                assert self.lost, "recovered without a loss"
                self.lost = False
            elif isinstance(step, Skipped):
                assert self.lost, "numbers were skipped without a reported loss"
            elif isinstance(step, Ended):
                self.ended = True
        assert self.ended or self.session.is_complete != self.lost


class TwoSides(RuleBasedStateMachine):
    """Both sides send; frames are lost or corrupted, and connections break with frames in transit."""

    def __init__(self) -> None:
        super().__init__()
        self.ts = START
        self.sides = (Side(OURS, acceptor=False), Side(THEIRS, acceptor=True))
        self.count = 0
        self.connect()

    def connect(self) -> None:
        """Make a connection."""
        for side in self.sides:
            side.line.clear()
            side.lost = side.ended = False
            side.take(side.session.opened(self.ts))

    @rule()
    def breaks(self) -> None:
        """The connection breaks and is opened again."""
        for side in self.sides:
            side.session.closed()
        self.connect()

    @rule(ours=st.booleans())
    def sends(self, ours: bool) -> None:
        """One side's application says something, whether the session is up or not."""
        side = self.sides[not ours]
        self.count += 1
        side.sent.append(str(self.count))
        side.take(side.session.send("B", [(58, str(self.count))], self.ts))

    @rule(ours=st.booleans(), spoilt=st.booleans())
    def arrives(self, ours: bool, spoilt: bool) -> None:
        """The next frame of one side arrives, whole or spoilt."""
        sender, receiver = self.sides if ours else self.sides[::-1]
        if sender.line:
            frame = sender.line.popleft()
            receiver.take(receiver.session.received(frame[:-9] if spoilt else frame, self.ts))

    @rule(ours=st.booleans())
    def is_lost(self, ours: bool) -> None:
        """The next frame of one side never arrives."""
        side = self.sides[not ours]
        if side.line:
            side.line.popleft()

    @rule()
    def passes(self) -> None:
        """Some seconds go by."""
        self.ts += 4 * SECOND
        for side in self.sides:
            side.take(side.session.ticked(self.ts))

    @invariant()
    def nothing_comes_twice_or_in_another_order(self) -> None:
        """Each application got the first of what the other sent, in order."""
        for side, other in (self.sides, self.sides[::-1]):
            assert side.got == other.sent[: len(side.got)]

    def teardown(self) -> None:
        """Once the line is good, both sides have everything and the same numbers."""
        for _ in range(25):
            if any(side.ended for side in self.sides):
                self.breaks()
            for sender, receiver in (self.sides, self.sides[::-1]):
                while sender.line:
                    receiver.take(receiver.session.received(sender.line.popleft(), self.ts))
            self.passes()
        ours, theirs = self.sides
        while ours.line or theirs.line:
            for sender, receiver in (self.sides, self.sides[::-1]):
                while sender.line:
                    receiver.take(receiver.session.received(sender.line.popleft(), self.ts))
        assert (ours.got, theirs.got) == (theirs.sent, ours.sent)
        assert ours.session.is_complete
        assert theirs.session.is_complete
        assert ours.session.next_in == theirs.session.next_out
        assert theirs.session.next_in == ours.session.next_out


TestTwoSides = TwoSides.TestCase
TestTwoSides.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)


# --- One by one ---


class Peer:
    """Writes the other side's frames."""

    def __init__(self, begin: str = "FIX.4.4") -> None:
        self.begin = begin
        self.number = 1

    def __call__(self, kind: str, *fields: tuple[int, str], number: int = 0, again: bool = False) -> bytes:
        """Return a frame with the next number, or the one given."""
        head: Fields = [(35, kind), (49, "THEM"), (56, "US"), (34, str(number or self.number)), (52, utc(START))]
        self.number = max(self.number, number or self.number) + 1
        return encode(self.begin, head + ([(43, "Y"), (122, utc(START))] if again else []) + list(fields))

    def logon(self, *fields: tuple[int, str]) -> bytes:
        """Return a Logon."""
        return self("A", (98, "0"), (108, "10"), *fields)


def logged_on(reset: bool = True) -> tuple[Session, Peer]:
    """Return a session that is up, and its other side."""
    session = Session(Identity(sender="US", target="THEM", reset=reset, heartbeat_s=10))
    session.opened(START)
    peer = Peer()
    assert LoggedOn() in session.received(peer.logon(*([(141, "Y")] if reset else [])), START)
    return session, peer


def frames(steps: list[Step]) -> list[Message]:
    """Return the messages that are to be sent."""
    return [decode(step.frame) for step in steps if isinstance(step, Sent)]


def texts(steps: list[Step]) -> list[str]:
    """Return the texts that the application gets."""
    return [step.message.get(58) for step in steps if isinstance(step, Received)]


@pytest.mark.parametrize("begin", ["FIX.4.4", "FIXT.1.1"])
def test_logon_says_who_and_how(begin: str) -> None:
    """Names, numbers from 1, the interval, the credentials, and for FIXT the application's version."""
    session = Session(Identity(sender="US", target="THEM", begin=begin, username="u", password="p", heartbeat_s=5))
    (logon,) = frames(session.opened(START))
    said = [(35, "A"), (49, "US"), (56, "THEM"), (34, "1"), (52, utc(START)), (98, "0"), (108, "5"), (141, "Y"),
            (553, "u"), (554, "p")]  # fmt: skip
    assert logon.fields == said + ([(1137, "9")] if begin == "FIXT.1.1" else [])
    assert LoggedOn() in session.received(Peer(begin).logon((141, "Y")), START)
    assert session.state == "up"


def test_a_gap_is_asked_for_once_and_taken_in_order() -> None:
    """What came early waits for what is missing; its repair may bring again what was there before."""
    session, peer = logged_on()
    peer.number = 4
    steps = session.received(peer("W", (58, "4")), START)
    assert steps[0] == Lost(2, 4)
    (ask,) = frames(steps)
    assert (ask.kind, ask.get(7), ask.get(16)) == ("2", "2", "3")
    assert session.received(peer("W", (58, "5")), START) == []
    assert texts(session.received(peer("W", (58, "2"), number=2, again=True), START)) == ["2"]
    steps = session.received(peer("W", (58, "3"), number=3, again=True), START)
    assert texts(steps) == ["3", "4", "5"]
    assert steps[-1] == Recovered()
    assert session.received(peer("W", (58, "3"), number=3, again=True), START) == [Repeated()]
    assert session.next_in == 6


def test_gap_fill_tells_what_never_comes() -> None:
    """Skipped numbers are named, but for what is here already."""
    session, peer = logged_on()
    session.received(peer("W", (58, "4"), number=4), START)
    steps = session.received(peer("4", (123, "Y"), (36, "7"), number=2, again=True), START)
    assert [step for step in steps if isinstance(step, Skipped)] == [Skipped(2, 3), Skipped(5, 6)]
    assert texts(steps) == ["4"]
    assert steps[-1] == Recovered()
    assert session.next_in == 7


def test_a_resend_request_is_answered_by_messages_and_gap_fill() -> None:
    """The application's are sent again with their numbers; the session's are skipped over."""
    session, peer = logged_on()
    session.send("V", [(262, "a")], START)
    session.received(peer("1", (112, "x")), START)
    session.send("V", [(262, "b")], START)
    answer = frames(session.received(peer("2", (7, "1"), (16, "0")), START + SECOND))
    assert [(m.kind, m.get(34), m.get(43), m.get(36), m.get(262)) for m in answer] == [
        ("4", "1", "Y", "2", ""), ("V", "2", "Y", "", "a"), ("4", "3", "Y", "4", ""), ("V", "4", "Y", "", "b"),
    ]  # fmt: skip
    assert (answer[1].get(52), answer[1].get(122)) == (utc(START + SECOND), utc(START))
    session.forget_sent()
    answer = frames(session.received(peer("2", (7, "2"), (16, "3")), START))
    assert [(m.kind, m.get(34), m.get(36)) for m in answer] == [("4", "2", "4")]


def test_a_logon_that_is_not_answered_by_one_ends_the_connection() -> None:
    """After ten seconds, in which bytes that are no message are waited over; at once when something else comes."""
    session = Session(Identity(sender="US", target="THEM"))
    session.opened(START)
    assert session.received(b"junk", START) == [Unreadable("bad_header")]
    assert session.ticked(START + 9 * SECOND) == []
    assert session.ticked(START + 10 * SECOND) == [Ended("no_logon")]
    session.opened(START)
    assert session.received(Peer()("W"), START)[-1] == Ended("no_logon", "the first message is not a Logon")


def test_a_number_too_low_ends_the_connection() -> None:
    """Unless it is marked as sent again, the sides do not agree."""
    session, peer = logged_on()
    session.received(peer("W"), START)
    steps = session.received(peer("W", number=2), START)
    assert frames(steps)[0].get(58) == "MsgSeqNum too low, expecting 3 but received 2"
    assert steps[-1] == Ended("sequence_too_low", "MsgSeqNum too low, expecting 3 but received 2")
    assert session.received(peer("W"), START) == []


def test_silence_is_asked_about_and_then_ends_the_connection() -> None:
    """Heartbeats go out; a test request after 1.2 intervals, the end after 2.4."""
    session, peer = logged_on()
    assert [m.kind for m in frames(session.ticked(START + 10 * SECOND))] == ["0"]
    (test,) = frames(session.ticked(START + 12 * SECOND))
    assert test.kind == "1"
    assert frames(session.ticked(START + 13 * SECOND)) == []
    steps = session.received(peer("0", (112, test.get(112))), START + 13 * SECOND)
    assert any(isinstance(step, HeartbeatReceived) for step in steps)
    session.ticked(START + 26 * SECOND)
    assert isinstance(session.ticked(START + 37 * SECOND)[-1], Ended)


def test_a_test_request_is_answered_with_its_id() -> None:
    """So the other side knows that we are there."""
    session, peer = logged_on()
    (answer,) = frames(session.received(peer("1", (112, "hello")), START))
    assert (answer.kind, answer.get(112)) == ("0", "hello")


def test_unreadable_bytes_are_asked_about_at_once() -> None:
    """The number of the answer shows whether they were a message."""
    session, peer = logged_on()
    steps = session.received(b"8=FIX.4.4\x01garbage", START)
    assert steps[:2] == [Unreadable("bad_header"), Lost(2, 0)]
    assert [m.kind for m in frames(steps)] == ["1"]
    assert session.received(peer("0", (112, "x")), START)[-1] == Recovered()
    session.received(b"garbage", START)
    peer.number += 1  # this time they were one
    steps = session.received(peer("0", (112, "x")), START)
    assert [m.kind for m in frames(steps)] == ["2"]
    assert not session.is_complete


def test_a_message_that_would_be_as_unreadable_again_is_rejected_and_passed_over() -> None:
    """Its frame is whole, so that asking for it again would never end."""
    session, peer = logged_on()
    broken = framed("FIX.4.4", b"35=W\x0149=THEM\x0156=US\x0134=2\x01354=9\x0158=no text\x01")
    peer.number += 1
    steps = session.received(broken, START)
    assert steps[:3] == [Unreadable("bad_data_field"), Lost(2, 2), Skipped(2, 2, reset=True)]
    assert [(m.kind, m.get(45), m.get(373)) for m in frames(steps)] == [("3", "2", "6")]
    assert steps[-1] == Recovered()
    assert texts(session.received(peer("W", (58, "3")), START)) == ["3"]


def test_a_resend_that_does_not_come_is_asked_for_again_and_then_given_up() -> None:
    """Three times in all, ten seconds apart."""
    session, peer = logged_on()
    session.received(peer("W", number=4), START)
    kinds: list[str] = []
    for seconds in range(1, 31):
        steps = session.received(peer("0"), START + seconds * SECOND) + session.ticked(START + seconds * SECOND)
        kinds += [m.kind for m in frames(steps) if m.kind != "0"]
        if any(isinstance(step, Ended) for step in steps):
            break
    assert kinds == ["2", "2"]
    assert steps[-1] == Ended("no_resend", "2 to 3 were not resent")


def test_sequence_reset_forgets_what_is_missing_and_never_goes_back() -> None:
    """Reset mode moves on whatever was held; a lower number is refused."""
    session, peer = logged_on()
    session.received(peer("W", (58, "4"), number=4), START)
    steps = session.received(peer("4", (36, "9"), number=5), START)
    assert texts(steps) == ["4"]
    assert steps[-1] == Recovered()
    assert session.next_in == 9
    steps = session.received(peer("4", (36, "3"), number=9), START)
    assert [m.kind for m in frames(steps)] == ["3"]
    assert session.next_in == 9


def test_a_reset_of_numbers_within_a_connection_is_followed() -> None:
    """As some venues do at midnight; what came before may not have been all."""
    session, peer = logged_on()
    session.received(peer("W"), START)
    peer.number = 1
    steps = session.received(peer.logon((141, "Y")), START)
    assert steps[:2] == [Lost(3, 1), Skipped(3, 3, reset=True)]
    assert steps[-1] == Recovered()
    (answer,) = frames(steps)
    assert (answer.kind, answer.get(34), answer.get(141)) == ("A", "1", "Y")
    assert texts(session.received(peer("W", (58, "2")), START)) == ["2"]


def test_a_refused_logon_is_final_unless_it_worked_before() -> None:
    """A wrong password stays wrong; a venue that is closed now will open."""
    for fields, was_up, final in (((58, "bad"), False, True), ((1409, "7"), False, False), ((58, "x"), True, False)):
        session = Session(Identity(sender="US", target="THEM"))
        if was_up:
            session.opened(START)
            session.received(Peer().logon((141, "Y")), START)
            session.closed()
        session.opened(START)
        end = session.received(Peer()("5", fields), START)[-1]
        assert isinstance(end, Ended)
        assert (end.reason, end.final) == ("logon_refused", final)


def test_what_is_missing_is_asked_for_with_what_shows_whether_it_is_kept() -> None:
    """The application's last message comes again, or is skipped with the rest; beats before it say nothing."""
    for is_kept in (True, False):
        session, peer = logged_on()
        session.received(peer("W", (58, "2")), START)
        session.received(peer("0"), START)
        steps = session.received(peer("W", (58, "6"), number=6), START)
        assert [(m.kind, m.get(7), m.get(16)) for m in frames(steps)] == [("2", "2", "5")]
        steps = []
        if is_kept:
            steps += session.received(peer("W", (58, "2"), number=2, again=True), START)
            assert [type(step) for step in steps] == [ResendConfirmed]
            assert session.received(peer("4", (123, "Y"), (36, "4"), number=3, again=True), START) == []
        steps += session.received(peer("4", (123, "Y"), (36, "6"), number=4 if is_kept else 2, again=True), START)
        assert [step for step in steps if isinstance(step, Skipped)] == [Skipped(4, 5)]
        assert texts(steps) == ["6"]
        assert steps[-1] == Recovered()


def test_a_process_that_begins_learns_the_numbers_from_its_refusal() -> None:
    """Without a reset they come from the Logout; if the other side has fallen back, both reset."""
    session, peer = Session(Identity(sender="US", target="THEM", reset=False)), Peer()
    session.opened(START)
    text = "MsgSeqNum too low, expecting 40 but received 1"
    assert session.received(peer("5", (58, text), number=70), START) == [Ended("numbers_learned", text)]
    (logon,) = frames(session.opened(START))
    assert (logon.get(34), logon.get(141)) == ("40", "")
    assert session.received(peer.logon(), START) == [LoggedOn()]
    session.closed()
    session.opened(START)
    steps = session.received(Peer().logon(), START)
    assert isinstance(steps[-1], Ended)
    (logon,) = frames(session.opened(START))
    assert (logon.get(34), logon.get(141)) == ("1", "Y")


def test_what_is_held_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes, too; a message that comes early twice is held once."""
    monkeypatch.setattr("marketdata.fix.held.HELD_BYTES_MAX", 1_000)
    session, peer = logged_on()
    for number in (5, 5, 5, 6):
        session.received(peer("W", (58, "x" * 400), number=number), START)
    assert session.received(peer("W", (58, "x" * 400), number=7), START) == [Ended("too_many_held")]


def test_numbers_go_on_over_connections_unless_they_are_reset() -> None:
    """Without reset the Logon itself shows what was missed."""
    session, peer = logged_on(reset=False)
    session.received(peer("W"), START)
    session.closed()
    (logon,) = frames(session.opened(START))
    assert logon.get(34) == "2"
    peer.number = 6
    steps = session.received(peer.logon(), START)
    assert steps[:2] == [LoggedOn(since=6), Lost(3, 6)]
    assert frames(steps)[0].fields[-2:] == [(7, "2"), (16, "5")], "from the last message of the application on"


def test_a_stranger_and_a_message_without_a_number_end_the_connection() -> None:
    """Names are checked on every message."""
    for frame in (
        encode("FIX.4.4", [(35, "W"), (49, "OTHER"), (56, "US"), (34, "2")]),
        encode("FIX.4.2", [(35, "W"), (49, "THEM"), (56, "US"), (34, "2")]),
        encode("FIX.4.4", [(35, "W"), (49, "THEM"), (56, "US")]),
    ):
        session, _ = logged_on()
        steps = session.received(frame, START)
        assert isinstance(steps[0], Unreadable)
        assert isinstance(steps[-1], Ended)


def test_leaving_is_answered_and_being_asked_to_leave_too() -> None:
    """Logout goes both ways; without an answer the end comes by itself."""
    session, peer = logged_on()
    assert [m.kind for m in frames(session.leave("bye", START))] == ["5"]
    assert session.received(peer("5"), START) == [Ended("logged_out")]
    session, peer = logged_on()
    steps = session.received(peer("5", (58, "closing")), START)
    assert [m.kind for m in frames(steps)] == ["5"]
    assert steps[-1] == Ended("logged_out", "closing")
    session, peer = logged_on()
    session.leave("bye", START)
    assert session.ticked(START + 3 * SECOND) == [Ended("no_logout")]


def test_a_recording_is_followed_from_whatever_number_it_begins_with() -> None:
    """Without an identity the first message says who talks."""
    session, peer = Session(None), Peer()
    assert session.opened(START) == []
    assert texts(session.received(peer("W", (58, "77"), number=77), START)) == ["77"]
    assert session.received(peer("W", (58, "79"), number=79), START)[0] == Lost(78, 79)


def test_a_recording_with_a_hole_is_waited_for_a_moment_and_goes_on() -> None:
    """What is missing may have been sent again at once; after a second, or 500 messages, nobody will."""
    for far, ns in ((8, SECOND), (510, 0)):
        session, peer, steps = Session(None), Peer(), []
        session.opened(START)
        session.received(peer("W"), START)
        session.received(peer("W", (58, "3"), number=3), START)
        assert texts(session.received(peer("W", (58, "2"), number=2, again=True), START)) == ["2", "3"]
        for number in range(5, far):
            steps += session.received(peer("W", (58, str(number)), number=number), START + (number - 5) * ns // 2)
        assert [step for step in steps if isinstance(step, Skipped)] == [Skipped(4, 4, reset=True)]
        assert texts(steps) == [str(number) for number in range(5, far)]
        assert session.is_complete


def test_a_recording_goes_on_behind_a_logout_and_at_numbers_that_are_too_low() -> None:
    """Sessions may follow one another in it, with a Logon or without; what lies between them nobody knows."""
    session, peer = Session(None), Peer()
    session.opened(START)
    session.received(peer("W", number=7), START)
    assert session.received(peer("5"), START) == []
    steps = session.received(peer("W", (58, "a"), number=3), START)
    assert steps[:2] == [Lost(9, 3), Skipped(9, 9, reset=True)]
    assert texts(steps) == ["a"]
    assert steps[-1] == Recovered()

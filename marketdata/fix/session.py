"""One side of a FIX session, pure: frames and the time in; frames to send, messages in order, and losses out.

Theory of operation. Source: FIX Session Layer (FIX 4.4 volume 2, FIXT 1.1).

1. The initiator sends Logon (A) on every connection; the acceptor answers it with its own. With ResetSeqNumFlag (141)
   both sides number from 1 again, otherwise the numbers go on where they were. A Logout (5) instead is a refusal; one
   that says which number it expects tells a process that has just begun where the numbers are.
2. Every message has a number (34). The one that is due is taken. A higher one is held and what is missing asked for
   once (ResendRequest, 2); it is taken when all before it are there. A lower one that is marked PossDupFlag (43) came
   before; one that is not means that the sides do not agree, which ends the connection, and the next numbers anew.
3. A ResendRequest is answered with the application's messages, marked PossDupFlag; session messages, and what is no
   longer kept, are skipped over by SequenceReset-GapFill (4 with 123=Y).
4. What a GapFill or a SequenceReset-Reset skips never comes: `Skipped` tells so. It may be the session's own messages,
   or the application's that the other side keeps no longer, or never sends again. To know, the last of these that came
   is asked for together with what is missing; `Proved` tells that it came again.
5. Each side sends a Heartbeat (0) when it has said nothing for HeartBtInt (108). After 1.2 of it in silence the other
   is asked by TestRequest (1), after 2.4 it is dead.
6. Bytes that are no message are ignored by the standard, and noticed by the next number. Here the other side is asked
   at once by TestRequest, and until a message in order comes the session is in doubt. A message that came as it was
   sent, and whose fields cannot be told apart, is rejected (3) and passed over: it would come again the same.

Without an identity the session is one that was recorded: nobody answers, so what is missing is waited for a moment
only, in which it may have been sent again; and it ends neither with a Logout nor where the numbers begin anew.

`Lost` is told when the session stops being whole (something is missing, or in doubt) and `Whole` when it is again.
"""

from __future__ import annotations

import re
from collections import OrderedDict

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.fix.codec import Fields, Garbled, Message, decode, encode, utc

END_REASON = "end of recording"  # what the Logout of a replay says

HELD_MAX = 10_000
HELD_BYTES_MAX = 64 * 1024 * 1024
HEARTBEAT_S_MAX = 3_600
STORED_MAX = 10_000
LOGON_NS = 10 * SECOND_NS
LOGOUT_NS = 2 * SECOND_NS
RESEND_NS = 10 * SECOND_NS
RESENDS_MAX = 3
# How long, and for how many messages, a recording is waited for to send again what is missing in it.
RECORDED_NS = SECOND_NS
RECORDED_MAX = 500

LOGON, LOGOUT, HEARTBEAT, TEST, RESEND, REJECT, RESET = "A", "5", "0", "1", "2", "3", "4"
SESSION_KINDS = frozenset({LOGON, LOGOUT, HEARTBEAT, TEST, RESEND, REJECT, RESET})

# SessionStatus (1409) of a Logout that another try may mend: sessions are closed now, or numbers did not fit.
_PASSING = frozenset({"0", "4", "7", "9", "10", "11"})
# How engines say in a Logout's Text, in want of a field, that a number was too low: QuickFIX's words.
_EXPECTED = re.compile(r"too low, expecting (\d{1,9})\b")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are and how we log on. `application` is DefaultApplVerID (1137), which FIXT needs."""

    sender: str
    target: str
    begin: str = "FIX.4.4"
    application: str = "9"
    heartbeat_s: int = 30
    reset: bool = True
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        """Name the session, and no secret."""
        return f"<{self.begin} {self.sender} to {self.target}>"


class Sent(msgspec.Struct, frozen=True):
    """Send this frame."""

    frame: bytes


class LoggedOn(msgspec.Struct, frozen=True):
    """Both sides have logged on. `since` is the Logon's number where numbers go on from an earlier one, else 0."""

    since: int = 0


class Received(msgspec.Struct, frozen=True):
    """The next message in order that concerns the application (or rejects what it sent); `again`: a repair."""

    message: Message
    again: bool


class Skipped(msgspec.Struct, frozen=True):
    """These numbers never come. `anew`: not by GapFill, but because the other side numbers from elsewhere."""

    first: int
    last: int
    anew: bool = False


class Lost(msgspec.Struct, frozen=True):
    """Something is missing, and asked for. `received` is 0 when bytes came that are no message."""

    expected: int
    received: int


class Whole(msgspec.Struct, frozen=True):
    """Nothing is missing any more."""


class Repeated(msgspec.Struct, frozen=True):
    """A message of the application came again that was taken before."""


class Proved(msgspec.Struct, frozen=True):
    """One came again that was asked for on purpose: the other side has what it sent since, and sends it again."""

    message: Message


class Alive(msgspec.Struct, frozen=True):
    """A Heartbeat came in order."""

    message: Message


class Unreadable(msgspec.Struct, frozen=True):
    """A frame that is no message, or one that breaks the session's rules."""

    reason: str


class Ended(msgspec.Struct, frozen=True):
    """The connection is to be closed. `final`: another try would end the same way."""

    reason: str
    text: str = ""
    final: bool = False


Step = Sent | LoggedOn | Received | Skipped | Lost | Whole | Repeated | Proved | Alive | Unreadable | Ended


class Session:
    """One side. `identity` None listens to a recording: it takes any names and the first number that comes."""

    def __init__(self, identity: Identity | None, *, acceptor: bool = False) -> None:
        self.identity = identity
        self.next_in = self.next_out = 1
        self.state = "closed"
        self._acceptor = acceptor
        self._heartbeat_ns = (identity.heartbeat_s if identity else 30) * SECOND_NS
        self._stored: OrderedDict[int, tuple[str, Fields, int]] = OrderedDict()
        self._out: list[Step] = []
        self._held: dict[int, Message] = {}
        self._held_bytes = 0
        self._last = 0  # the number of the application's last message
        self._proof = 0  # the number of one that was asked for to learn whether it comes again
        self._asked_to = 0  # a resend up to here is under way
        self._asks = 0
        self._doubt = False
        self._lost = False
        self._tested = False
        self._was_up = False
        self._anew = False  # the next Logon resets the numbers, which cannot be mended
        self._listens = identity is None
        self._ts_asked = self._ts_in = self._ts_out = self._ts_state = 0

    # --- What is called from outside ---

    @property
    def is_whole(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self._held and not self._asked_to and not self._doubt

    def opened(self, ts: int) -> list[Step]:
        """Begin on a new connection: the initiator logs on."""
        self._forget_held()
        self._doubt = self._lost = self._tested = False
        self._ts_in = self._ts_out = ts
        identity = None if self._listens else self.identity
        if identity is None:
            self.identity = None
            self._enter("listening", ts)
        elif self._acceptor:
            self._enter("waiting", ts)
        else:
            self._anew = self._anew or identity.reset
            if self._anew:
                self._number_anew()
            self._enter("logging_on", ts)
            self._send_logon(identity.heartbeat_s, reset=self._anew, ts=ts)
        return self._taken()

    def received(self, frame: bytes, ts: int) -> list[Step]:
        """Take one frame."""
        if self.state == "closed":
            return []
        self._ts_in = ts
        self._tested = False
        try:
            message = decode(frame)
        except Garbled as error:
            self._out.append(Unreadable(error.reason))
            if self.state in {"up", "listening"} and error.number == self.next_in:
                self._pass_over(error, ts)
            elif self.state in {"up", "listening"}:
                self._lose(0)
                self._doubt = True
                self._send(TEST, [(112, utc(ts))], ts)
            return self._taken()
        self._take(message, ts)
        if self._listens and self._held and ts - self._ts_asked >= RECORDED_NS:
            self._give_up(ts)
        self._keep_alive(ts)
        return self._taken()

    def ticked(self, ts: int) -> list[Step]:
        """Let the time pass."""
        waited = ts - self._ts_state
        if self.state in {"logging_on", "waiting"} and waited >= LOGON_NS:
            self._end("no_logon")
        elif self.state == "leaving" and waited >= LOGOUT_NS:
            self._end("no_logout")
        elif self.state in {"up", "listening"}:
            silent = ts - self._ts_in
            if silent * 10 >= self._heartbeat_ns * 24:
                self._end("heartbeat_missed", f"nothing for {silent // SECOND_NS} s")
            elif silent * 10 >= self._heartbeat_ns * 12 and not self._tested:
                self._tested = True
                self._send(TEST, [(112, utc(ts))], ts)
            if self._asked_to and ts - self._ts_asked >= RESEND_NS:
                self._ask_again(ts)
            self._keep_alive(ts)
        return self._taken()

    def send(self, kind: str, fields: Fields, ts: int) -> list[Step]:
        """Send a message of the application; it is kept, to be sent again when asked for.

        Raises BadEvent, and sends nothing, for a value that would break it.
        """
        number = self.next_out
        if self.state in {"up", "listening"}:
            self._send(kind, fields, ts)
        else:
            self.next_out += 1
        self._stored[number] = (kind, fields, ts)
        if len(self._stored) > STORED_MAX:
            self._stored.popitem(last=False)
        return self._taken()

    def forget_sent(self) -> None:
        """Send nothing again that was sent before: it no longer means anything."""
        self._stored.clear()

    def leave(self, text: str, ts: int) -> list[Step]:
        """Log out."""
        if self.state == "up":
            self._send(LOGOUT, [(58, text)], ts)
            self._enter("leaving", ts)
        return self._taken()

    def closed(self) -> None:
        """The connection is gone."""
        self.state = "closed"
        self._out.clear()

    # --- Taking messages ---

    def _take(self, message: Message, ts: int) -> None:
        number = message.number(34)
        if self._listens and self.identity is None:
            self.identity = Identity(sender=message.get(56), target=message.get(49), begin=message.begin)
            self.next_in = number or 1
        identity = self.identity
        if identity is None or number is None or number < 1:
            self._out.append(Unreadable("no_number"))
            self._fail("MsgSeqNum is missing", "no_number", ts)
        elif (message.begin, message.get(49), message.get(56)) != (identity.begin, identity.target, identity.sender):
            self._out.append(Unreadable("other_session"))
            self._fail("BeginString, SenderCompID or TargetCompID is wrong", "other_session", ts)
        elif self.state in {"logging_on", "waiting"}:
            self._log_on(message, number, ts)
        else:
            self._in_order(message, number, ts)

    def _log_on(self, message: Message, number: int, ts: int) -> None:
        """Take the first message of a connection, which must be a Logon."""
        if message.kind == LOGOUT:
            self._refused(message, number)
            return
        if message.kind != LOGON:
            self._fail("the first message is no Logon", "no_logon", ts)
            return
        reset = message.get(141) == "Y"
        heartbeat_s = min(message.number(108) or 30, HEARTBEAT_S_MAX)
        if reset and self._acceptor:
            self._number_anew()
        elif reset:
            self.next_in, self._last = 1, 0
        if number < self.next_in and message.get(43) != "Y":
            self._too_low(number, ts)
            return
        self._heartbeat_ns = heartbeat_s * SECOND_NS
        self._enter("up", ts)
        since = number if self._was_up and not reset and not self._anew else 0
        self._was_up, self._anew = True, False
        if self._acceptor:
            self._send_logon(heartbeat_s, reset=reset, ts=ts)
        self._out.append(LoggedOn(since))
        self._in_order(message, number, ts)

    def _refused(self, message: Message, number: int) -> None:
        """Take the Logout that answers our Logon."""
        text = message.get(58)
        expected = _EXPECTED.search(text)
        if expected is not None and not self._anew and int(expected[1]) > self.next_out:
            self.next_out, self.next_in = int(expected[1]), number + 1
            self._end("numbers_learned", text)
            return
        # A name and password that were good before are so still; then it is the time that is wrong.
        self._end("logon_refused", text, final=not self._was_up and message.get(1409) not in _PASSING)

    def _in_order(self, message: Message, number: int, ts: int) -> None:
        kind, again = message.kind, message.get(43) == "Y"
        if number >= self.next_in and not again:
            self._doubt = False  # this number shows what is missing, if anything
        if kind == RESET and message.get(123) != "Y":
            self._reset_to(message, ts)
        elif kind == LOGON and message.get(141) == "Y" and number == 1 and self.next_in > 1:
            self._begin_anew(message, ts)
        elif number < self.next_in and again:
            self._take_again(message, number, ts)
        elif number < self.next_in and not self._listens:
            self._too_low(number, ts)
        elif number < self.next_in:
            self._lose(number)
            self._skip_to_anew(number)
            self._process(message, ts)
            self._drain(ts)
        elif number > self.next_in:
            self._hold(message, number, ts)
        else:
            self._process(message, ts)
            self._drain(ts)

    def _take_again(self, message: Message, number: int, ts: int) -> None:
        """Take what was here before; a GapFill may begin there and reach beyond."""
        if message.kind == RESET and (message.number(36) or 0) > self.next_in:
            self._process(message, ts)
            self._drain(ts)
        elif number == self._proof:
            self._proof = 0
            self._out.append(Proved(message))
        elif message.kind not in SESSION_KINDS:
            self._out.append(Repeated())

    def _begin_anew(self, message: Message, ts: int) -> None:
        """Both sides number anew within a connection, as some venues do at midnight; something may be lost before."""
        self._lose(1)
        self._skip_to_anew(1)
        self._send_logon(self._heartbeat_ns // SECOND_NS, reset=True, ts=ts)
        self._process(message, ts)
        self._drain(ts)

    def _skip_to_anew(self, number: int) -> None:
        """Go on at a number that is not above those before."""
        self._out.append(Skipped(self.next_in, self.next_in, anew=True))
        self._number_anew()
        self.next_in = number

    def _give_up(self, ts: int) -> None:
        """Go on with what is held: what is missing does not come."""
        self._skip_to(min(self._held), ts, anew=True)
        self._drain(ts)

    def _hold(self, message: Message, number: int, ts: int) -> None:
        """Keep a message that came before others which are missing; what cannot wait is answered at once."""
        if message.kind == LOGOUT and not self._listens:
            self._answer_logout(message, ts)
            return
        if number in self._held:
            return
        is_full = len(self._held) >= HELD_MAX or self._held_bytes + len(message.frame) > HELD_BYTES_MAX
        if self._listens and self._held and (is_full or len(self._held) >= RECORDED_MAX):
            self._give_up(ts)
            self._in_order(message, number, ts)
            return
        if is_full:
            self._anew = True
            self._end("too_many_held")
            return
        if message.kind == RESEND:
            self._resend(message, ts)
        if not self._asked_to:
            self._ask(number, ts)
        self._held[number] = message
        self._held_bytes += len(message.frame)

    def _unhold(self, number: int) -> Message | None:
        """Return what was held under a number, held no longer."""
        message = self._held.pop(number, None)
        if message is not None:
            self._held_bytes -= len(message.frame)
        return message

    def _forget_held(self) -> None:
        self._held.clear()
        self._held_bytes = self._asked_to = self._asks = self._proof = 0

    def _drain(self, ts: int) -> None:
        """Take what was held and is due now; ask for what is still missing, or tell that nothing is."""
        while self.state != "closed" and (message := self._unhold(self.next_in)) is not None:
            if message.kind == RESEND:
                self.next_in += 1  # answered when it came
            else:
                self._process(message, ts)
        if self._asked_to:
            self._ts_asked = ts
        if self._asked_to and self.next_in > self._asked_to:
            self._asked_to = self._asks = self._proof = 0
            if self._held:
                self._ask(min(self._held), ts)
        if self._lost and self.is_whole:
            self._lost = False
            self._out.append(Whole())

    def _process(self, message: Message, ts: int) -> None:
        kind = message.kind
        if kind == RESET:
            self._fill(message, ts)
            return
        self.next_in += 1
        if kind == LOGON:
            return
        if kind == HEARTBEAT:
            self._out.append(Alive(message))
        elif kind == TEST:
            self._send(HEARTBEAT, [(112, message.get(112) or "?")], ts)
        elif kind == RESEND:
            self._resend(message, ts)
        elif kind == LOGOUT:
            if not self._listens:
                self._answer_logout(message, ts)
        else:
            if kind != REJECT:
                self._last = self.next_in - 1
            self._out.append(Received(message, message.get(43) == "Y"))

    # --- What the numbers say ---

    def _pass_over(self, error: Garbled, ts: int) -> None:
        """Refuse a message that would be as unreadable if it came again."""
        self._lose(error.number)
        self._out.append(Skipped(self.next_in, self.next_in, anew=True))
        self.next_in += 1
        self._send(REJECT, [(45, str(error.number)), (373, "6"), (58, error.reason)], ts)
        self._drain(ts)

    def _fill(self, message: Message, ts: int) -> None:
        """GapFill: the numbers up to NewSeqNo never come, but for those that are here already."""
        end = message.number(36) or 0
        if end <= self.next_in:
            self.next_in += 1
            self._refuse(message, "NewSeqNo is not above MsgSeqNum", ts)
            return
        self._lose(end)
        self._skip_to(end, ts)

    def _reset_to(self, message: Message, ts: int) -> None:
        """SequenceReset-Reset: the numbers go on at NewSeqNo, whatever was before."""
        end = message.number(36) or 0
        if end < self.next_in:
            self._refuse(message, "NewSeqNo is below what is expected", ts)
        elif end > self.next_in:
            self._lose(end)
            self._skip_to(end, ts, anew=True)
            self._drain(ts)

    def _skip_to(self, end: int, ts: int, *, anew: bool = False) -> None:
        while self.next_in < end:
            held = [number for number in self._held if number < end]
            stop = min(held, default=end)
            if stop > self.next_in:
                self._out.append(Skipped(self.next_in, stop - 1, anew))
                self.next_in = stop
            message = self._unhold(stop) if held else None
            if message is not None:
                if message.kind in {RESEND, RESET}:
                    self.next_in += 1
                else:
                    self._process(message, ts)

    def _lose(self, received: int) -> None:
        if not self._lost:
            self._lost = True
            self._out.append(Lost(self.next_in, received))

    def _ask(self, received: int, ts: int) -> None:
        self._lose(received)
        self._asked_to = received - 1
        self._ts_asked = ts
        self._proof = self._last
        self._send(RESEND, [(7, str(self._last or self.next_in)), (16, str(self._asked_to))], ts)

    def _ask_again(self, ts: int) -> None:
        self._asks += 1
        if self._asks >= RESENDS_MAX:
            self._end("no_resend", f"{self.next_in} to {self._asked_to} did not come")
            return
        self._ts_asked = ts
        self._send(RESEND, [(7, str(self.next_in)), (16, str(self._asked_to))], ts)

    def _too_low(self, number: int, ts: int) -> None:
        self._anew = True
        self._fail(f"MsgSeqNum too low, expecting {self.next_in} but received {number}", "sequence_too_low", ts)

    def _resend(self, message: Message, ts: int) -> None:
        """Send again what is asked for, and skip over the rest."""
        first, last = message.number(7) or 1, message.number(16) or 0
        last = min(last or self.next_out - 1, self.next_out - 1)
        kept = [number for number in self._stored if first <= number <= last]
        for number in kept:
            self._send_fill(first, number, ts)
            kind, fields, ts_sent = self._stored[number]
            self._send(kind, fields, ts, number=number, ts_first=ts_sent)
            first = number + 1
        self._send_fill(first, last + 1, ts)

    def _send_fill(self, first: int, end: int, ts: int) -> None:
        if first < end:
            self._send(RESET, [(123, "Y"), (36, str(end))], ts, number=first, ts_first=ts)

    # --- Sending and ending ---

    def _send(self, kind: str, fields: Fields, ts: int, *, number: int = 0, ts_first: int = 0) -> None:
        """Send a message with the next number, or again with the one that it had."""
        identity = self.identity
        if identity is None:
            return
        head: Fields = [(35, kind), (49, identity.sender), (56, identity.target), (34, str(number or self.next_out))]
        if number:
            head += [(43, "Y"), (52, utc(ts)), (122, utc(ts_first))]
        else:
            head.append((52, utc(ts)))
        frame = encode(identity.begin, head + fields)
        self.next_out += not number
        self._ts_out = ts
        self._out.append(Sent(frame))

    def _send_logon(self, heartbeat_s: int, *, reset: bool, ts: int) -> None:
        identity = self.identity
        if identity is None:
            return
        fields: Fields = [(98, "0"), (108, str(heartbeat_s))]
        if reset:
            fields.append((141, "Y"))
        if not self._acceptor:
            fields += [(tag, value) for tag, value in ((553, identity.username), (554, identity.password)) if value]
        if identity.begin.startswith("FIXT"):
            fields.append((1137, identity.application))
        self._send(LOGON, fields, ts)

    def _keep_alive(self, ts: int) -> None:
        if self.state == "up" and ts - self._ts_out >= self._heartbeat_ns:
            self._send(HEARTBEAT, [], ts)

    def _refuse(self, message: Message, text: str, ts: int) -> None:
        self._out.append(Unreadable("bad_sequence_reset"))
        self._send(REJECT, [(45, message.get(34)), (372, message.kind), (373, "5"), (58, text)], ts)

    def _answer_logout(self, message: Message, ts: int) -> None:
        if self.state != "leaving":
            self._send(LOGOUT, [], ts)
        self._end("logged_out", message.get(58))

    def _fail(self, text: str, reason: str, ts: int) -> None:
        """Say why, and give the connection up."""
        if self._listens:
            return
        self._send(LOGOUT, [(58, text)], ts)
        self._end(reason, text)

    def _end(self, reason: str, text: str = "", *, final: bool = False) -> None:
        self.state = "closed"
        self._out.append(Ended(reason, text, final))

    def _enter(self, state: str, ts: int) -> None:
        self.state = state
        self._ts_state = ts

    def _number_anew(self) -> None:
        self.next_in = self.next_out = 1
        self._last = 0
        self._stored.clear()
        self._forget_held()

    def _taken(self) -> list[Step]:
        out, self._out = self._out, []
        return out

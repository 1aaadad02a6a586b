"""One side of a FIX session, pure: takes frames and the time; returns frames to send, messages in order, and losses.

Theory of operation. Source: FIX Session Layer (FIX 4.4 volume 2, FIXT 1.1).

1. The initiator sends Logon (A) on every connection; the acceptor replies with its own. With ResetSeqNumFlag (141) both
   sides restart their sequence numbers at 1, otherwise the numbers continue. A Logout (5) instead is a refusal. If it
   states the expected number, a process that has just started learns its next number from it.
2. Every message has a sequence number (34). The expected one is processed. A higher one is held, and the missing ones
   are requested once (ResendRequest, 2); it is processed when all before it have arrived. A lower one with PossDupFlag
   (43) is a duplicate. A lower one without it means that the sides disagree: the connection ends and the next one
   resets the numbers.
3. A ResendRequest is answered with the application's messages, marked with PossDupFlag. Session messages, and messages
   that are no longer stored, are skipped with SequenceReset-GapFill (4 with 123=Y).
4. Numbers that a GapFill or a SequenceReset-Reset skips never arrive; the session reports them as `Skipped`. They may
   be session messages, or application messages that the other side no longer stores or never resends. To find out, the
   last application message received is requested together with the missing ones; `ResendConfirmed` reports that it
   arrived.
5. Each side sends a Heartbeat (0) when it has sent nothing for HeartBtInt (108). After 1.2 times that interval without
   data we send a TestRequest (1), after 2.4 times it we end the connection.
6. By the standard, bytes that are not a message are ignored, and the next sequence number reveals the gap. We send a
   TestRequest at once, and the session is in doubt until the next message in order. A message with a correct checksum
   but unreadable fields is rejected (3) and skipped, because a resend would be equally unreadable.

Without an identity the session plays a recording. Nobody answers requests, so it waits only briefly for missing
messages, which may follow in the recording. It does not end with a Logout or with a reset of the numbers.

The session reports `Lost` when something is missing or in doubt, and `Recovered` when it is complete again.
"""

from __future__ import annotations

import re

from marketdata.clock import SECOND_NS
from marketdata.fix.codec import Fields, Garbled, Message, decode, utc
from marketdata.fix.held import Held
from marketdata.fix.outgoing import HEARTBEAT, LOGON, LOGOUT, REJECT, RESEND, RESET, SESSION_KINDS, TEST, Outgoing
from marketdata.fix.steps import (
    Ended,
    HeartbeatReceived,
    Identity,
    LoggedOn,
    LogonRecorded,
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

HEARTBEAT_S_MAX = 3_600
LOGON_NS = 10 * SECOND_NS
LOGOUT_NS = 2 * SECOND_NS
RESEND_NS = 10 * SECOND_NS
RESENDS_MAX = 3
# How long, and for how many messages, to wait for a recording to resend missing messages.
RECORDED_NS = SECOND_NS
RECORDED_MAX = 500

# SessionStatus (1409) of a Logout after which a retry may succeed: sessions are closed, or numbers did not match.
_PASSING = frozenset({"0", "4", "7", "9", "10", "11"})
# No field states the expected number, so engines put it into the Logout's Text. These are QuickFIX's words.
_EXPECTED = re.compile(r"too low, expecting (\d{1,9})\b")


class Session:
    """One side. Without `identity` it plays a recording and accepts any names and any first number."""

    def __init__(self, identity: Identity | None, *, acceptor: bool = False) -> None:
        self.identity = identity
        self.next_in = 1
        self.state = "closed"
        self._acceptor = acceptor
        self._heartbeat_ns = (identity.heartbeat_s if identity else 30) * SECOND_NS
        self._outgoing = Outgoing()
        self._out: list[Step] = []
        self._held = Held()
        self._last = 0  # number of the last application message
        self._proof = 0  # number of the message requested as a check for resends
        self._asked_to = 0  # last number of the current ResendRequest
        self._asks = 0
        self._is_in_doubt = False
        self._has_loss = False
        self._test_sent = False
        self._has_logged_on = False
        self._must_reset = False  # the next Logon must reset the numbers
        self._is_recording = identity is None
        self._ts_asked = self._ts_in = self._ts_state = 0

    # --- Public calls ---

    @property
    def next_out(self) -> int:
        """The number of our next message."""
        return self._outgoing.next

    @property
    def is_complete(self) -> bool:
        """Whether no message is known to be missing."""
        return not self._held and not self._asked_to and not self._is_in_doubt

    def opened(self, ts: int) -> list[Step]:
        """Start on a new connection: the initiator logs on."""
        self._forget_held()
        self._is_in_doubt = self._has_loss = self._test_sent = False
        self._ts_in = self._outgoing.ts_sent = ts
        identity = None if self._is_recording else self.identity
        if identity is None:
            self.identity = None
            self._enter("listening", ts)
        elif self._acceptor:
            self._enter("waiting", ts)
        else:
            self._must_reset = self._must_reset or identity.reset
            if self._must_reset:
                self._reset_numbers()
            self._enter("logging_on", ts)
            self._send_logon(identity.heartbeat_s, reset=self._must_reset, ts=ts)
        return self._taken()

    def received(self, frame: bytes, ts: int) -> list[Step]:
        """Process one frame."""
        if self.state == "closed":
            return []
        self._ts_in = ts
        self._test_sent = False
        try:
            message = decode(frame)
        except Garbled as error:
            self._out.append(Unreadable(error.reason))
            if self.state in {"up", "listening"} and error.number == self.next_in:
                self._pass_over(error, ts)
            elif self.state in {"up", "listening"}:
                self._lose(0)
                self._is_in_doubt = True
                self._send(TEST, [(112, utc(ts))], ts)
            return self._taken()
        self._take(message, ts)
        if self._is_recording and self._held and ts - self._ts_asked >= RECORDED_NS:
            self._skip_missing(ts)
        self._keep_alive(ts)
        return self._taken()

    @property
    def silence_ns(self) -> int:
        """How long the other side may be silent before the connection ends, from HeartBtInt (108)."""
        return self._heartbeat_ns * 24 // 10

    def ticked(self, ts: int) -> list[Step]:
        """Advance the time."""
        waited = ts - self._ts_state
        if self.state in {"logging_on", "waiting"} and waited >= LOGON_NS:
            self._end("no_logon")
        elif self.state == "leaving" and waited >= LOGOUT_NS:
            self._end("no_logout")
        elif self.state in {"up", "listening"}:
            silent = ts - self._ts_in
            if silent >= self.silence_ns:
                self._end("heartbeat_missed", f"no data for {silent // SECOND_NS} s")
            elif silent * 10 >= self._heartbeat_ns * 12 and not self._test_sent:
                self._test_sent = True
                self._send(TEST, [(112, utc(ts))], ts)
            if self._asked_to and ts - self._ts_asked >= RESEND_NS:
                self._ask_again(ts)
            self._keep_alive(ts)
        return self._taken()

    def send(self, kind: str, fields: Fields, ts: int) -> list[Step]:
        """Send an application message, and store it for resend requests.

        Raises BadEvent, and sends nothing, for a value that a message cannot contain.
        """
        number = self._outgoing.next
        if self.state in {"up", "listening"}:
            self._send(kind, fields, ts)
        else:
            self._outgoing.next += 1
        self._outgoing.store(number, kind, fields, ts)
        return self._taken()

    def forget_sent(self) -> None:
        """Discard the stored messages: they are out of date and must not be resent."""
        self._outgoing.forget()

    def leave(self, text: str, ts: int) -> list[Step]:
        """Log out."""
        if self.state == "up":
            self._send(LOGOUT, [(58, text)], ts)
            self._enter("leaving", ts)
        return self._taken()

    def closed(self) -> None:
        """Record that the connection is closed."""
        self.state = "closed"
        self._out.clear()

    # --- Received messages ---

    def _take(self, message: Message, ts: int) -> None:
        number = message.number(34)
        if self._is_recording and self.identity is None:
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
        """Process the first message of a connection, which must be a Logon."""
        if message.kind == LOGOUT:
            self._refused(message, number)
            return
        if message.kind != LOGON:
            self._fail("the first message is not a Logon", "no_logon", ts)
            return
        reset = message.get(141) == "Y"
        heartbeat_s = min(message.number(108) or 30, HEARTBEAT_S_MAX)
        if reset and self._acceptor:
            self._reset_numbers()
        elif reset:
            self.next_in, self._last = 1, 0
        if number < self.next_in and message.get(43) != "Y":
            self._too_low(number, ts)
            return
        self._heartbeat_ns = heartbeat_s * SECOND_NS
        self._enter("up", ts)
        since = number if self._has_logged_on and not reset and not self._must_reset else 0
        self._has_logged_on, self._must_reset = True, False
        if self._acceptor:
            self._send_logon(heartbeat_s, reset=reset, ts=ts)
        self._out.append(LoggedOn(since))
        self._in_order(message, number, ts)

    def _refused(self, message: Message, number: int) -> None:
        """Process a Logout in response to our Logon."""
        text = message.get(58)
        expected = _EXPECTED.search(text)
        if expected is not None and not self._must_reset and int(expected[1]) > self._outgoing.next:
            self._outgoing.next, self.next_in = int(expected[1]), number + 1
            self._end("numbers_learned", text)
            return
        # Credentials that were accepted before are still valid, so the refusal is temporary.
        self._end("logon_refused", text, final=not self._has_logged_on and message.get(1409) not in _PASSING)

    def _in_order(self, message: Message, number: int, ts: int) -> None:
        kind, again = message.kind, message.get(43) == "Y"
        if number >= self.next_in and not again:
            self._is_in_doubt = False  # this number reveals any missing messages
        if kind == RESET and message.get(123) != "Y":
            self._reset_to(message, ts)
        elif kind == LOGON and message.get(141) == "Y" and number == 1 and self.next_in > 1:
            self._restart_numbers(message, ts)
        elif number < self.next_in and again:
            self._take_again(message, number, ts)
        elif number < self.next_in and not self._is_recording:
            self._too_low(number, ts)
        elif number < self.next_in:
            self._lose(number)
            self._continue_at(number)
            self._process(message, ts)
            self._drain(ts)
        elif number > self.next_in:
            self._hold(message, number, ts)
        else:
            self._process(message, ts)
            self._drain(ts)

    def _take_again(self, message: Message, number: int, ts: int) -> None:
        """Process a resend of an earlier number; a GapFill may start there and extend past the expected one."""
        if message.kind == RESET and (message.number(36) or 0) > self.next_in:
            self._process(message, ts)
            self._drain(ts)
        elif number == self._proof:
            self._proof = 0
            self._out.append(ResendConfirmed(message))
        elif message.kind not in SESSION_KINDS:
            self._out.append(Repeated())

    def _restart_numbers(self, message: Message, ts: int) -> None:
        """Restart both sequences within a connection, as some venues do at midnight; messages may be lost."""
        self._lose(1)
        self._continue_at(1)
        self._send_logon(self._heartbeat_ns // SECOND_NS, reset=True, ts=ts)
        self._process(message, ts)
        self._drain(ts)

    def _continue_at(self, number: int) -> None:
        """Continue at a number that is not above the earlier ones."""
        self._out.append(Skipped(self.next_in, self.next_in, reset=True))
        self._reset_numbers()
        self.next_in = number

    def _skip_missing(self, ts: int) -> None:
        """Skip the missing messages, which will not arrive, and process the held ones."""
        self._skip_to(self._held.first(), ts, reset=True)
        self._drain(ts)

    def _hold(self, message: Message, number: int, ts: int) -> None:
        """Hold a message until the missing ones before it arrive; answer at once what cannot wait."""
        if message.kind == LOGOUT and not self._is_recording:
            self._answer_logout(message, ts)
            return
        if number in self._held:
            return
        is_full = self._held.is_full(message)
        if self._is_recording and self._held and (is_full or len(self._held) >= RECORDED_MAX):
            self._skip_missing(ts)
            self._in_order(message, number, ts)
            return
        if is_full:
            self._must_reset = True
            self._end("too_many_held")
            return
        if message.kind == RESEND:
            self._resend(message, ts)
        if not self._asked_to:
            self._ask(number, ts)
        self._held.add(number, message)

    def _forget_held(self) -> None:
        self._held.clear()
        self._asked_to = self._asks = self._proof = 0

    def _drain(self, ts: int) -> None:
        """Process held messages that are due; request what is still missing, or report recovery."""
        while self.state != "closed" and (message := self._held.take(self.next_in)) is not None:
            if message.kind == RESEND:
                self.next_in += 1  # answered on arrival
            else:
                self._process(message, ts)
        if self._asked_to:
            self._ts_asked = ts
        if self._asked_to and self.next_in > self._asked_to:
            self._asked_to = self._asks = self._proof = 0
            if self._held:
                self._ask(self._held.first(), ts)
        if self._has_loss and self.is_complete:
            self._has_loss = False
            self._out.append(Recovered())

    def _process(self, message: Message, ts: int) -> None:
        kind = message.kind
        if kind == RESET:
            self._fill(message, ts)
            return
        self.next_in += 1
        if kind == LOGON:
            if self._is_recording:
                self._out.append(LogonRecorded())
            return
        if kind == HEARTBEAT:
            self._out.append(HeartbeatReceived(message))
        elif kind == TEST:
            self._send(HEARTBEAT, [(112, message.get(112) or "?")], ts)
        elif kind == RESEND:
            self._resend(message, ts)
        elif kind == LOGOUT:
            if not self._is_recording:
                self._answer_logout(message, ts)
        else:
            if kind != REJECT:
                self._last = self.next_in - 1
            self._out.append(Received(message, message.get(43) == "Y"))

    # --- Sequence numbers ---

    def _pass_over(self, error: Garbled, ts: int) -> None:
        """Reject a message that would be unreadable again after a resend."""
        self._lose(error.number)
        self._out.append(Skipped(self.next_in, self.next_in, reset=True))
        self.next_in += 1
        self._send(REJECT, [(45, str(error.number)), (373, "6"), (58, error.reason)], ts)
        self._drain(ts)

    def _fill(self, message: Message, ts: int) -> None:
        """GapFill: skip the numbers before NewSeqNo, except for held messages."""
        end = message.number(36) or 0
        if end <= self.next_in:
            self.next_in += 1
            self._refuse(message, "NewSeqNo is not above MsgSeqNum", ts)
            return
        self._lose(end)
        self._skip_to(end, ts)

    def _reset_to(self, message: Message, ts: int) -> None:
        """SequenceReset-Reset: continue at NewSeqNo regardless of earlier numbers."""
        end = message.number(36) or 0
        if end < self.next_in:
            self._refuse(message, "NewSeqNo is below what is expected", ts)
        elif end > self.next_in:
            self._lose(end)
            self._skip_to(end, ts, reset=True)
            self._drain(ts)

    def _skip_to(self, end: int, ts: int, *, reset: bool = False) -> None:
        while self.next_in < end:
            held = [number for number in self._held if number < end]
            stop = min(held, default=end)
            if stop > self.next_in:
                self._out.append(Skipped(self.next_in, stop - 1, reset))
                self.next_in = stop
            message = self._held.take(stop) if held else None
            if message is not None:
                if message.kind in {RESEND, RESET}:
                    self.next_in += 1
                else:
                    self._process(message, ts)

    def _lose(self, received: int) -> None:
        if not self._has_loss:
            self._has_loss = True
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
            self._end("no_resend", f"{self.next_in} to {self._asked_to} were not resent")
            return
        self._ts_asked = ts
        self._send(RESEND, [(7, str(self.next_in)), (16, str(self._asked_to))], ts)

    def _too_low(self, number: int, ts: int) -> None:
        self._must_reset = True
        self._fail(f"MsgSeqNum too low, expecting {self.next_in} but received {number}", "sequence_too_low", ts)

    def _resend(self, message: Message, ts: int) -> None:
        """Resend the requested stored messages, and skip the others with GapFills."""
        if self.identity is not None:
            self._out += [Sent(frame) for frame in self._outgoing.again(self.identity, message, ts)]

    # --- Sending and ending ---

    def _send(self, kind: str, fields: Fields, ts: int) -> None:
        """Send a message with the next number. Raises BadEvent."""
        if self.identity is not None:
            self._out.append(Sent(self._outgoing.frame(self.identity, kind, fields, ts)))

    def _send_logon(self, heartbeat_s: int, *, reset: bool, ts: int) -> None:
        if self.identity is not None:
            frame = self._outgoing.logon(self.identity, heartbeat_s, reset=reset, is_acceptor=self._acceptor, ts=ts)
            self._out.append(Sent(frame))

    def _keep_alive(self, ts: int) -> None:
        if self.state == "up" and ts - self._outgoing.ts_sent >= self._heartbeat_ns:
            self._send(HEARTBEAT, [], ts)

    def _refuse(self, message: Message, text: str, ts: int) -> None:
        self._out.append(Unreadable("bad_sequence_reset"))
        self._send(REJECT, [(45, message.get(34)), (372, message.kind), (373, "5"), (58, text)], ts)

    def _answer_logout(self, message: Message, ts: int) -> None:
        if self.state != "leaving":
            self._send(LOGOUT, [], ts)
        self._end("logged_out", message.get(58))

    def _fail(self, text: str, reason: str, ts: int) -> None:
        """Log out with a reason, and end the connection."""
        if self._is_recording:
            return
        self._send(LOGOUT, [(58, text)], ts)
        self._end(reason, text)

    def _end(self, reason: str, text: str = "", *, final: bool = False) -> None:
        self.state = "closed"
        self._out.append(Ended(reason, text, final))

    def _enter(self, state: str, ts: int) -> None:
        self.state = state
        self._ts_state = ts

    def _reset_numbers(self) -> None:
        self.next_in = 1
        self._last = 0
        self._outgoing.reset()
        self._forget_held()

    def _taken(self) -> list[Step]:
        out, self._out = self._out, []
        return out

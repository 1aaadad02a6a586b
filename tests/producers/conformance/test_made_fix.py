"""A wrong field in any FIX message costs at most what the message contains, and is repaired."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import DeadLetter
from marketdata.feed import Output, Reconnect, Send
from marketdata.fix.codec import Fields, decode, framed, utc
from producers.venues.fix.feed import FixFeed
from producers.venues.fix.login import FixLogin
from tests.producers.conformance.cases import SECOND
from tests.producers.conformance.follower import FEW, TS, Follower

# --- FIX ---


def entry(**fields: str) -> Fields:
    """Return fields by their tags."""
    return [(int(tag[1:]), value) for tag, value in fields.items()]


def group(*entries: Fields) -> Fields:
    """Return a group of entries."""
    return [(268, str(len(entries))), *(field for one in entries for field in one)]


_WHOLE = group(entry(t269="0", t278="a", t270="100", t271="1"), entry(t269="0", t278="b", t270="100", t271="2"),
               entry(t269="1", t278="c", t270="101", t271="3"))  # fmt: skip
_TRADE = entry(t279="0", t269="2", t278="t1", t55="B-U", t270="100", t271="1", t272="20260809", t273="20:59:59.123")
MESSAGES: dict[str, tuple[str, Fields]] = {
    "whole": ("W", [(262, "r"), (55, "B-U"), *_WHOLE]),
    "last part": ("W", [(262, "r"), (55, "B-U"), (893, "Y"), *_WHOLE]),
    "new": ("X", [(60, "20260809-20:59:59"), *group(entry(t279="0", t269="1", t278="d", t55="B-U", t270="102",
                                                          t271="1"))]),
    "changed": ("X", group(entry(t279="1", t278="a", t55="B-U", t270="99", t271="4"), entry(t279="2", t278="b"))),
    "trade": ("X", group(_TRADE)),
    "status": ("f", [(55, "B-U"), (326, "2")]),
    "security": ("d", [(55, "B-U"), (15, "USD"), (969, "0.5"), (561, "1"), (562, "0.01")]),
    "alive": ("0", []),
}  # fmt: skip
TEXTS = ["", "-1", "0", "0.00", "1e35", "9" * 30, "9" * 33, f"0.{'1' * 45}", "5", "NaN", "x" * 300, "J", "2", "Y",
         "20960809-21:05:48", "19960809-21:05:48.123", "25:00:00", "|"]  # fmt: skip


class Desk:
    """Writes a venue's messages with the right length and checksum, to a feed that has logged on and has a book."""

    def __init__(self, begin: str) -> None:
        login = FixLogin(senders=("US",), target="THEM", begin=begin, heartbeat_s=10, reset=True, username="me",
                         password="secret")  # fmt: skip
        self.begin, self.number, self.follower = begin, 0, Follower()
        self.feed = FixFeed(line="fix/0", products=("B-U",), token=login)
        self.follower.take(self.feed.opened(TS))
        self.send(self.message("A", [(98, "0"), (108, "10"), (141, "Y"), (1137, "9")]))
        self.send(self.message(*MESSAGES["whole"]))
        assert self.follower.valid == {"B-U": True}

    def message(self, kind: str, fields: Fields, *, again: bool = False) -> Fields:
        """Return the next message, or the one before it once more."""
        self.number += not again
        number = self.number - again
        repeat: Fields = [(43, "Y"), (122, utc(TS))] if again else []
        return [(35, kind), (49, "THEM"), (56, "US"), (34, str(number)), (52, utc(TS)), *repeat, *fields]

    def send(self, fields: Fields) -> Sequence[Output]:
        """Bring a message, whatever its values are."""
        body = "".join(f"{tag}={value}\x01" for tag, value in fields).encode("latin-1")
        return self.follower.take(self.feed.received(framed(self.begin, body), TS))


def respelt(fields: Fields, place: int, change: str, text: str) -> Fields:
    """Return a message with one field that is gone, there twice, something else, or of a group that lies."""
    tag, value = fields[place]
    other = {"gone": [], "twice": [(tag, value)] * 2, "value": [(tag, text)], "tag": [(268, value)]}[change]
    return [*fields[:place], *other, *fields[place + 1 :]]


@settings(FEW, max_examples=100)
@given(data=st.data(), begin=st.sampled_from(["FIX.4.4", "FIXT.1.1"]), kind=st.sampled_from(sorted(MESSAGES)),
       missing=st.booleans())  # fmt: skip
def test_wrong_field_of_fix_publishes_nothing_wrong_and_is_repaired(
    data: st.DataObject, begin: str, kind: str, *, missing: bool
) -> None:
    """In order, or sent again behind a message that came too early; what could not be read is requested again."""
    desk = Desk(begin)
    if missing:
        desk.number += 1
        desk.send(desk.message("0", []))
    fields = desk.message(*MESSAGES[kind], again=missing)
    change = data.draw(st.sampled_from(["gone", "twice", "value", "value", "tag"]))
    text = data.draw(st.sampled_from(TEXTS))
    out = desk.send(respelt(fields, data.draw(st.integers(1, len(fields) - 1)), change, text))
    assert not desk.follower.due, "a book was cleared and nothing asked for a new one"
    if any(isinstance(output, DeadLetter) for output in out) and kind in {"whole", "new", "changed"}:
        assert any(isinstance(output, Send | Reconnect) for output in out)
        assert not desk.follower.valid["B-U"]
    for _ in range(2):
        desk.send(desk.message("0", []))
    desk.follower.take(desk.feed.ticked(TS + SECOND))
    desk.follower.take(desk.feed.closed("reset", TS + SECOND))
    assert not any(desk.follower.valid.values())


def test_messages_of_the_desk_are_read() -> None:
    """No message of the table is a dead letter by itself."""
    desk = Desk("FIXT.1.1")
    for kind in ("new", "changed", "trade", "status", "security", "alive", "last part"):
        assert not [o for o in desk.send(desk.message(*MESSAGES[kind])) if isinstance(o, DeadLetter)]
    assert all(decode(o.frame) for o in desk.follower.take(desk.feed.closed("done", TS)) if isinstance(o, Send))

"""How a FIX venue is named by the environment: addresses, names, credentials."""

from __future__ import annotations

import msgspec
import pytest

from marketdata.errors import SettingsError
from marketdata.feed import Send
from marketdata.fix.codec import decode
from marketdata.fix.steps import Identity
from producers.live.settings import find_tokens, load_for_venue
from producers.venues import make_feed
from producers.venues.fix.state import Login

GIVEN = {
    "TICKSTREAM_VENUE": "fix", "FIX_URL": "tls://fix.example.com:4001", "FIX_SENDER_COMP_ID": "ONE,TWO",
    "FIX_TARGET_COMP_ID": "VENUE", "FIX_BEGIN_STRING": "FIXT.1.1", "FIX_USERNAME": "me", "FIX_PASSWORD": "hunter2",
    "FIX_SYMBOLS": "EUR/USD,btc", "FIX_HEARTBEAT_SECONDS": "7", "FIX_RESET_NUMBERS": "false",
    "TICKSTREAM_LINES": "2",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names a FIX venue."""
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_each_line_logs_on_by_its_own_name(environment: pytest.MonkeyPatch) -> None:
    """Address, names, interval, numbers, and the symbols as they are written; the password is in no text."""
    settings, venue = load_for_venue()
    assert settings.address_of(venue) == "tls://fix.example.com:4001"
    assert settings.products_of(venue) == ("EUR/USD", "btc")
    assert "hunter2" not in repr(settings)
    tokens = find_tokens(settings, venue)
    for number, sender in ((0, "ONE"), (1, "TWO")):
        feed = make_feed("fix", line=f"fix/{number}", products=("btc",), token=tokens)
        (frame,) = [output.frame for output in feed.opened(1_786_309_500_000_000_000) if isinstance(output, Send)]
        logon = decode(frame)
        said = {tag: logon.get(tag) for tag in (49, 56, 108, 141, 553, 554, 1137)}
        assert said == {49: sender, 56: "VENUE", 108: "7", 141: "", 553: "me", 554: "hunter2", 1137: "9"}
        assert tokens is not None
        assert "hunter2" not in repr(msgspec.json.decode(tokens(0), type=Login))
        assert "hunter2" not in repr(Identity(sender="ONE", target="VENUE", password="hunter2"))
        assert b"hunter2" not in tokens.redact(frame)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("FIX_TARGET_COMP_ID", "", "FIX_TARGET_COMP_ID"),
        ("TICKSTREAM_LINES", "3", "FIX_SENDER_COMP_ID"),
        ("FIX_URL", "wss://fix.example.com", "WS_URL"),
        ("FIX_URL", "tcp://fix.example.com", "WS_URL"),
        ("FIX_BEGIN_STRING", "FIX.4.2", "FIX_BEGIN_STRING"),
    ],
)
def test_what_cannot_be_used_is_named(environment: pytest.MonkeyPatch, name: str, value: str, named: str) -> None:
    """Before anything is started."""
    environment.setenv(name, value)
    with pytest.raises(SettingsError, match=named):
        settings_of_a_start()


def test_a_replay_needs_no_names(environment: pytest.MonkeyPatch) -> None:
    """Whoever plays a recording answers to any name; numbers start again with each connection."""
    environment.delenv("FIX_TARGET_COMP_ID")
    environment.setenv("TICKSTREAM_SOURCE", "replay")
    environment.setenv("TICKSTREAM_LINES", "3")
    settings, venue = load_for_venue()
    feed = make_feed("fix", line="fix/2", token=find_tokens(settings, venue))
    (frame,) = [output.frame for output in feed.opened(1_786_309_500_000_000_000) if isinstance(output, Send)]
    assert (decode(frame).get(49), decode(frame).get(141)) == ("ONE", "Y")


def settings_of_a_start() -> None:
    """Ask for all that a start asks for."""
    settings, venue = load_for_venue()
    settings.address_of(venue)
    find_tokens(settings, venue)


def test_an_address_must_be_given(environment: pytest.MonkeyPatch) -> None:
    """There is no usual one."""
    environment.delenv("FIX_URL")
    settings, venue = load_for_venue()
    with pytest.raises(SettingsError, match="tls://host:port"):
        settings.address_of(venue)

"""The guide for new venues is true: its example reads its own frames, and keeps the rules of every feed."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import producers.venues
from marketdata.events import BookUpdate, DeadLetter, Derivative, FeedStatus, Trades
from marketdata.feed import Output, Reconnect, Send
from producers.venues.kit.venue import LiveFeed, Venue
from tests.producers.conformance import (
    cases,
    test_conditions,
    test_derivatives,
    test_endpoints,
    test_facts,
    test_faults,
    test_limits,
    test_reading,
    test_subscriptions,
    test_values,
)
from tests.producers.conformance.cases import Case, Row

CONFORMANCE: tuple[Any, ...] = (
    test_conditions, test_derivatives, test_endpoints, test_facts, test_faults, test_limits, test_reading,
    test_subscriptions, test_values,
)  # fmt: skip
TESTS = {name: test for module in CONFORMANCE for name, test in vars(module).items() if name.startswith("test_")}
CASE = Case("acme", "acme")
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "add-a-venue.md"
TS = 1_780_000_001_000_000_000
SECOND = 1_000_000_000


def blocks(language: str) -> list[str]:
    """Return the guide's blocks in a language, those inside of lists left out."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def venue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Venue]:
    """The example, found by its folder as every venue is."""
    folder = tmp_path_factory.mktemp("venues") / "acme"
    folder.mkdir()
    fake: dict[str, Any] = {"__name__": "acme_fake"}
    for code in blocks("python"):
        path = code.partition("\n")[0].removeprefix("# ")
        if path == "tests/producers/conformance/fakes/acme.py":
            exec(compile(code, path, "exec", dont_inherit=True), fake)
        else:
            assert re.fullmatch(r"producers/venues/acme/\w+\.py", path), "the first line of a block names its file"
            (folder / path.rpartition("/")[2]).write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(producers.venues, "__path__", [*producers.venues.__path__, str(folder.parent)])
        (found,) = importlib.import_module("producers.venues.acme").VENUES
        patch.setitem(producers.venues.VENUES, "acme", found)
        patch.setitem(cases.TABLE, "acme", Row(fake["Acme"], (CASE,)))
        yield found
    for module in [module for module in sys.modules if module.startswith("producers.venues.acme")]:
        del sys.modules[module]


@pytest.fixture
def feed(venue: Venue) -> LiveFeed:
    """A feed of two products that has subscribed."""
    made = venue.make(line="acme/0", products=venue.products, token=None)
    assert [o for o in made.opened(TS) if isinstance(o, Send)] == [
        Send(b'{"subscribe":["BTC-PERP","ETH-PERP"],"channel":"%s"}' % channel)
        for channel in (b"book", b"trade", b"mark")
    ]
    return made


def test_the_guide_says_of_every_test_what_makes_it_fail() -> None:
    """A contributor finds the name that failed in its table."""
    tests = [name.removeprefix("test_") for name in TESTS]
    told = re.findall(r"^\| (`.*`) \|", GUIDE.read_text(), re.MULTILINE)
    named = [name for row in told for name in re.findall(r"`(\w+)…?`", row)]
    assert len(tests) > 10
    assert [test for test in tests if not any(test.startswith(name) for name in named)] == []


def frames() -> list[bytes]:
    """Return the frames of the guide."""
    (shown,) = blocks("json")
    return [line.encode() for line in shown.splitlines()]


def change(number: int, **more: Any) -> bytes:
    """Return a change of one bid."""
    values = {"t": "book", "s": "BTC-PERP", "n": number, "ms": 1_780_000_000_300, "b": [["99.0", "1"]], "a": []}
    return json.dumps(values | more).encode()


def test_example_reads_the_frames_that_it_shows(feed: LiveFeed) -> None:
    """A whole book, a change of it, a block trade with the taker's side, and funding."""
    out = [output for frame in frames() for output in feed.received(frame, TS)]
    snapshot, update = (o for o in out if isinstance(o, BookUpdate))
    assert (snapshot.kind, snapshot.bid_prices, snapshot.ask_sizes) == ("snapshot", ["100.0"], ["1"])
    assert (update.kind, update.bid_prices, update.bid_sizes) == ("update", ["100.0", "99.5"], ["0", "4"])
    (trades,) = (o for o in out if isinstance(o, Trades))
    (trade,) = trades.trades
    assert (trade.trade_id, trade.side, trade.conditions) == ("7", "buy", ("block",))
    assert trade.excluded_from == ("high_low", "open_close")
    (mark,) = (o for o in out if isinstance(o, Derivative))
    assert (mark.mark_price, mark.funding_rate) == ("100.4", "-0.0001")
    assert mark.next_funding_ts == 1_780_003_600_000_000_000
    assert feed.counts["dead_letters"] == feed.counts["gaps"] == 0


@pytest.mark.parametrize(
    "spoilt",
    [change(9), change(3)[:-20], change(3, b=[["NaN", "1"]]), b"\xff"],
    ids=["skipped", "cut", "no-number", "no-json"],
)
def test_example_repairs_what_it_lost(feed: LiveFeed, spoilt: bytes) -> None:
    """A skipped number, or a frame that cannot be read: invalid at once, on the ledger, and asked for again."""
    for frame in frames():
        feed.received(frame, TS)
    out = feed.received(spoilt, TS)
    assert [o.kind for o in out if isinstance(o, BookUpdate)] == ["clear"]
    assert [o.kind for o in out if isinstance(o, FeedStatus)] == ["gap", "resync"]
    assert Send(b'{"subscribe":["BTC-PERP"],"channel":"book"}') in out
    assert any(isinstance(o, DeadLetter) for o in out) == (spoilt != change(9))
    back = feed.received(frames()[1], TS)
    assert [o.kind for o in back if isinstance(o, BookUpdate | FeedStatus)] == ["snapshot", "resynced"]


def test_example_states_a_channel_that_is_refused(feed: LiveFeed) -> None:
    """The trades are invalid, on the ledger, and beats do not vouch for them; the book is good."""
    refusal = b'{"t": "answer", "channel": "trade", "s": "BTC-PERP", "ok": false, "why": "too many"}'
    beat = b'{"t": "beat", "ms": 1780000000900}'
    out = [o for frame in (*frames()[:2], refusal, beat) for o in feed.received(frame, TS)]
    assert [(o.kind, o.channel) for o in out if isinstance(o, FeedStatus)] == [
        ("unsubscribed", "trade"), ("gap", "trade"),
    ]  # fmt: skip
    assert [o.valid for o in out if isinstance(o, Trades)] == [False]
    assert [o.kind for o in out if isinstance(o, BookUpdate)] == ["snapshot", "heartbeat"]


def test_example_notices_silence_and_the_end(feed: LiveFeed) -> None:
    """No frame for too long, or no connection: no book stays valid."""
    for frame in frames():
        feed.received(frame, TS)
    silent: list[Output] = feed.ticked(TS + 11 * SECOND)
    assert Reconnect("heartbeat_missed") in silent
    assert [o.reason for o in silent if isinstance(o, BookUpdate)] == ["stale"]
    assert any(isinstance(o, FeedStatus) and o.kind == "disconnected" for o in feed.closed("reset", TS + 12 * SECOND))


# --- The example keeps the rules of every feed ---

OF_A_CASE = [name for name, test in TESTS.items() if list(inspect.signature(test).parameters) == ["case"]]


@pytest.mark.usefixtures("venue")
@pytest.mark.parametrize("name", OF_A_CASE)
def test_example_passes_the_conformance_tests(name: str) -> None:
    """On its recording, which was made by hand."""
    TESTS[name](CASE)


OPTIONS: dict[str, tuple[Any, ...]] = {"carrier": ("book", "trades"), "early": (False, True), "number": (0, 1)}
OF_A_VENUE = [
    pytest.param(name, dict(zip(options, values, strict=True)), id="-".join(map(str, (name, *values))))
    for name, test in TESTS.items()
    for venue_, *options in [list(inspect.signature(test).parameters) or [""]]
    if venue_ == "venue"
    for values in product(*(OPTIONS[option] for option in options))
    if "address" not in name or "one_address" in name
]


@pytest.mark.usefixtures("venue")
@pytest.mark.parametrize(("name", "options"), OF_A_VENUE)
def test_example_passes_the_tests_of_its_side_of_a_connection(name: str, options: dict[str, Any]) -> None:
    """Subscriptions, limits, endpoints, conditions and derivatives."""
    TESTS[name]("acme", **options)


@pytest.mark.usefixtures("venue")
def test_example_states_its_facts_and_sources() -> None:
    """The tests of every venue that need no recording."""
    assert len(OF_A_CASE) > 10
    assert len(OF_A_VENUE) > 15
    test_facts.test_venue_and_feed_state_the_same_facts("acme")
    test_facts.test_theory_names_the_document_that_states_whose_side_a_trade_has("acme")


def test_example_stays_within_the_channels_of_a_connection(venue: Venue) -> None:
    """Twenty channels, of which each product takes three."""
    assert venue.limits.products_max(len(venue.channels)) == 6

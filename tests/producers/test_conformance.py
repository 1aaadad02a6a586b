"""What every venue's feed must hold, whatever happens to its frames on their way; a venue is one line of the table.

Each case plays the first frames of one connection of a recording, REST answers given when the feed asks for them:
whole, and then cut, with frames lost, doubled, swapped or spoilt. The undisturbed run is the truth about the books.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache, partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import producers.venues
from marketdata.book import L2Book, Level
from marketdata.clock import AHEAD_NS_MAX
from marketdata.codec import Codec
from marketdata.events import ALL_SYMBOLS, EVENTS, BookUpdate, DeadLetter, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.live.settings import ProducerSettings
from producers.venues import VENUES, find_venue, make_feed
from producers.venues.kit.books import KeepsBooks
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.venue import LiveFeed
from runtime import recordings
from runtime.recordings import Recorded
from stream_apps.operators.ingest_books import IngestBooks
from stream_apps.operators.ingest_trades import IngestTrades
from tickstream.pipe import answers

RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "recordings"
OWN = Path(__file__).with_name("recordings")  # recordings that may be committed, uncompressed
SECOND = 1_000_000_000
CODEC = Codec({event.schema: number for number, event in enumerate(EVENTS, start=1)})
QUICK = settings(max_examples=12, deadline=None)


class Case(NamedTuple):
    """One venue. `frames` of one connection (its recorded name; None: the first that is seen) are played.

    `recording` is a file of `tests/producers/recordings` (.jsonl) or of `../shared/recordings` (.jsonl.zst).

    `proven` is how many levels a side the venue's own proof covers, None for the whole book; `shorten` makes huge
    frames small, so that thousands of runs are quick, or old ones as they are today. `ordered` is False where frames
    have neither number, time nor checksum: then nothing but the connection's own order proves that none is lost or
    doubled.
    """

    venue: str
    recording: str
    frames: int = 150
    conn: str | None = None
    proven: int | None = None
    shorten: Callable[[str], str] = str
    ordered: bool = True


def coinbase_short(data: str) -> str:
    """Leave the far levels of a snapshot of 5 MB out."""
    if len(data) < 100_000:
        return data
    values = json.loads(data)
    for event in values["events"]:
        levels = event.get("updates", [])
        sides = ([level for level in levels if level["side"] == side] for side in ("bid", "offer"))
        event["updates"] = [level for side in sides for level in side[:30]]
    return json.dumps(values, separators=(",", ":"))


def okx_numbered() -> Callable[[str], str]:
    """Return what tells recorded books as OKX does since June 2026: numbered, and with 0 for a checksum."""
    last: dict[str, int] = {}

    def told(data: str) -> str:
        values = json.loads(data) if data.startswith("{") else {}
        if values.get("arg", {}).get("channel") != "books" or "data" not in values:
            return data
        name = values["arg"]["instId"]
        for book in values["data"]:
            before = last.get(name, -1)
            last[name] = before + 3
            book |= {"seqId": last[name], "prevSeqId": before if values["action"] == "update" else -1, "checksum": 0}
        return json.dumps(values, separators=(",", ":"))

    return told


CASES = (
    Case("coinbase", "coinbase_advanced", frames=80, shorten=coinbase_short),
    Case("kraken", "kraken_v1", frames=250, conn="KRAKEN.ws.50", proven=10),
    Case("kraken_futures", "kraken_futures", frames=250),
    Case("okx", "okx", proven=25),
    Case("okx", "okx", shorten=okx_numbered()),
    Case("bitfinex", "bitfinex", frames=200),
    Case("binance_spot", "binance_spot_btcusdt", frames=500),
    Case("binance_usdm", "binance_usdm_btcusdt", frames=350),
    Case("bybit", "bybit", conn="BYBIT.ws.2", frames=200),
    Case("gemini", "gemini", ordered=False),
    Case("coinbase_exchange", "coinbase_exchange_legacy", ordered=False),
)  # fmt: skip


# Venues of which no WebSocket connection was recorded; what holds for them is in their own tests.
NOT_RECORDED: set[str] = {"alpaca", "databento", "deribit", "fix", "hyperliquid"}  # see test_conformance_made.py

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.venue)
EACH_ORDERED = pytest.mark.parametrize("case", [case for case in CASES if case.ordered], ids=lambda case: case.venue)


class RecordedLines(tuple[Recorded, ...]):
    """Recorded lines that are not shown in full when an example fails."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} lines>"


@cache
def recorded(case: Case) -> RecordedLines:
    """Return the case's lines: REST answers, and the first frames of its connection."""
    path = OWN / f"{case.recording}.jsonl"
    if not path.exists():
        path = RECORDINGS / f"{case.recording}.jsonl.zst"
    if not path.exists():
        pytest.skip(f"the recordings are absent: no {path}")
    lines: list[Recorded] = []
    conn, frames = case.conn, 0
    for line in recordings.read(path):
        if line.t == "http":
            lines.append(line)
        elif line.t == "recv" and conn in {None, line.conn}:
            conn = line.conn if case.conn is None else conn
            lines.append(Recorded(line.t, line.ts_recv, line.conn, case.shorten(line.data)))
            frames += 1
        if frames >= case.frames:
            break
    return RecordedLines(lines)


Sides = tuple[list[Level], list[Level]]  # bids and asks


class Player:
    """Plays lines through a feed and holds the rules that no output may break, whatever came before it."""

    def __init__(self, case: Case, watch: Callable[[str, Sides], None] | None = None) -> None:
        self.case = case
        self.watch = watch  # is told each valid book that is shown
        self.feed: LiveFeed = make_feed(case.venue)
        self.out: list[Output] = []
        self.books: dict[str, L2Book] = {}
        self.valid: dict[str, bool] = {}
        self.announced: set[str] = set()
        self.trades: dict[str, set[str]] = {}
        self.repairs_due: set[str] = set()
        self._asked: list[Fetch] = []
        self._unasked: list[Recorded] = []

    def open(self, ts: int) -> list[Output]:
        """Open a connection."""
        return self.take(self.feed.opened(ts), ts)

    def play(self, line: Recorded) -> list[Output]:
        """Give the feed one line, with the REST answers that it asks for; return what it said."""
        if line.t == "http":
            self._unasked.append(line)
            return self._answer(line.ts_recv)
        return self.take(self.feed.received(line.frame, line.ts_recv), line.ts_recv)

    def take(self, out: list[Output], ts: int) -> list[Output]:
        """Hold every output to the rules, and follow it as a consumer does."""
        self.out += out
        for output in out:
            self._hold(output)
        if any(isinstance(output, Send | Fetch | Reconnect) for output in out):
            self.repairs_due.clear()
        asked = [output for output in out if isinstance(output, Fetch)]
        self._asked += asked
        return out + self._answer(ts) if asked else out

    def _answer(self, ts: int) -> list[Output]:
        for request in self._asked:
            for line in self._unasked:
                if answers(request, line.conn or ""):
                    self._asked.remove(request)
                    self._unasked.remove(line)
                    return self.take(self.feed.fetched(request, line.frame, max(ts, line.ts_recv)), ts)
        return []

    def _hold(self, output: Output) -> None:
        if isinstance(output, Instrument):
            self.announced.add(output.symbol)
        elif isinstance(output, Trades | BookUpdate | Quote):
            assert output.symbol in self.announced, "a symbol without an Instrument"
        if isinstance(output, Trades):
            ids = [trade.trade_id for trade in output.trades if trade.action == "new"]
            sent = self.trades.setdefault(output.symbol, set())
            assert len(set(ids)) == len(ids), "a trade came twice"
            assert not sent.intersection(ids), "a trade came twice"
            sent.update(ids)
        if isinstance(output, BookUpdate):
            self._follow(output)

    def _follow(self, output: BookUpdate) -> None:
        symbol = output.symbol
        book = self.books.setdefault(symbol, L2Book())
        if output.kind == "snapshot":
            book.bids.replace(output.bid_prices, output.bid_sizes)
            book.asks.replace(output.ask_prices, output.ask_sizes)
        elif output.kind == "clear":
            assert not output.valid
            assert output.reason
            book.clear()
            self.repairs_due.add(symbol)
        else:
            assert self.valid.get(symbol), "a change or a heartbeat of a book that nobody may trust"
            book.bids.apply(output.bid_prices, output.bid_sizes)
            book.asks.apply(output.ask_prices, output.ask_sizes)
        self.valid[symbol] = output.kind != "clear"
        if self.watch is not None and output.kind in {"snapshot", "update"}:
            self.watch(symbol, self.levels(symbol))

    def levels(self, symbol: str) -> Sides:
        """Return the levels of a symbol's book as far as the venue proves them."""
        book = self.books[symbol]
        return book.bids.top(self.case.proven), book.asks.top(self.case.proven)


class Had(NamedTuple):
    """A book that a symbol had when the line at `place` had come."""

    place: int
    levels: Sides


@cache
def truth(case: Case) -> dict[str, list[Had]]:
    """Return every book that the venue had, by symbol, oldest first: what the undisturbed run shows."""
    shown: list[tuple[str, Sides]] = []
    player, lines = Player(case, lambda *book: shown.append(book)), recorded(case)
    player.open(lines[0].ts_recv)
    books: dict[str, list[Had]] = {}
    for place, line in enumerate(lines):
        player.play(line)
        for symbol, levels in shown:
            books.setdefault(symbol, []).append(Had(place, levels))
        shown.clear()
    return books


class Judge:
    """Holds each book that is shown to the truth.

    It is right when the venue had it by the last line that came, and no older than one shown before. It need not be
    the newest: often only the next frame can show that one is lost, and until then the book is what it was.
    """

    def __init__(self, case: Case) -> None:
        self.seen = 0
        self._books = truth(case)
        self._at: dict[str, int] = {}

    def __call__(self, symbol: str, levels: Sides) -> None:
        """Judge a book that was just shown."""
        books = self._books.get(symbol, [])
        for at in range(self._at.get(symbol, 0), len(books)):
            if books[at].place > self.seen:
                break
            if books[at].levels == levels:
                self._at[symbol] = at
                return
        raise AssertionError(f"a wrong book of {symbol} as valid")


def disturbed(case: Case, order: list[int], spoilt: dict[int, bytes] | None = None) -> Player:
    """Play the lines in this order, some spoilt; every book that is shown must be right."""
    judge = Judge(case)
    player, lines = Player(case, judge), recorded(case)
    player.open(lines[0].ts_recv)
    for place in order:
        line = lines[place]
        judge.seen = max(judge.seen, place)
        if spoilt and place in spoilt:
            player.take(player.feed.received(spoilt[place], line.ts_recv), line.ts_recv)
        else:
            player.play(line)
    player.take(player.feed.ticked(lines[-1].ts_recv + SECOND), lines[-1].ts_recv + SECOND)
    assert not player.repairs_due, "a book was cleared and nothing asked for a new one"
    return player


def frames_of(case: Case) -> list[int]:
    """Return the places of the frames (not the REST answers) among the lines."""
    return [place for place, line in enumerate(recorded(case)) if line.t == "recv"]


def test_every_feed_is_in_the_table() -> None:
    """A venue without a case is not proven."""
    assert {case.venue for case in CASES} | NOT_RECORDED == set(VENUES)


def test_every_folder_with_a_feed_is_a_venue() -> None:
    """Python finds no package in a folder without `__init__.py`, so its venue would be missing without an error."""
    folders = {path.parent for path in Path(producers.venues.__file__).parent.glob("*/feed*.py")}
    assert [folder.name for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", sorted(VENUES))
def test_venue_and_feed_state_the_same_facts(name: str) -> None:
    """The shell counts a venue's channels against its limits, and history repairs the gaps of its trades' channel."""
    venue = find_venue(name)
    feed = make_feed(name, products=venue.products)
    if isinstance(feed, VenueFeed):
        assert venue.trades_channel == feed.trades_channel
        assert venue.channels == feed.channels
        assert venue.limits == feed.limits


@EACH_ORDERED
def test_venue_says_what_proves_its_order(case: Case) -> None:
    """Where lost frames are noticed, as the tests below hold, the list of venues says by what."""
    venue = find_venue(case.venue)
    assert venue.sequence != "none" or venue.checksum
    assert venue.checksum or case.proven is None


@pytest.mark.parametrize("venue", sorted(VENUES))
def test_theory_names_the_document_that_says_whose_side_a_trade_tells(venue: str) -> None:
    """Venues differ, and a feed that guesses is right on half of them; that of a family may stand there."""
    make = find_venue(venue).make
    module = import_module(getattr(make, "func", make).__module__)  # of a partial, what it completes
    makers = {getattr(value, "__module__", "") for value in vars(module).values()}
    families = [import_module(name) for name in sorted(makers) if name.startswith("producers.venues.")]
    theories = [" ".join((each.__doc__ or "").split()) for each in (module, *families)]
    sentences = [sentence for theory in theories for sentence in re.split(r"(?<=\.) (?=[A-Z`])", theory)]
    said = [one for one in sentences if re.search(r"(?i)\b(aggressor|taker|maker)", one)]
    assert any(re.search(r'\((?:DOCS|FIX|")', sentence) for sentence in said), "it cites no document"


# No trade of these recordings meets a book of the same connection.
NO_BOOK_BESIDE_TRADES = {"kraken", "bitfinex"}


@pytest.mark.parametrize("case", {case.venue: case for case in CASES}.values(), ids=lambda case: case.venue)
def test_side_of_a_trade_is_the_one_that_its_book_shows(case: Case) -> None:
    """An aggressor buys above the middle and sells below it; few books are so late that it looks the other way."""
    longer = case._replace(frames=2_500)
    player, lines = Player(longer), recorded(longer)
    player.open(lines[0].ts_recv)
    shown: Counter[bool] = Counter()
    for line in lines:
        books = {symbol: (book.bids.top(1), book.asks.top(1)) for symbol, book in player.books.items()}
        for event in player.play(line):
            if not isinstance(event, Trades) or not all(books.get(event.symbol, [()])):
                continue
            bids, asks = books[event.symbol]
            middle = (Decimal(bids[0][0]) + Decimal(asks[0][0])) / 2
            # Older ones are those of before the connection, which it begins with.
            for trade in event.trades if event.ts_recv - event.ts_event < 2 * SECOND else ():
                shown[(Decimal(trade.price) > middle) == (trade.side == "buy")] += Decimal(trade.price) != middle
    assert (case.venue in NO_BOOK_BESIDE_TRADES) == (not shown.total())
    assert shown[True] > 5 * shown[False] or not shown.total()


@EACH
def test_recorded_frames_are_read_without_a_loss(case: Case) -> None:
    """No gap, no dead letter, no wrong checksum; every event survives Avro; there is something to test with."""
    lines = recorded(case)
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines:
        player.play(line)
    counts = player.feed.counts
    assert [counts[name] for name in ("gaps", "dead_letters", "checksums_wrong", "duplicates")] == [0] * 4
    assert counts["book_updates"] > 10
    for event in player.out:
        if isinstance(event, EVENTS):
            assert CODEC.decode(CODEC.encode(event)) == event


@EACH
def test_same_bytes_give_the_same_events(case: Case) -> None:
    """The feed reads no clock and no chance."""
    runs = []
    for _ in range(2):
        player = Player(case)
        player.open(recorded(case)[0].ts_recv)
        for line in recorded(case):
            player.play(line)
        runs.append(player.out)
    assert runs[0] == runs[1]


_SPACED = re.compile(r'("(?:[^"\\]|\\.)*")|([,:])')


@EACH
def test_spaces_within_a_frame_mean_nothing(case: Case) -> None:
    """Recorders that read and write JSON put them in; what it says is the same."""
    said = []
    for space in ("", " "):
        player = Player(case)
        player.open(recorded(case)[0].ts_recv)
        for line in recorded(case)[:60]:
            spaced = _SPACED.sub(lambda found, space=space: found[1] or found[2] + space, line.data)  # type: ignore[misc]
            player.play(Recorded(line.t, line.ts_recv, line.conn, spaced))
        said.append(player.out)
    assert said[0] == said[1]


@EACH
def test_venue_says_whether_its_trade_ids_show_what_is_missing(case: Case) -> None:
    """Those that rise by one: then the gap scan looks for holes among the ids that are stored."""
    player = Player(case)
    player.open(recorded(case)[0].ts_recv)
    for line in recorded(case):
        player.play(line)
    numbers = [sorted(map(int, ids)) for ids in player.trades.values() if len(ids) > 2 and all(map(str.isdigit, ids))]
    rising = [ids[-1] - ids[0] == len(ids) - 1 for ids in numbers]
    assert all(rising) if find_venue(case.venue).numbers_trades else not any(rising)


@EACH
def test_products_that_are_named_are_read_as_all_are(case: Case) -> None:
    """Named as the settings give them; the usual ones are names that the venue has."""
    venue, lines = find_venue(case.venue), recorded(case)
    everything, named = Player(case), Player(case)
    said = []
    for player in (everything, named):
        player.open(lines[0].ts_recv)
        for line in lines:
            player.play(line)
        # What REST tells of products comes earlier where they are named; each change of it is told by heartbeats.
        said.append([o for o in player.out if (isinstance(o, BookUpdate) and o.kind != "heartbeat")
                     or isinstance(o, Quote) or (isinstance(o, Trades) and o.trades)])  # fmt: skip
        names = dict.fromkeys(o.venue_symbol for o in player.out if isinstance(o, Instrument))
        settings = ProducerSettings(products=tuple(names))
        make = venue.make_recorded or venue.make
        named.feed = make(line=f"{case.venue}/0", products=settings.products_of(venue), token=None)
    assert said[0] == said[1]
    usual = make_feed(case.venue, products=ProducerSettings().products_of(venue))
    asked = b"".join(output.frame for output in usual.opened(0) if isinstance(output, Send)).decode()
    assert all(name in asked or name.lower() in asked for name in venue.products)


@EACH
def test_books_that_a_feed_keeps_are_those_that_consumers_follow(case: Case) -> None:
    """Who runs beside the feed may read them instead of following the changes once more."""
    lines, names = recorded(case), dict[str, str]()
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines:
        out = player.play(line)
        names |= {event.symbol: event.venue_symbol for event in out if isinstance(event, Instrument)}
        for event in out:
            if isinstance(event, BookUpdate) and event.valid and isinstance(player.feed, KeepsBooks):
                kept = player.feed.kept_book(names[event.symbol])
                followed = player.books[event.symbol]
                assert kept is None or (kept.bids.top(), kept.asks.top()) == (followed.bids.top(), followed.asks.top())


@EACH
@QUICK
@given(data=st.data())
def test_lost_connection_leaves_no_book_valid(case: Case, data: st.DataObject) -> None:
    """Wherever the recording is cut, each book is cleared and each symbol on the ledger; then it begins anew."""
    lines = recorded(case)
    cut = data.draw(st.integers(1, len(lines)))
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines[:cut]:
        player.play(line)
    ts = lines[cut - 1].ts_recv + SECOND
    held = {symbol for symbol, valid in player.valid.items() if valid}
    out = player.take(player.feed.closed("reset", ts), ts)
    assert not any(player.valid.values())
    assert any(isinstance(o, FeedStatus) and o.kind == "disconnected" for o in out)
    assert held <= {o.symbol for o in out if isinstance(o, FeedStatus) and o.kind == "gap"}
    player.open(ts + SECOND)
    for line in islice(lines, cut, None):
        player.play(line)


@EACH_ORDERED
@QUICK
@given(data=st.data())
def test_lost_frames_never_leave_a_wrong_book(case: Case, data: st.DataObject) -> None:
    """One to three frames in a row never arrive."""
    frames = frames_of(case)
    first = data.draw(st.integers(0, len(frames) - 1))
    lost = set(frames[first : first + data.draw(st.integers(1, 3))])
    disturbed(case, [place for place in range(len(recorded(case))) if place not in lost])


@EACH_ORDERED
@QUICK
@given(data=st.data())
def test_doubled_frame_never_leaves_a_wrong_book(case: Case, data: st.DataObject) -> None:
    """A frame comes again at once, or a few frames later."""
    frames = frames_of(case)
    place = data.draw(st.sampled_from(frames))
    again = min(place + data.draw(st.integers(0, 3)), frames[-1])
    order = list(range(len(recorded(case))))
    disturbed(case, [*order[: again + 1], place, *order[again + 1 :]])


@EACH_ORDERED
@QUICK
@given(data=st.data())
def test_swapped_frames_never_leave_a_wrong_book(case: Case, data: st.DataObject) -> None:
    """Two neighbouring frames arrive in the wrong order."""
    frames = frames_of(case)
    at = data.draw(st.integers(0, len(frames) - 2))
    order = list(range(len(recorded(case))))
    order[frames[at]], order[frames[at + 1]] = order[frames[at + 1]], order[frames[at]]
    disturbed(case, order)


@EACH
@QUICK
@given(data=st.data(), junk=st.binary(max_size=20))
def test_spoilt_frame_is_a_dead_letter_and_never_leaves_a_wrong_book(
    case: Case, data: st.DataObject, junk: bytes
) -> None:
    """The end of a frame is missing, and other bytes may stand there."""
    place = data.draw(st.sampled_from(frames_of(case)))
    frame = recorded(case)[place].frame
    broken = frame[: -data.draw(st.integers(1, min(400, len(frame))))] + junk
    player = disturbed(case, list(range(len(recorded(case)))), {place: broken})
    assert broken in [o.payload for o in player.out if isinstance(o, DeadLetter)]


# How venues write the times of this decade: RFC 3339, milliseconds, microseconds, seconds with a fraction.
_TIME = re.compile(r"\b20[12]\d(?=-\d\d-\d\dT)|\b1[4-9](?=\d{8}\.|\d{11}\b|\d{14}\b)")


@EACH
def test_time_of_a_far_future_costs_the_ledger_nothing(case: Case) -> None:
    """Only what that frame itself tells may bear its time: later events would be refused with it, like every gap."""
    lines, frames = recorded(case), frames_of(case)
    for place in frames[len(frames) // 3 :: len(frames) // 4]:
        player = Player(case)
        player.open(lines[0].ts_recv)
        for line in lines[:place]:
            player.play(line)
        now = lines[place].ts_recv
        spoilt = _TIME.sub(lambda found: "2099" if len(found[0]) == 4 else "40", lines[place].data).encode()
        of_feed = [o for o in player.take(player.feed.received(spoilt, now), now) if isinstance(o, FeedStatus)]
        later: list[Output] = [output for line in lines[place + 1 : place + 40] for output in player.play(line)]
        end = lines[min(place + 39, len(lines) - 1)].ts_recv
        later += player.take(player.feed.closed("reset", end), end)
        # A trade of that time may come again in a list of the last ones.
        told = [o for o in later if isinstance(o, FeedStatus | BookUpdate) or (isinstance(o, Trades) and not o.trades)]
        assert any(event.symbol != ALL_SYMBOLS for event in told)
        for event in [*of_feed, *told]:
            assert event.ts_event <= event.ts_recv + AHEAD_NS_MAX
            assert not isinstance(event, FeedStatus) or (event.ts_from or 0) <= event.ts_recv + AHEAD_NS_MAX


JUNK: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**30,
    "",
    "NaN",
    "Infinity",
    "1e999",
    "x" * 70,
    [],
    {},
    [[]],
    "2026-08-09T21:05:48",
]


@EACH
@QUICK
@given(data=st.data(), junk=st.sampled_from(JUNK), seed=st.integers(0, 2**32))
def test_any_value_of_any_frame_may_be_junk(case: Case, data: st.DataObject, junk: Any, seed: int) -> None:
    """No value anywhere makes the feed raise, break a rule of its events, or say what Avro cannot carry."""
    place = data.draw(st.sampled_from(frames_of(case)))
    values = json.loads(recorded(case)[place].frame)
    spot = random.Random(seed)
    holder: Any = {"frame": values}
    key: Any = "frame"
    while isinstance(holder[key], dict | list) and holder[key] and spot.random() < 0.95:
        holder = holder[key]
        key = spot.choice(sorted(holder)) if isinstance(holder, dict) else spot.randrange(len(holder))
    holder[key] = junk
    spoilt = json.dumps(values, separators=(",", ":")).encode()
    lines, player = recorded(case), Player(case)
    player.open(lines[0].ts_recv)
    for number, line in enumerate(lines):
        said = player.play(line) if number != place else player.take(
            player.feed.received(spoilt, line.ts_recv), line.ts_recv)  # fmt: skip
        for event in said if number >= place else ():
            if isinstance(event, EVENTS):
                assert CODEC.decode(CODEC.encode(event)) == event


# What looks like a price, a size or a time, and no event may have it.
WRONG: list[Any] = [
    "-1", "-0.5", "0", "0.00", "1e35", "1e-45", "9" * 33, f"0.{'1' * 45}", -1, 0, -0.5, 5,
    4_000_000_000_000, "4000000000000", "4000000000.5", "2096-10-02T07:06:40.5Z", "1996-10-02T07:06:40.5Z",
]  # fmt: skip


def leaves(holder: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield each value of a frame that holds no others: its path, what holds it, and where."""
    for at in holder if isinstance(holder, dict) else range(len(holder)):
        name = f"{path}.{at if isinstance(holder, dict) or len(holder) < 10 else ''}"
        if isinstance(holder[at], dict | list):
            yield from leaves(holder[at], name)
        else:
            yield name, holder, at


@cache
def kinds_of(case: Case) -> list[list[int]]:
    """Return the places of the frames, those of one shape together, so that rare kinds are tried as often as others."""
    kinds: dict[frozenset[str], list[int]] = {}
    for place in frames_of(case):
        shape = frozenset(path for path, _, _ in leaves({"frame": json.loads(recorded(case)[place].frame)}))
        kinds.setdefault(shape, []).append(place)
    return list(kinds.values())


@EACH
@settings(QUICK, max_examples=50)
@given(data=st.data(), wrong=st.sampled_from(WRONG))
def test_what_a_feed_tells_is_never_refused_behind_it(case: Case, data: st.DataObject, wrong: Any) -> None:
    """A book or trade that ingest alone finds wrong would never be asked for again: the feed is as strict."""
    lines = recorded(case)
    place = data.draw(st.sampled_from(data.draw(st.sampled_from(kinds_of(case)))))
    values = {"frame": json.loads(lines[place].frame)}
    spots: dict[str, list[tuple[Any, Any]]] = {}
    for path, holder, at in leaves(values):
        spots.setdefault(path, []).append((holder, at))
    holder, at = data.draw(st.sampled_from(spots[data.draw(st.sampled_from(sorted(spots)))]))
    holder[at] = wrong
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines[:place]:
        player.play(line)
    now = lines[place].ts_recv
    spoilt = json.dumps(values["frame"], separators=(",", ":")).encode()
    told = player.take(player.feed.received(spoilt, now), now)
    assert not player.repairs_due, "a book was cleared and nothing asked for a new one"
    ingest = IngestBooks(), IngestTrades()
    for event in told:
        for operator, kind in zip(ingest, (BookUpdate, Trades), strict=True):
            if isinstance(event, kind):
                _, out = operator.step(operator.start(event.key), event)
                assert not [letter.reason for letter in out if isinstance(letter, DeadLetter)]


@EACH
@QUICK
@given(frame=st.binary(max_size=300))
def test_any_bytes_are_survived(case: Case, frame: bytes) -> None:
    """Bytes that no venue sends say nothing but dead letters; a REST answer may be any bytes too."""
    player = Player(case)
    asked = [output for output in player.open(SECOND) if isinstance(output, Fetch)]
    out = player.feed.received(frame, SECOND)
    for request in [*asked, Fetch(path="", purpose="snapshot"), Fetch(path="", purpose="products")]:
        out += player.feed.fetched(request, frame, SECOND)
    assert not [output for output in out if isinstance(output, Trades | BookUpdate | Quote | Instrument)]


@EACH
def test_silence_clears_the_books_and_reconnects(case: Case) -> None:
    """No frame for an hour means a dead connection, once."""
    lines = recorded(case)
    player = Player(case)
    player.open(lines[0].ts_recv)
    for line in lines:
        player.play(line)
    ts = lines[-1].ts_recv + 3600 * SECOND
    out = player.take(player.feed.ticked(ts), ts)
    assert any(isinstance(output, Reconnect) for output in out)
    assert not any(player.valid.values())
    assert not any(isinstance(output, Reconnect) for output in player.feed.ticked(ts + SECOND))


# --- Subscriptions ---

SUBSCRIBING = [
    case for case in CASES if isinstance(make_feed(case.venue, products=find_venue(case.venue).products), VenueFeed)
]


def with_names(case: Case) -> tuple[VenueFeed, tuple[str, ...]]:
    """Return a feed that subscribes the products of a recording, and their names."""
    venue, lines = find_venue(case.venue), recorded(case)
    everything = Player(case)
    everything.open(lines[0].ts_recv)
    for line in lines:
        everything.play(line)
    seen = {o.venue_symbol: o.kind for o in everything.out if isinstance(o, Instrument)}
    names = ProducerSettings(products=tuple(seen)).products_of(venue) or ()
    make = venue.make_recorded or venue.make
    if venue.make_of_market is not None:
        make = partial(venue.make_of_market, market="spot" if "spot" in seen.values() else "linear")
    feed = make(line=f"{case.venue}/0", products=names, token=None)
    assert isinstance(feed, VenueFeed), "a venue's feed derives from VenueFeed"
    return feed, names


def without(case: Case, carrier: int) -> Iterator[Recorded]:
    """Yield the frames that bring nothing of a channel: neither its data nor an answer about its subscription.

    `carrier` is 0 for books, 1 for trades. Where one channel carries both, nothing of either is left.
    """
    feed, _ = with_names(case)
    feed.opened(recorded(case)[0].ts_recv)
    data = (BookUpdate, Trades)[carrier]
    for line in recorded(case):
        if line.t != "recv" or "subscri" in line.data:
            continue
        before = list(feed._subscriptions), feed.counts["subscriptions"]
        out = feed.received(line.frame, line.ts_recv)
        brings = any(isinstance(o, data) and (o.kind != "heartbeat" if isinstance(o, BookUpdate) else o.trades)
                     for o in out)  # fmt: skip
        if not brings and (list(feed._subscriptions), feed.counts["subscriptions"]) == before:
            yield line


@pytest.mark.parametrize("case", SUBSCRIBING, ids=lambda case: case.venue)
@pytest.mark.parametrize("carrier", [0, 1], ids=["books", "trades"])
@pytest.mark.parametrize("answer", ["refused", "none"])
def test_nothing_vouches_for_a_channel_that_is_not_acknowledged(case: Case, carrier: int, answer: str) -> None:
    """Refused or never answered, while all else goes on: no valid book, no minute that says "no trades", a status."""
    feed, names = with_names(case)
    lines = recorded(case)
    channel = feed._carriers[carrier]
    out = feed.opened(lines[0].ts_recv)
    if answer == "refused":
        for name in names:
            feed._refused(Call(feed._line, lines[0].ts_recv, None), channel, name, detail="made here")
    ts = ts_tick = lines[0].ts_recv
    for line in without(case, carrier):
        ts = line.ts_recv
        out += feed.received(line.frame, ts)
        if ts - ts_tick >= SECOND:
            ts_tick = ts
            out += feed.ticked(ts)
    for second in range(1, 130):  # the connection stays alive, for longer than any deadline
        feed._liveness.ts_heard = ts + second * SECOND
        out += feed.ticked(ts + second * SECOND)
        out += feed.time_passed(ts + second * SECOND, ts + second * SECOND)
    if carrier == 0:
        assert not [o for o in out if isinstance(o, BookUpdate) and o.valid]
    else:
        assert not [o for o in out if isinstance(o, Trades) and o.valid and not o.trades]
    stated = {o.channel for o in out if isinstance(o, FeedStatus) and o.kind == "unsubscribed"}
    assert answer == "refused" or channel in stated or not feed.acknowledges

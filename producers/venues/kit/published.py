"""What earlier processes published of each symbol's trades, and how a new feed continues from there. Pure.

Theory of operation. A process that is killed cannot state what it did not publish any more. Its successor reads it from
the trades topic itself, since nothing else is certain to have been delivered:

1. Of each symbol the events are read in order, those of all lines together (`History`). The trades up to the last
   valid event were complete then; those after it fill only a part of what was missing.
2. A new feed is like one whose connection has just ended (`resume`): its product has the trade ids that were published,
   its book is not valid, and a gap is open from the last valid event until book and trades are complete again. That
   repairs trades as after any reconnect. Until then trades are sent as not valid.
3. A symbol that is not in the part of the topic that was read has no ids to compare with (`unproven`). Its gap begins
   at `PreviousRun.floor`, and only a list of trades that begins before that closes it.
4. Nothing is assumed of a symbol when everything was read and it was never there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from marketdata.clock import MILLISECOND_NS
from marketdata.events import HALTED, FeedStatus, Trades
from marketdata.topics import INGEST_TRADES
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.products import Product
from producers.venues.kit.values import INT64_MAX

RESTARTED = "restarted"

# As many ids as REST's longest list of recent trades has, so that a list shows by any of them that it reaches back.
IDS_MAX = 1_000
# Trades after the last valid event; a feed gives up waiting for a repair long before as many came.
LATER_MAX = 20_000
# How long md.ingest.trades keeps its records.
KEPT_NS = INGEST_TRADES.retention_ms * MILLISECOND_NS


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What was published of one symbol.

    `ts_whole` is until when trades were complete (venue's clock, UTC ns), `ts_trade` when the last of those was made,
    `ids` the last of their ids, oldest first, and `sequence` that of the last event with trades. `later` are ids that
    were published since. `lines` are all lines that published of the symbol.
    """

    ts_whole: int
    ts_trade: int | None = None
    ids: tuple[str, ...] = ()
    sequence: int | None = None
    later: tuple[str, ...] = ()
    lines: frozenset[str] = frozenset()


class PreviousRun(msgspec.Struct, frozen=True, kw_only=True):
    """What earlier processes of a venue left: each symbol's `Published` and the gaps that were never closed.

    `floor` is from when on trades of any other symbol may be missing; None where such a symbol was never published.
    """

    symbols: Mapping[str, Published] = {}
    gaps: tuple[FeedStatus, ...] = ()
    floor: int | None = None

    def of(self, symbol: str) -> Published | None:
        """Return what was published of a symbol; None where nothing was."""
        found = self.symbols.get(symbol)
        if found is None and self.floor is not None:
            return Published(ts_whole=self.floor)
        return found


class History:
    """Collects what was published of one symbol's trades, event by event in the topic's order.

    `partition` is the topic's; `oldest` and `newest` are the times of the events that were taken.
    """

    __slots__ = ("_ids", "_later", "_lines", "_sequence", "_ts_trade", "_ts_whole", "newest", "oldest", "partition")

    def __init__(self, partition: int = 0) -> None:
        self.partition = partition
        self._ids: dict[str, None] = {}
        self._later: dict[str, None] = {}
        self._lines: set[str] = set()
        self._sequence: int | None = None
        self._ts_trade: int | None = None
        self._ts_whole: int | None = None
        self.newest = 0
        self.oldest = INT64_MAX

    @property
    def has_trades(self) -> bool:
        """Whether an id was found of a trade up to which nothing was missing."""
        return bool(self._ids)

    @property
    def lines(self) -> frozenset[str]:
        """The lines whose events were taken."""
        return frozenset(self._lines)

    def take(self, event: Trades) -> None:
        """Take the next event; those of a backfill state nothing about live trades."""
        if event.line.endswith("/history"):
            return
        self._lines.add(event.line)
        ids = [trade.trade_id for trade in event.trades if trade.action == "new"]
        self.newest = max(self.newest, event.ts_event)
        self.oldest = min(self.oldest, event.ts_event)
        if event.origin != "live" or not (event.valid or event.reason == HALTED):
            self._later.update(dict.fromkeys(ids))
            _bound(self._later, LATER_MAX)
            return
        self._ids.update(self._later)
        self._later.clear()
        self._ids.update(dict.fromkeys(ids))
        _bound(self._ids, IDS_MAX)
        self._ts_whole = max(self._ts_whole or 0, event.ts_event)
        if ids:
            self._ts_trade = max(self._ts_trade or 0, *[trade.ts_event for trade in event.trades])
            self._sequence = event.sequence

    def published(self) -> Published | None:
        """Return what was found; None where no valid event was."""
        if self._ts_whole is None:
            return None
        later = tuple(identity for identity in self._later if identity not in self._ids)
        return Published(ts_whole=self._ts_whole, ts_trade=self._ts_trade, ids=tuple(self._ids),
                         sequence=self._sequence, later=later, lines=self.lines)  # fmt: skip


def previous_run(
    histories: Mapping[str, History], gaps: Iterable[FeedStatus], wanted: Collection[str] | None, *, is_all: bool
) -> PreviousRun:
    """Return what histories (by symbol) and open gaps show; `is_all`: the topic was read from its start.

    A symbol of which no valid event was read was complete until its oldest gap began. Where no gap is open either, as
    when the end of one was delivered and the trades of its repair were not, nobody knows since when: for as long as the
    topic keeps records. A symbol of which nothing was read has no record after the last one of its partition.
    """
    open_gaps = sorted(gaps, key=lambda gap: gap.ts_recv)
    symbols: dict[str, Published] = {}
    endless: dict[str, int] = {}  # gaps of trades without an end: the process that opened them had not finished
    for gap in open_gaps:
        if gap.ts_from is not None and gap.ts_to is None and gap.expected is None:
            endless[gap.symbol] = min(endless.get(gap.symbol, gap.ts_from), gap.ts_from)
        if gap.ts_from is not None:
            known = symbols.get(gap.symbol)
            since = gap.ts_from if known is None else min(known.ts_whole, gap.ts_from)
            symbols[gap.symbol] = Published(ts_whole=since, lines=frozenset({gap.line}))
    for symbol, history in histories.items():
        found = history.published()
        if found is None:
            known = symbols.get(symbol)
            since = history.oldest if known is None else min(known.ts_whole, history.oldest)
            if known is None and not is_all:
                since -= KEPT_NS
            found = Published(ts_whole=since, lines=history.lines)
        elif symbol in endless and endless[symbol] < found.ts_whole:
            # The trades after the gap were delivered, and what states the rest of it was not: it is as it began.
            found = Published(ts_whole=endless[symbol], later=(*found.ids, *found.later), lines=found.lines)
        symbols[symbol] = found
    newest: dict[int, int] = {}
    for symbol, history in histories.items():
        if wanted is not None and symbol in wanted:
            newest[history.partition] = max(newest.get(history.partition, 0), history.newest)
    oldest = min((history.oldest for history in histories.values()), default=None)
    floor = None if is_all or wanted is None else min(newest.values(), default=oldest)
    return PreviousRun(symbols=symbols, gaps=tuple(open_gaps), floor=floor)


def _bound(ids: dict[str, None], limit: int) -> None:
    while len(ids) > limit:
        del ids[next(iter(ids))]


def resume(
    call: Call, product: Product, ledger: Ledger, published: Published, *, has_book: bool, has_trades: bool = True,
    by_sequence: bool = False,
) -> None:  # fmt: skip
    """Continue a product that an earlier process published: clear its book, open its gap, mark its trades.

    `by_sequence`: the numbers of its trades are the events' sequences, not their ids.
    """
    product.book_valid = product.book_seen = has_book
    if not has_trades:
        ledger.lose(call, product, RESTARTED, {ledger.book})
        return
    product.ts_trade = published.ts_whole if published.ts_trade is None else published.ts_trade
    product.ts_trades_vouched = published.ts_whole
    product.unproven = not published.ids
    for identity in published.ids:
        product.sent_ids.is_new(identity)
    if by_sequence:
        if published.sequence is not None:
            product.trade_ids.resume(published.sequence, ())
    elif published.ids and _is_number(published.ids[-1]):
        later = [int(identity) for identity in published.later if _is_number(identity)]
        product.trade_ids.resume(int(published.ids[-1]), later)
    ledger.lose(call, product, RESTARTED, {ledger.book, ledger.trades} if has_book else {ledger.trades})
    for identity in published.later:
        product.sent_ids.is_new(identity)


def _is_number(identity: str) -> bool:
    return identity.isascii() and identity.isdigit() and len(identity) < 19

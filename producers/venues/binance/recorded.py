"""Binance as recordings have it: also streams that a live line does not subscribe to, and other recorders' ways.

1. `depth5`, `depth10` and `depth20` send the best levels as a whole each time ("Partial Book Depth Streams",
   https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams). They are the book where no diff stream
   is joined with its snapshot.
2. A bare whole book names no symbol: where only one is known, and waits for its snapshot, it is that; some recorders
   write REST's answer among the frames.
3. A list comes where bare streams have tickers or marks of all symbols; it has no changes of a book.
"""

from __future__ import annotations

import re

import msgspec

from marketdata.errors import BadEvent
from producers.venues.binance import requests
from producers.venues.binance.feed import BinanceFeed
from producers.venues.binance.markets import Market
from producers.venues.binance.messages import BARE, COMBINED, HEAD, SNAPSHOT, Depth, Head
from producers.venues.binance.names import time_ns
from producers.venues.kit import books
from producers.venues.kit.calls import Call
from producers.venues.kit.sequence import OLD_RUN_MAX
from producers.venues.kit.venue import Signer

_PARTIAL = re.compile(r"depth\d+\b")
_HEADS = msgspec.json.Decoder(list[Head])


class RecordedFeed(BinanceFeed):
    """One connection of a recording."""

    def __init__(
        self, market: Market, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None
    ) -> None:  # fmt: skip
        super().__init__(market, line=line, products=products, token=token)
        self._partials: dict[str, tuple[int, int]] = {}  # update id of the last book, and how many older ones came

    def _lose_all(self, call: Call, reason: str) -> None:
        super()._lose_all(call, reason)
        self._partials.clear()

    def _general(self, call: Call) -> None:
        if call.payload[:1] == b"[":
            self._list(_HEADS.decode(call.payload))
            return
        frame = COMBINED.decode(call.payload)
        name, _, channel = frame.stream.partition("@")
        if _PARTIAL.match(channel) is not None:
            self._partial(call, name.upper(), bytes(frame.data))
        elif not frame.stream and HEAD.decode(call.payload).final is not None:
            self._bare_book(call)
        else:
            super()._general(call)

    def _list(self, heads: list[Head]) -> None:
        for head in heads:
            if not head.event or head.event in {"depthUpdate", "bookTicker", "trade", "aggTrade"}:
                raise BadEvent("unknown_frame", "e", head.event[:200])
        self.counts["ignored"] += 1

    def _partial(self, call: Call, name: str, data: bytes) -> None:
        """Take the best levels as the whole book, unless the diff stream has it."""
        state = self._state(call, name)
        if state is None or state.diffs.last is not None:
            self.counts["ignored"] += state is not None
            return
        if self._market.names_previous:
            diff: Depth = BARE["depthUpdate"].decode(data)
            number, matched_ms, columns = diff.final, diff.matched_ms or diff.ms, diff.columns()
        else:
            book = SNAPSHOT.decode(data)
            number, matched_ms, columns = book.number, 0, book.columns()
        last, olds = self._partials.get(name, (-1, 0))
        if number <= last and olds < OLD_RUN_MAX:
            self._partials[name] = (last, olds + 1)
            self.counts["duplicates"] += 1
            return
        ts = time_ns(matched_ms, "T") if matched_ms else call.now
        call.sequence = number
        books.snapshot(call, state.product, ts, columns)
        self._partials[name] = (number, 0)
        self._ledger.account(call, state.product, self.book_channel, ts)

    def _bare_book(self, call: Call) -> None:
        if len(self._states) != 1:
            call.dead("no_symbol", "a whole book that is not in a combined stream names no symbol")
            return
        (name,) = self._states
        self._rest_snapshot(call, requests.book(self._market, name, len(self._wanted or ())))

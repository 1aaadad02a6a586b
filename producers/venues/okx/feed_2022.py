"""OKX as captures of before 2023 have it: books without `seqId`, which are given numbers and then read as today's.

The time in ms rises with each update of an instrument (checked on recordings of May 2022) and stands for its number; of
two updates of one ms the later is one higher. An older time that was not seen before means that frames came out of
order, which is a loss. Such captures have checksums. Books with numbers are read as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from marketdata.events import GAP
from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product
from producers.venues.kit.values import INT64_MAX, integer
from producers.venues.kit.venue import Signer
from producers.venues.okx.feed import Book, BookFrame, OkxFeed, SeqId, State

_NONE = -INT64_MAX


class _OldBook(Book):
    number: SeqId = msgspec.field(name="seqId", default=_NONE)


class _OldBookFrame(BookFrame):
    data: Sequence[_OldBook]


class OkxFeed2022(OkxFeed):
    """One line of a recording."""

    book_frame = msgspec.json.Decoder(_OldBookFrame)

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        super().__init__(line=line, products=products, token=token)
        self._given: dict[str, tuple[int, int]] = {}  # the last time in ms by instrument, and the number that it got

    def _is_next(self, call: Call, product: Product, state: State, sent: Book, *, is_snapshot: bool) -> bool:
        if sent.number != _NONE:
            return super()._is_next(call, product, state, sent, is_snapshot=is_snapshot)
        ms = integer(sent.ts, "ts")
        last_ms, last = self._given.get(product.name, (0, 0))
        is_new = state.recent.is_new((is_snapshot, ms, sent.checksum))
        if not product.book_valid or state.last is None:
            self.counts["deltas_before_snapshot"] += not is_snapshot
            if not is_snapshot:
                return False
        elif not is_new:
            self.counts["duplicates"] += 1
            return False
        elif not is_snapshot and ms < last_ms:
            self._lose(call, (product,), (self.book_channel,), GAP, "sequence", expected=last_ms, received=ms)
            return False
        sent.number = max(ms, last + 1)
        self._given[product.name] = ms, sent.number
        return True

"""OKX as captures of before 2023 have it: books without `seqId`, which are given numbers and then read as today's.

The time in ms rises with each update of an instrument (checked on recordings of May 2022) and stands for its number; of
two updates of one ms the later is one higher. An older time that was not seen before means that frames came out of
order, which is a loss. Such captures have checksums. Books with numbers are read as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from producers.venues.kit.calls import Call
from producers.venues.kit.products import Product
from producers.venues.kit.trade_ids import Recent
from producers.venues.kit.values import INT64_MAX, integer
from producers.venues.kit.venue import Signer
from producers.venues.okx.feed import Book, BookFrame, OkxFeed, SeqId

_NONE = -INT64_MAX


class _OldBook(Book):
    number: SeqId = msgspec.field(name="seqId", default=_NONE)


class _OldBookFrame(BookFrame):
    data: Sequence[_OldBook]


class _Numbers:
    """The numbers that the books of one channel were given."""

    __slots__ = ("last", "last_ms", "seen")

    def __init__(self) -> None:
        self.last = self.last_ms = 0
        self.seen = Recent()


class OkxFeed2022(OkxFeed):
    """One line of a recording."""

    book_frame = msgspec.json.Decoder(_OldBookFrame)

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        super().__init__(line=line, products=products, token=token)
        self._numbers: dict[tuple[str, str], _Numbers] = {}

    def _book(self, call: Call, product: Product, ts_event: int, frame: BookFrame, sent: Book) -> None:
        if sent.number != _NONE:
            super()._book(call, product, ts_event, frame, sent)
            return
        numbers = self._numbers.setdefault((product.name, frame.arg.channel), _Numbers())
        ms = integer(sent.ts, "ts")
        is_new = numbers.seen.is_new((frame.action, ms, sent.checksum))
        if not is_new and product.book_valid:
            self.counts["duplicates"] += 1
            return
        if ms < numbers.last_ms and frame.action == "update":
            sent.previous, sent.number = _NONE, ms  # not what came before: a loss
        else:
            sent.previous, sent.number = numbers.last, max(ms, numbers.last + 1)
            numbers.last, numbers.last_ms = sent.number, ms
        super()._book(call, product, ts_event, frame, sent)

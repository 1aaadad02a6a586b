"""Databento: each schema is acknowledged for all symbols, and each symbol that does not resolve is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import databento_dbn as codec

from marketdata import dbn
from producers.venues.databento.gateway import Login, Session, read_line
from tests.producers.conformance.fake_venue import PRICE, Asked, FakeVenue, Fate, Mark

_PRICE = 1_000_000_000
_FOREVER = 2**64 - 1


class Databento(FakeVenue):
    """One session with the schema of single orders, which has the trades as well."""

    names = ("ESZ6", "NQZ6")
    base = "ESZ"
    book = trades = "mbo"
    answers_first = True
    size = "5"
    # "Standards and conventions": the flags of a record.
    marks = (Mark({"flags": dbn.LAST | dbn.BAD_TS_RECV}, ("BAD_TS_RECV",)), Mark({}, ()))

    def __init__(self) -> None:
        self.token = Login("db-key-of-nobody", Session(schemas=("mbo",)))
        self._numbers: dict[str, int] = {}
        self._streams = False

    def greeting(self, ts: int) -> list[bytes]:
        """Return the challenge."""
        return [b"lsg_version=0.6.0\n", b"cram=abc\n"]

    def asked(self, message: bytes) -> list[Asked]:
        """Return one for each symbol of a line."""
        lines = [read_line(line) for line in message.splitlines()]
        return [Asked("subscribe", line["schema"], name) for line in lines if "schema" in line
                for name in line["symbols"].split(",")]  # fmt: skip

    def answer(self, message: bytes, fates: Callable[[Asked], Fate], ts: int) -> list[bytes]:
        """Let us in; begin with metadata; acknowledge the schema, and name what did not resolve."""
        if message.startswith(b"auth="):
            return [b"success=1|session_id=5\n"]
        asked = self.asked(message)
        if not asked:
            return []
        self._streams = True
        metadata = codec.Metadata(dataset="GLBX.MDP3", start=ts, stype_in=dbn.RAW_SYMBOL, stype_out=dbn.INSTRUMENT_ID,
                                  mappings=[], schema=None, version=3)  # fmt: skip
        frames = [bytes(metadata)]
        if "unanswered" in map(fates, asked):
            return frames
        text = f"Subscription request 1 for {asked[0].channel} data succeeded"
        frames.append(bytes(codec.SystemMsg(ts, text, codec.SystemCode(1))))
        for one in asked:
            if fates(one) == "refused":
                text = f"Failed to resolve symbol {one.name}."
                frames.append(bytes(codec.ErrorMsg(ts, text, code=codec.ErrorCode(4))))
            else:
                frames.append(self._mapping(one.name, ts))
        return frames

    def accepted_later(self, name: str, ts: int) -> list[bytes]:
        """Return the mapping of a symbol that is listed now: nothing has to be requested again."""
        return [self._mapping(name, ts), *self.snapshot(name, ts)]

    def _mapping(self, name: str, ts: int) -> bytes:
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        raw = dbn.RAW_SYMBOL
        return bytes(codec.SymbolMappingMsg(1, number, ts, raw, name, raw, name, 0, _FOREVER))

    def snapshot(self, name: str, ts: int) -> list[bytes]:
        """Return the orders of the book, after what clears it."""
        number = self._numbers[name]
        last = dbn.SNAPSHOT | dbn.LAST
        return [_order(number, ts, "R", flags=dbn.SNAPSHOT)
                + _order(number, ts, "A", order=1, price="9", side="B", flags=dbn.SNAPSHOT)
                + _order(number, ts, "A", order=2, price="11", side="A", flags=last)]  # fmt: skip

    def trade(self, name: str, number: int, ts: int, price: str = PRICE, **fields: Any) -> list[bytes]:
        """Return a trade among the orders, whose buyer took."""
        flags = fields.get("flags", dbn.LAST)
        return [_order(self._numbers[name], ts, "T", price=price, side="B", flags=flags, sequence=number)]

    def alive(self, ts: int) -> list[bytes]:
        """Return the gateway's heartbeat."""
        return [bytes(codec.SystemMsg(ts, "", codec.SystemCode(0)))] if self._streams else []


def _order(
    instrument: int, ts: int, action: str, *, order: int = 0, price: str = "", side: str = "N", flags: int = 0,
    sequence: int = 5,
) -> bytes:  # fmt: skip
    value = int(price) * _PRICE if price else dbn.UNDEF_PRICE
    return dbn.ORDER.pack(14, dbn.MBO, 1, instrument, ts, order, value, 5, flags, 0, ord(action), ord(side), ts, 0,
                          sequence)  # fmt: skip

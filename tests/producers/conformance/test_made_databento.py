"""Wrong bytes in any Databento record cost at most what the record contains, and are repaired."""

from __future__ import annotations

import databento_dbn as codec
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata import dbn
from marketdata.events import DeadLetter
from producers.venues.databento.feed import DatabentoFeed
from producers.venues.databento.gateway import Login, Session
from tests.producers.conformance.cases import SECOND
from tests.producers.conformance.follower import FEW, TS, Follower

# --- Databento ---


def order(action: str, number: int = 0, price: int = dbn.UNDEF_PRICE, side: str = "N", flags: int = dbn.LAST) -> bytes:
    """Return a record of orders, of the instrument 7."""
    return dbn.ORDER.pack(14, dbn.MBO, 1, 7, TS, number, price, 5, flags, 0, ord(action), ord(side), TS, 0, 5)


def priced(kind: int, action: str, *levels: bytes) -> bytes:
    """Return a record that begins with a trade."""
    length = (dbn.TRADE_BODY.size + sum(map(len, levels))) // dbn.WORD
    body = (length, kind, 1, 7, TS, 100 * SECOND, 5, ord(action), ord("B"), dbn.LAST, 0, TS, 0, 5)
    return dbn.TRADE_BODY.pack(*body) + b"".join(levels)


LEVEL = dbn.LEVEL_COUNTED.pack(99 * SECOND, 101 * SECOND, 3, 4, 1, 1)
BOOK = [order("R", flags=dbn.SNAPSHOT), order("A", 1, 100 * SECOND, "B", dbn.SNAPSHOT | dbn.LAST)]
RECORDS = {
    "order": order("A", 2, 101 * SECOND, "A"), "change": order("M", 1, 99 * SECOND, "B"),
    "cancel": order("C", 1, 100 * SECOND, "B"), "clear": order("R"), "traded": order("T", 0, 100 * SECOND, "B"),
    "trade": priced(dbn.TRADE, "T"), "levels": priced(dbn.MBP_10, "A", LEVEL, *[LEVEL] * 9),
    **{f"quote {kind}": priced(kind, "A", LEVEL) for kind in (dbn.MBP_1, dbn.TBBO, dbn.BBO_1S, dbn.CMBP_1)},
    "status": dbn.STATUS_BODY.pack(10, dbn.STATUS, 1, 7, TS, TS, 7, 50, 0, ord("Y"), ord("~"), ord("~")),
    "system": bytes(codec.SystemMsg(TS, "", codec.SystemCode(0))),
    "error": bytes(codec.ErrorMsg(TS, "no", code=codec.ErrorCode(4))),
}  # fmt: skip


@settings(FEW, max_examples=120)
@given(data=st.data(), kind=st.sampled_from(sorted(RECORDS)), dataset=st.sampled_from(["GLBX.MDP3", "XNAS.ITCH"]),
       is_file=st.booleans())  # fmt: skip
def test_wrong_bytes_of_databento_publish_nothing_wrong_and_are_repaired(
    data: st.DataObject, kind: str, dataset: str, *, is_file: bool
) -> None:
    """One byte of a record, or eight at once as in a price or a time; a refused record of orders costs the book."""
    record = bytearray(RECORDS[kind])
    width = data.draw(st.sampled_from([1, 4, 8]))
    at = data.draw(st.integers(0, len(record) // width - 1)) * width
    record[at : at + width] = data.draw(st.sampled_from(
        [bytes(width), b"\xff" * width, b"\xff" * (width - 1) + b"\x7f", bytes(width - 1) + b"\x80",
         bytes([record[at] ^ 1, *record[at + 1 : at + width]])]))  # fmt: skip
    follower = Follower(is_file=is_file)
    schema = "mbp-10" if kind == "levels" else "mbo"
    login = None if is_file else Login("db-key-of-nobody", Session(schemas=(schema,)))
    feed = DatabentoFeed(line="databento/0", products=("ES.c.0",), token=login)
    metadata = bytes(codec.Metadata(dataset=dataset, start=TS, stype_in=dbn.RAW_SYMBOL, stype_out=dbn.INSTRUMENT_ID,
                                    mappings=[], schema=None, version=3))  # fmt: skip
    follower.take(feed.opened(TS))
    begin = [] if kind == "levels" else BOOK
    for frame in [*([] if is_file else [b"cram=abc\n", b"success=1|session_id=5\n"]), metadata, *begin]:
        follower.take(feed.received(frame, TS))
    assert follower.valid == dict.fromkeys(["7"] if begin else [], True)
    out = follower.take(feed.received(bytes(record), TS))
    assert not follower.due, "a book was cleared, and nothing requested it or stated the loss"
    refused = [output.reason for output in out if isinstance(output, DeadLetter)]
    if begin and kind not in {"status", "system", "error"} and set(refused) - {"bad_trade"}:
        assert not follower.valid["7"]
    for frame in BOOK:
        follower.take(feed.received(frame, TS))
    follower.take(feed.ticked(TS + SECOND))
    follower.take(feed.closed("reset", TS + SECOND))
    assert not any(follower.valid.values())

"""FIX venues that differ: no W at all, instruments without a Symbol, and where a book without W is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import BookUpdate, FeedStatus, Instrument, Trades
from marketdata.feed import Output, Send
from marketdata.fix.codec import Fields, decode, encode, utc
from producers.venues import make_feed
from producers.venues.fix.login import FixLogin
from tests.producers.fix_messages import START, Desk, Reader, books_of, level, named


def opens(out: list[Output]) -> list[tuple[str, str]]:
    """Return kind and symbol of the books that are published."""
    return [(event.kind, event.symbol) for event in out if isinstance(event, BookUpdate)]


def news(*levels: tuple[str, str, str], symbol: str = "A/B", action: str = "0", by_id: bool = True) -> Fields:
    """Return the group of an X with one entry a level: side, price, size."""
    fields: Fields = [(268, str(len(levels)))]
    for number, (side, price, size) in enumerate(levels):
        entry_id = [(278, f"{symbol}{side}{number}")] if by_id else []
        fields += [(279, action), (269, side), *entry_id, (55, symbol), (270, price), (271, size)]
    return fields


BOOK = (("0", "1.1", "5"), ("0", "1.0", "6"), ("1", "1.2", "7"))


@pytest.mark.parametrize("by_id", [True, False])
def test_a_recording_without_any_w_begins_each_book_with_its_first_x(by_id: bool) -> None:
    """Behind a recorded Logon the first changes of a symbol, if all are New, are the whole book of that symbol."""
    desk, reader = Desk(None), Reader()
    out = desk.says("X", *news(*BOOK, by_id=by_id))
    assert opens(out) == [("snapshot", "A-B")]
    assert reader.top(out, "A-B") == ([("1.1", "5"), ("1.0", "6")], [("1.2", "7")])
    out = desk.says("X", *news(("0", "1.1", "9"), action="1", by_id=by_id))
    assert reader.top(out, "A-B")[0][0] == ("1.1", "9")
    assert opens(desk.says("X", *news(*BOOK, symbol="C/D", by_id=by_id))) == [("snapshot", "C-D")]
    assert desk.feed.counts["gaps"] == desk.feed.counts["dead_letters"] == 0


@pytest.mark.parametrize("first", ["1", "2", "5"])
def test_an_x_with_another_action_is_no_beginning(first: str) -> None:
    """A change of an entry that was never sent shows that the book began before; no later New makes it whole."""
    desk = Desk(None)
    assert not opens(desk.says("X", *news(("0", "1.1", "5"), action=first)))
    assert not opens(desk.says("X", *news(*BOOK)))
    assert desk.feed.counts["deltas_before_snapshot"] == 4


def test_a_recording_that_begins_behind_the_logon_has_no_book_without_w() -> None:
    """Nobody knows what was sent before."""
    feed = make_feed("fix")
    feed.opened(START)
    head: Fields = [(35, "X"), (49, "THEM"), (56, "US"), (34, "17"), (52, utc(START))]
    assert not opens(feed.received(encode("FIX.4.4", [*head, *news(*BOOK)]), START))


def test_a_venue_that_sends_w_has_no_book_before_it() -> None:
    """A W of any symbol shows that X alone is never a whole book there."""
    desk = Desk(None)
    desk.says("W", (55, "C/D"), (268, "1"), *level("9"))
    assert not opens(desk.says("X", *news(*BOOK)))


def test_a_lost_message_ends_a_book_without_w_until_the_next_logon() -> None:
    """What was lost may have been a change; the next Logon brings the whole book again."""
    desk = Desk(None)
    desk.says("X", *news(*BOOK))
    desk.number += 1
    desk.ts += 60_000_000_000
    out = desk.says("X", *news(("0", "1.1", "9"), action="1"))
    assert opens(out) == [("clear", "A-B")]
    desk.ts += 60_000_000_000
    assert "snapshot" not in [kind for kind, _ in opens(desk.says("X", *news(*BOOK)))]
    desk.number = 0
    desk.says("A", (98, "0"), (108, "10"), (141, "Y"))
    assert opens(desk.says("X", *news(*BOOK))) == [("snapshot", "A-B")]


def test_a_second_logon_without_a_loss_begins_the_books_again() -> None:
    """Entries of the session before are not mixed with those of this one."""
    desk, reader = Desk(None), Reader()
    desk.says("X", *news(*BOOK))
    assert opens(desk.says("A", (98, "0"), (108, "10"))) == [("clear", "A-B")]
    out = desk.says("X", *news(("0", "3", "1")))
    assert reader.top(out, "A-B") == ([("3", "1")], [])


@pytest.mark.parametrize("whole", [True, False])
def test_an_x_that_empties_the_book_begins_it(whole: bool) -> None:
    """MDEntryType J: what follows is the book, whatever was or was not known before."""
    desk, reader = Desk(None), Reader()
    if whole:
        reader.top(desk.says("W", (55, "A/B"), (268, "1"), *named("x", "0", "9", "1")), "A-B")
    else:
        desk.says("X", *news(("0", "1.1", "5"), action="1"))
    out = desk.says("X", (268, "2"), (279, "0"), (269, "J"), (55, "A/B"), *named("y", "1", "4", "2", action="0"))
    assert reader.top(out, "A-B") == ([], [("4", "2")])


def x_only(products: tuple[str, ...] = ("A/B",), **more: object) -> Desk:
    """Return a desk at a live venue of which the settings say that it sends no W."""
    token = FixLogin(senders=("US",), target="THEM", begin="FIX.4.4", heartbeat_s=10, reset=True, **more)
    desk = Desk.__new__(Desk)
    desk.feed = make_feed("fix", products=products, token=token)
    desk.number, desk.ts = 0, START
    desk.sent = [output for output in desk.feed.opened(START) if isinstance(output, Send)]
    desk.logon = desk.says("A", (98, "0"), (108, "10"), (141, "Y"))
    return desk


def requests(out: list[Output]) -> list[tuple[str, str]]:
    """Return MDReqID and SubscriptionRequestType of the requests of market data."""
    sent = [decode(output.frame) for output in out if isinstance(output, Send)]
    return [(message.get(262), message.get(263)) for message in sent if message.kind == "V"]


def test_a_live_venue_without_w_is_followed_where_the_settings_say_so() -> None:
    """The first X that answers the newest request is the book; after a loss it is asked for, and begins again."""
    desk, reader = x_only(snapshots=False), Reader()
    ((request, _),) = requests(desk.logon)
    assert not opens(desk.says("X", *news(*BOOK))), "without an MDReqID it answers nothing"
    desk = x_only(snapshots=False)
    ((request, _),) = requests(desk.logon)
    out = desk.says("X", (262, request), *news(*BOOK))
    assert reader.top(out, "A-B") == ([("1.1", "5"), ("1.0", "6")], [("1.2", "7")])
    out = desk.says("X", (262, request), (268, "1"), (279, "1"), (278, "nobody"), (55, "A/B"), (271, "1"))
    (old, new) = requests(out)
    assert (old, new[1]) == ((request, "2"), "1")
    assert not opens(desk.says("X", (262, request), *news(*BOOK))), "of the request that was given up"
    assert opens(desk.says("X", (262, new[0]), *news(*BOOK))) == [("snapshot", "A-B")]


def test_a_live_venue_with_w_has_no_book_before_it() -> None:
    """The usual setting."""
    desk = x_only()
    ((request, _),) = requests(desk.logon)
    assert not opens(desk.says("X", (262, request), *news(*BOOK)))


@pytest.mark.parametrize("symbol", [None, "[N/A]", ""])
def test_security_id_names_an_instrument_without_symbol(symbol: str | None) -> None:
    """SecurityID (48) with its source (22); in changes it may stand behind the values of the first entry only."""
    desk, reader = Desk(None), Reader()
    head: Fields = [*([(55, symbol)] if symbol else []), (48, "EURJPY10Y=TDS"), (22, "8")]
    out = desk.says("W", *head, (167, "FXFWD"), (268, "1"), *named("a", "0", "-36.5", "1"))
    assert reader.top(out, "EURJPY10Y=TDS") == ([("-36.5", "1")], [])
    out = desk.says("X", (268, "2"), (279, "1"), (269, "0"), (278, "a"), (270, "-36"), (271, "2"), *head,
                    *named("b", "1", "-35", "3", action="0"))  # fmt: skip
    assert reader.top(out, "EURJPY10Y=TDS") == ([("-36", "2")], [("-35", "3")])
    assert [o.venue_symbol for o in out if isinstance(o, Instrument)] == []


def test_both_names_of_an_instrument_are_one() -> None:
    """A message with Symbol and SecurityID shows it; later ones may have either."""
    desk, reader = Desk(None), Reader()
    reader.top(desk.says("W", (55, "A/B"), (48, "id1"), (22, "4"), (268, "1"), *named("a", "0", "1", "1")), "A-B")
    for fields in ([(48, "id1"), (22, "4")], [(48, "id1")], [(55, "A/B")]):
        out = desk.says("X", (268, "1"), (279, "1"), (269, "0"), (278, "a"), *fields, (270, "2"), (271, "3"))
        assert reader.top(out, "A-B") == ([("2", "3")], [])
    assert books_of(desk.says("W", (48, "id1"), (22, "8"), (268, "1"), *level("9"))) == [("id1", "snapshot", ["9"])]


def test_an_unreadable_change_of_an_instrument_by_id_costs_only_its_book() -> None:
    """The SecurityID says whose it was."""
    desk = Desk(None)
    for name in ("id1", "id2"):
        desk.says("W", (48, name), (22, "4"), (268, "1"), *level("9"))
    out = desk.says("X", (268, "1"), (279, "0"), (269, "0"), (48, "id1"), (270, "junk"), (271, "1"))
    assert opens(out) == [("clear", "id1")]


def test_products_may_be_security_ids() -> None:
    """FIX_SECURITY_ID_SOURCE: requests have Symbol [N/A], id and source; answers are known by the id."""
    desk = x_only(("id1",), security_id_source="4")
    sent = [decode(output.frame) for output in desk.logon if isinstance(output, Send)]
    assert [(m.kind, m.get(55), m.get(48), m.get(22)) for m in sent] == [
        (kind, "[N/A]", "id1", "4") for kind in ("x", "e", "V")
    ]
    out = desk.says("W", (55, "A/B"), (48, "id1"), (22, "4"), (268, "1"), *level("9"))
    assert books_of(out) == [("id1", "snapshot", ["9"])]
    out = desk.says("y", (146, "1"), (48, "id1"), (22, "4"), (969, "0.5"))
    assert [(o.venue_symbol, o.tick_size) for o in out if isinstance(o, Instrument)] == [("id1", "0.5")]


def test_a_symbol_whose_request_is_rejected_is_on_the_ledger_until_its_book_comes() -> None:
    """Nothing vouches for it meanwhile; the dead letter has the venue's text, and so has the status."""
    desk = x_only(("A/B", "C/D"))
    (first, _), (second, _) = requests(desk.logon)
    out = desk.says("Y", (262, first), (281, "0"), (58, "unknown symbol"))
    published = [(o.kind, o.reason, o.symbol, o.detail) for o in out if isinstance(o, FeedStatus)]
    assert published[0] == ("unsubscribed", "refused", "A-B", "unknown symbol")
    assert published[1][:3] == ("gap", "unsubscribed", "A-B")
    assert [(o.symbol, o.valid) for o in out if isinstance(o, Trades)] == [("A-B", False)]
    assert not [o for o in desk.says("0") if isinstance(o, Trades) and o.valid]
    desk.says("W", (262, second), (55, "C/D"), (268, "1"), *level("9"))
    out = desk.says("W", (55, "A/B"), (268, "1"), *level("9"))
    assert "subscribed" in [o.kind for o in out if isinstance(o, FeedStatus)]


@pytest.mark.parametrize(("sent", "conditions", "excluded"), [
    ("", (), ()), ("AR", ("AR",), ()), ("E B", ("E", "B"), ("high_low", "open_close")),
    ("a", ("a",), ("high_low", "open_close")),
])  # fmt: skip
def test_trade_conditions_are_kept_as_the_venue_writes_them(
    sent: str, conditions: tuple[str, ...], excluded: tuple[str, ...]
) -> None:
    """TradeCondition (277), values with spaces between them."""
    desk = Desk(None)
    more: Fields = [(277, sent)] if sent else []
    out = desk.says("X", (268, "1"), *named("t", "2", "5", "1", action="0", symbol="A/B"), *more)
    (one,) = [trade for o in out if isinstance(o, Trades) for trade in o.trades]
    assert (one.conditions, one.excluded_from) == (conditions, excluded)


CHANGES = st.lists(
    st.tuples(st.sampled_from("01"), st.sampled_from("012"), st.integers(0, 5), st.integers(1, 9)), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(changes=CHANGES)
def test_a_book_without_w_is_what_the_table_of_its_entries_holds(changes: list[tuple[str, str, int, int]]) -> None:
    """Whatever comes after the first X, the book is that of the entries, or it is cleared at a change of no entry."""
    desk = Desk(None)
    desk.says("X", *news(*BOOK))
    table = {f"A/B{side}{n}": (side, price, size) for n, (side, price, size) in enumerate(BOOK)}
    followed: dict[tuple[str, str], str] = {(side, price): size for side, price, size in BOOK}
    for side, action, number, size in changes:
        name, price = f"e{number}", f"{number + (2 if side == '1' else 0.5)}"
        out = desk.says("X", (268, "1"), *named(name, side, price, str(size), action=action, symbol="A/B"))
        if action == "1" and name not in table:
            assert opens(out) == [("clear", "A-B")]
            return
        table.pop(name, None)  # a delete of no entry changes nothing
        if action != "2":
            table[name] = (side, price, str(size))
        for event in (o for o in out if isinstance(o, BookUpdate)):
            sides = (("0", event.bid_prices, event.bid_sizes), ("1", event.ask_prices, event.ask_sizes))
            followed |= {(s, p): z for s, prices, sizes in sides for p, z in zip(prices, sizes, strict=True)}
        sums: dict[tuple[str, str], int] = {}
        for at, price_at, size_at in table.values():
            sums[at, price_at] = sums.get((at, price_at), 0) + int(size_at)
        assert {at: int(size) for at, size in followed.items() if size != "0"} == sums

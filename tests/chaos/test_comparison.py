"""The comparison sees what it is there to see: each kind of violation in made-up data, and nothing in right data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from infra.chaos import bars, books, candles, derivatives, ledger, trades
from infra.chaos.findings import Findings
from infra.chaos.ledger import Happened
from infra.chaos.published import Gap, Published
from infra.chaos.record import ProductRecord
from infra.chaos.schedule import Fault
from infra.chaos.trades import TopicTrades
from marketdata.clock import SECOND_NS
from marketdata.events import Book, BookUpdate, Candle, Metrics, Trade, Trades
from marketdata.recipes import read_recipes

SYMBOL = "BTC-USD"
START = 1_700_000_040 * SECOND_NS  # a whole minute
MINUTE = 60 * SECOND_NS


def record(count: int = 4) -> ProductRecord:
    """Return a record of some trades, ten seconds apart, and of a book that three frames changed."""
    made = [[number, START + number * 10 * SECOND_NS, f"10{number}", "2", "buy"] for number in range(count)]
    return ProductRecord(made, {
        "book": {"version": 10, "bids": [["100", "1"], ["99", "1"]], "asks": [["101", "1"]]},
        "changes": [[11, [["bid", "100", "3"]]], [12, [["bid", "99", "0"]]], [14, [["ask", "102", "5"]]]],
        "sent": [{"connection": 1, "opened": START, "closed": None, "frames": [[0, 10], [3, 11], [4, 12], [9, 14]]}],
    })  # fmt: skip


def topic(numbers: list[int], known: ProductRecord) -> TopicTrades:
    """Return a topic that has these trades of the record, one in each of its messages."""
    published = []
    for offset, number in enumerate(numbers):
        deal = known.deals[number]
        trade = Trade(trade_id=str(number), ts_event=deal.ts, price=deal.price, size=deal.size, side=deal.side)
        event = Trades(venue="coinbase", symbol=SYMBOL, ts_event=deal.ts, ts_recv=deal.ts, line="a", trades=(trade,))
        published.append(Published(0, offset, event))
    return TopicTrades(published)


def gap(**fields: Any) -> Gap:
    """Return an entry of the ledger, by default open from the start on."""
    usual: dict[str, Any] = {
        "gap_id": "g", "symbol": SYMBOL, "channel": None, "state": "open", "reason": "gap", "ts_from": START,
        "ts_to": None, "expected": None, "received": None, "detected": START, "repaired": None, "repaired_by": None,
    }  # fmt: skip
    return Gap(**(usual | fields))


@pytest.mark.parametrize(
    ("numbers", "gaps", "violations"),
    [
        ([0, 1, 2, 3], [], {}),
        ([0, 1, 3], [], {"trade_missing": 1}),
        ([0, 1, 1, 2, 3], [], {"trade_doubled_in_topic": 1}),
        ([0, 1, 3], [gap()], {}),
        ([0, 1, 3], [gap(channel="level2")], {"trade_missing": 1}),
        ([0, 1, 3], [gap(symbol="*", channel="market_trades", expected=2, received=3)], {}),
        ([0, 1, 3], [gap(channel="market_trades", expected=3, received=9)], {"trade_missing": 1}),
        ([0, 1, 3], [gap(ts_to=START + 5)], {"trade_missing": 1}),
        ([0, 1, 3], [gap(state="repaired", repaired=START + MINUTE)], {"trade_missing_in_repaired_gap": 1}),
        ([], [], {"trade_missing": 1}),
    ],
)
def test_a_trade_is_in_the_topic_once_or_in_an_open_gap(
    numbers: list[int], gaps: list[Gap], violations: dict[str, int]
) -> None:
    """Trades before the first one in the topic were made before anybody listened."""
    findings, known = Findings(), record()
    trades.compare(topic(numbers, known), {SYMBOL: known}, gaps, findings)
    assert findings.violations == violations


def candle(**fields: Any) -> Candle:
    """Return the right candle of the record's first minute, with some fields changed."""
    right = Candle(
        venue="coinbase", symbol=SYMBOL, interval="1m", start=START, end=START + MINUTE, ts_event=START, ts_recv=START,
        open="100", high="103", low="100", close="103", volume="8", quote_volume="812", buy_volume="8", trades=4,
        state="final",
    )  # fmt: skip
    return msgspec.structs.replace(right, **fields)


@pytest.mark.parametrize(
    ("published", "numbers", "violations"),
    [
        ([candle()], [0, 1, 2, 3], {}),
        ([candle(trades=3), candle(state="revised", revision=1)], [0, 1, 2, 3], {}),
        ([candle(close="102")], [0, 1, 2, 3], {"candle_differs_from_topic": 1, "candle_valid_and_wrong": 1}),
        ([candle(volume="6", valid=False, reason="gap")], [0, 1, 2, 3], {"candle_differs_from_topic": 1}),
        ([candle()], [0, 1, 2], {"candle_differs_from_topic": 1}),
        ([candle(close="102", high="102", volume="6", quote_volume="606", buy_volume="6", trades=3)], [0, 1, 2],
         {"candle_valid_and_wrong": 1}),
        ([candle(), candle()], [0, 1, 2, 3], {"candle_published_twice": 1}),
    ],
)  # fmt: skip
def test_a_candle_is_its_trades_and_a_valid_one_the_exchanges(
    published: list[Candle], numbers: list[int], violations: dict[str, int]
) -> None:
    """The last state of a candle has every trade of the topic; one that lacks a trade of the exchange is not valid."""
    findings, known = Findings(), record()
    records = (Published(0, offset, one) for offset, one in enumerate(published))
    candles.compare(records, topic(numbers, known), {SYMBOL: known}, findings)
    assert findings.violations == violations


def update(sequence: int, bids: dict[str, str], asks: dict[str, str], **fields: Any) -> BookUpdate:
    """Return a change of the book."""
    return BookUpdate(
        venue="coinbase", symbol=SYMBOL, ts_event=START, ts_recv=START + 1, line="a", sequence=sequence,
        bid_prices=list(bids), bid_sizes=list(bids.values()), ask_prices=list(asks), ask_sizes=list(asks.values()),
        **({"kind": "update"} | fields),
    )  # fmt: skip


SNAPSHOT = update(0, {"100": "1", "99": "1"}, {"101": "1"}, kind="snapshot")


@pytest.mark.parametrize(
    ("published", "violations"),
    [
        ([SNAPSHOT, update(3, {"100": "3"}, {}), update(4, {"99": "0"}, {}), update(9, {}, {"102": "5"})], {}),
        ([SNAPSHOT, update(4, {"99": "0"}, {})], {"book_update_valid_and_wrong": 1}),
        ([SNAPSHOT, update(4, {"99": "0"}, {}, valid=False, reason="gap")], {}),
        ([SNAPSHOT, update(3, {"100": "3"}, {}), update(3, {"100": "3"}, {})], {"book_update_doubled": 1}),
        ([update(3, {"100": "3"}, {})], {"book_update_without_snapshot": 1}),
        ([SNAPSHOT, update(3, {}, {}, kind="clear"), SNAPSHOT], {}),
    ],
)
def test_a_rebuilt_book_is_the_exchanges_at_each_sequence(
    published: list[BookUpdate], violations: dict[str, int]
) -> None:
    """While it is valid; and no update comes twice, or without a snapshot before it."""
    findings = Findings()
    books.compare_updates(
        (Published(0, offset, one) for offset, one in enumerate(published)), {SYMBOL: record()}, findings
    )
    assert findings.violations == violations


@pytest.mark.parametrize(
    ("sequence", "bid", "valid", "wrong"),
    [(3, "3", True, 0), (3, "3.0", True, 0), (8, "3", True, 0), (3, "1", True, 1), (3, "1", False, 0)],
)
def test_the_best_levels_are_the_exchanges_at_their_sequence(sequence: int, bid: str, valid: bool, wrong: int) -> None:
    """A sequence between two frames of the book stands for the earlier one."""
    findings = Findings()
    asks = {"101": "1"}
    top = Book(
        venue="coinbase", symbol=SYMBOL, ts_event=START, ts_recv=START + 1, line="a", sequence=sequence, valid=valid,
        depth=1, bid_prices=["100"], bid_sizes=[bid], ask_prices=list(asks), ask_sizes=list(asks.values()),
    )  # fmt: skip
    books.compare_tops([Published(0, 0, top)], {SYMBOL: record()}, findings)
    assert findings.violations.total() == wrong


@pytest.mark.parametrize(("ts_from", "unexplained"), [(START, 0), (START - 60 * SECOND_NS, 1)])
def test_a_gap_is_explained_by_a_fault_at_its_time(ts_from: int, unexplained: int) -> None:
    """A gap that is over before the first fault began has another cause."""
    findings = Findings()
    entry = gap(ts_from=ts_from, ts_to=ts_from + SECOND_NS, detected=ts_from)
    ledger.compare([entry], [Happened(Fault(4.0, "kill", "producer"), START, START)], findings)
    assert findings.violations.total() == unexplained


TWO = read_recipes({"recipes": {"two": {"trades": 2}}})


def bar(number: int, **fields: Any) -> Candle:
    """Return the right bar of two trades of the record, with some fields changed."""
    first = 2 * number
    start, prices = START + first * 10 * SECOND_NS, (f"10{first}", f"10{first + 1}")
    right = candle(
        interval="tick:2", recipe="two", number=number, start=start, end=start + 10 * SECOND_NS + 1, open=prices[0],
        high=prices[1], low=prices[0], close=prices[1], volume="4", buy_volume="4", trades=2,
        quote_volume=str(2 * sum(map(int, prices))),
    )  # fmt: skip
    return msgspec.structs.replace(right, **fields)


@pytest.mark.parametrize(
    ("published", "violations"),
    [
        ([bar(0), bar(1)], {}),
        ([bar(0), bar(0), bar(1)], {"bar_published_twice": 1}),
        ([bar(0, state="open"), bar(1)], {"bar_missing": 1}),
        ([bar(0, volume="5"), bar(1)], {"bar_differs_from_topic": 1}),
        ([bar(0, end=1), bar(1)], {"bar_differs_from_topic": 1}),
        ([bar(0), bar(1), bar(2)], {"bar_invented": 1}),
    ],
)
def test_a_bar_by_recipe_is_there_once_and_is_its_trades(published: list[Candle], violations: dict[str, int]) -> None:
    """An open bar counts for nothing yet."""
    findings = Findings()
    records = [Published(0, offset, one) for offset, one in enumerate(published)]
    bars.compare(records, topic([0, 1, 2, 3], record()), TWO, findings)
    assert findings.violations == violations


@pytest.mark.parametrize(
    ("numbers", "changed", "violations"),
    [
        ([0, 1, 2], {}, {}),
        ([0, 2], {}, {"derivatives_not_as_sent": 1}),
        ([0, 1, 1, 2], {}, {"derivatives_not_as_sent": 1}),
        ([1, 0, 2], {}, {"derivatives_not_as_sent": 1}),
        ([0, 1, 2], {"mark_price": "1"}, {"derivative_wrong": 3}),
        ([0, 1, 2], {"valid": False, "reason": "gap"}, {"derivative_wrong": 3}),
    ],
)
def test_derivatives_come_once_in_order_as_they_were_sent(
    numbers: list[int], changed: dict[str, Any], violations: dict[str, int]
) -> None:
    """Each event's values depend on its number."""
    findings, symbol = Findings(), derivatives.SYMBOLS[0]
    events = [msgspec.structs.replace(derivatives.made(symbol, number, START), **changed) for number in numbers]
    kept = derivatives.compare([Published(0, at, one) for at, one in enumerate(events)], Counter({symbol: 3}), findings)
    assert findings.violations == violations
    assert len(kept) == len(numbers)


@pytest.mark.parametrize(("ts_from", "bid", "violations"), [
    (START, "3", {}), (START + 1, "3", {"metrics_not_consecutive": 1}), (START, "1", {"metrics_valid_and_wrong": 2}),
])  # fmt: skip
def test_metrics_are_the_exchanges_book_and_follow_each_other(
    ts_from: int, bid: str, violations: dict[str, int]
) -> None:
    """Their best levels at their sequence; each begins where the one before it ends."""
    findings = Findings()
    made = [
        Metrics(venue="coinbase", symbol=SYMBOL, ts_event=end, ts_recv=START + 1, line="a", sequence=3, valid=True,
                ts_from=begin, bid="100", bid_size=bid, ask="101", ask_size="1")
        for begin, end in ((START - 1, START), (ts_from, START + SECOND_NS))
    ]  # fmt: skip
    books.compare_metrics([Published(0, at, one) for at, one in enumerate(made)], {SYMBOL: record()}, findings)
    assert findings.violations == violations

"""What OKX sends about contracts is published for the contracts that are followed, and costs nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.events import (
    ALL_SYMBOLS,
    BookUpdate,
    DeadLetter,
    Derivative,
    FeedStatus,
    Instrument,
    Liquidation,
    Trades,
)
from marketdata.feed import Output, Send
from producers.venues.okx.feed import OkxFeed
from producers.venues.okx.feed_2022 import OkxFeed2022

T0 = 1_790_000_000_000_000_000
MS = T0 // 1_000_000
SECOND = 1_000_000_000
SPOT, SWAP, FUTURE, XPERP = "BTC-USDT", "BTC-USDT-SWAP", "BTC-USDT-270625", "BTC-USD_UM_XPERP-310404"
PER_PRODUCT = ("funding-rate", "mark-price", "open-interest")
LIQUIDATIONS = "liquidation-orders"


def opened(*products: str) -> tuple[OkxFeed, list[dict[str, Any]]]:
    """Return a feed that has subscribed, and the messages that it sent."""
    feed = OkxFeed(line="okx/0", products=products)
    return feed, messages(feed.opened(T0))


def messages(out: list[Output]) -> list[dict[str, Any]]:
    """Return what was sent, without pings."""
    return [json.loads(one.frame) for one in out if isinstance(one, Send) and one.frame != b"ping"]


def arguments(sent: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return channel and name of each argument; each has its channel's own key."""
    found = [(arg["channel"], arg["instType" if arg["channel"] == LIQUIDATIONS else "instId"])
             for message in sent for arg in message["args"]]  # fmt: skip
    return [one for one in found if one[0] not in {"books", "trades", "tickers"}]


def frame(channel: str, name: str, *items: dict[str, Any]) -> bytes:
    """Return a frame of a channel; each item is of now."""
    key = "instType" if channel == LIQUIDATIONS else "instId"
    data = [{"instId": name, "ts": str(MS), **item} for item in items]
    return json.dumps({"arg": {"channel": channel, key: name}, "data": data}).encode()


def liquidations(name: str, *details: dict[str, str]) -> bytes:
    """Return a frame of liquidations of one product."""
    return frame(LIQUIDATIONS, "SWAP", {"instId": name, "instType": "SWAP", "details": details})


def detail(side: str = "buy", size: str = "13", ms: int = MS) -> dict[str, str]:
    """Return one liquidation."""
    position = "short" if side == "buy" else "long"
    return {"bkLoss": "0", "bkPx": "0.5", "ccy": "", "posSide": position, "side": side, "sz": size, "ts": str(ms)}


def answer(event: str, channel: str, name: str) -> bytes:
    """Return an acknowledgement, or a refusal in the venue's words."""
    key = "instType" if channel == LIQUIDATIONS else "instId"
    if event == "error":
        msg = f"Wrong URL or channel:{channel},{key}:{name} doesn't exist. Please use the correct URL."
        return json.dumps({"event": event, "code": "60018", "msg": msg, "connId": "a"}).encode()
    return json.dumps({"event": event, "arg": {"channel": channel, key: name}, "connId": "a"}).encode()


def of(out: list[Output]) -> list[Derivative]:
    """Return the events about contracts."""
    return [one for one in out if isinstance(one, Derivative)]


def statuses(out: list[Output]) -> list[tuple[str, str, str, str | None]]:
    """Return symbol, kind, reason and channel of what happened to the feed."""
    return [(o.symbol, o.kind, o.reason, o.channel) for o in out if isinstance(o, FeedStatus)]


# --- Subscriptions ---


def test_spot_product_subscribes_to_none_of_them() -> None:
    """Its name is also that of an index, which nobody follows here."""
    assert arguments(opened(SPOT, "ETH-USDT")[1]) == []


def test_index_and_type_are_subscribed_once_for_all_their_contracts() -> None:
    """Funding is paid by swaps and X-Perps only ("Funding rate channel"); an option has none of these channels."""
    sent = arguments(opened(SPOT, SWAP, FUTURE, "BTC-USD-SWAP", XPERP, "BTC-USD-270625-66000-C")[1])
    assert len(sent) == len(set(sent))
    assert {channel: [name for each, name in sent if each == channel] for channel, _ in sent} == {
        "funding-rate": [SWAP, "BTC-USD-SWAP", XPERP],
        "mark-price": [SWAP, FUTURE, "BTC-USD-SWAP", XPERP],
        "open-interest": [SWAP, FUTURE, "BTC-USD-SWAP", XPERP],
        "index-tickers": ["BTC-USDT", "BTC-USD"],
        LIQUIDATIONS: ["SWAP", "FUTURES"],
    }


def test_three_hundred_contracts_keep_the_limits_of_a_message() -> None:
    """At most 100 arguments and 64 KB; books, trades and tickers are subscribed before."""
    _, sent = opened(*(f"C{number}-USDT-SWAP" for number in range(300)))
    assert [len(message["args"]) for message in sent] == [100] * 21 + [1]
    assert all(len(json.dumps(message)) < 65_536 for message in sent)
    assert [message["args"][0]["channel"] for message in sent[:9:3]] == ["books", "trades", "tickers"]


@pytest.mark.parametrize(
    ("channel", "name", "symbol"),
    [*((channel, SWAP, SWAP) for channel in PER_PRODUCT), ("index-tickers", "BTC-USDT", SWAP),
     (LIQUIDATIONS, "SWAP", ALL_SYMBOLS)],
)  # fmt: skip
def test_refused_channel_is_stated_and_requested_again_and_touches_no_book_and_no_trades(
    channel: str, name: str, symbol: str
) -> None:
    """Of a contract, also where its index has a spot product's name; of all where several share the subscription."""
    feed, _ = opened(SPOT, SWAP, "ETH-USDT-SWAP")
    feed.received(book(10, -1), T0)
    out = feed.received(answer("error", channel, name), T0)
    assert statuses(out) == [(symbol, "unsubscribed", "refused", channel)]
    assert [one.reason for one in out if isinstance(one, DeadLetter)] == ["venue_error"]
    assert not [one for one in out if isinstance(one, BookUpdate | Trades)]
    sent: list[tuple[str, str]] = []
    for second in range(1, 12):
        feed.received(b"pong", T0 + second * SECOND)
        sent += arguments(messages(feed.ticked(T0 + second * SECOND)))
    assert (channel, name) in sent
    out = feed.received(answer("subscribe", channel, name), T0 + 12 * SECOND)
    assert statuses(out) == [(symbol, "subscribed", "", channel)]
    assert kinds(feed.received(book(11, 10), T0 + 12 * SECOND)) == ["update"]


def test_channel_without_an_answer_is_stated_and_others_are_not() -> None:
    """Ten seconds after the request, though the connection is alive; what was acknowledged is subscribed."""
    feed, sent = opened(SWAP)
    feed.received(book(10, -1, SWAP), T0)
    asked = [(arg["channel"], arg.get("instId", arg.get("instType"))) for message in sent for arg in message["args"]]
    for channel, name in asked:
        if channel != LIQUIDATIONS:
            feed.received(answer("subscribe", channel, name), T0)
    out: list[Output] = []
    for second in range(1, 20):
        feed.received(b"pong", T0 + second * SECOND)
        out += feed.ticked(T0 + second * SECOND)
    assert statuses(out) == [(SWAP, "unsubscribed", "unacknowledged", LIQUIDATIONS)]


# --- Values ---


def test_index_is_published_for_each_of_its_contracts_and_for_no_spot_product() -> None:
    """`BTC-USDT` is a spot product too; contracts of another index have nothing of it."""
    feed, _ = opened(SPOT, SWAP, FUTURE, "BTC-USD-SWAP")
    out = feed.received(frame("index-tickers", "BTC-USDT", {"idxPx": "42308.1"}), T0)
    assert [(one.symbol, one.index_price) for one in of(out)] == [(SWAP, "42308.1"), (FUTURE, "42308.1")]


def test_contracts_of_a_family_follow_the_index_of_their_currencies() -> None:
    """`uly` of BTC-USD_UM-SWAP is BTC-USD ("General Info"), so that it is quoted in USD."""
    feed, _ = opened("BTC-USD_UM-SWAP", XPERP)
    out = feed.received(frame("index-tickers", "BTC-USD", {"idxPx": "42308.1"}), T0)
    assert [one.symbol for one in of(out)] == ["BTC-USD_UM-SWAP", XPERP]
    assert {one.quote_currency for one in out if isinstance(one, Instrument)} == {"USD"}


def test_index_that_no_contract_follows_is_ignored() -> None:
    """Also when a spot product of that name is followed."""
    feed, _ = opened(SPOT, "ETH-USDT-SWAP")
    assert feed.received(frame("index-tickers", "BTC-USDT", {"idxPx": "42308.1"}), T0) == []
    assert feed.received(frame("mark-price", SPOT, {"markPx": "42308.1", "instType": "MARGIN"}), T0) == []
    assert feed.counts["ignored"] == 2


def test_value_of_open_interest_is_unknown_where_dollars_are_not_the_quote_currency() -> None:
    """`oiUsd` is in US dollars, the event's value in the quote currency."""
    item = {"oi": "2874486.99000000925", "oiCcy": "28744.8", "oiUsd": "2385000000.5"}
    feed, _ = opened(SWAP, "BTC-USD-SWAP")
    found = [of(feed.received(frame("open-interest", name, item), T0))[0] for name in (SWAP, "BTC-USD-SWAP")]
    assert [(one.open_interest, one.open_interest_value) for one in found] == [
        ("2874486.99000000925", None), ("2874486.99000000925", "2385000000.5"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("times", "due", "interval", "dead"),
    [
        ((MS + 1_000, MS + 14_401_000), MS + 1_000, 14_400, 0),
        ((MS + 1_000, ""), MS + 1_000, None, 0),
        (("", MS + 14_401_000), None, None, 0),
        ((MS + 1_000, MS + 1_000), MS + 1_000, None, 1),
        ((MS * 2, MS * 2 + 14_400_000), None, 14_400, 1),
        (("soon", ""), None, None, 1),
    ],
)  # fmt: skip
def test_interval_of_funding_is_the_difference_of_the_two_times(
    times: tuple[Any, Any], due: int | None, interval: int | None, dead: int
) -> None:
    """As "Funding rate channel" says; what is missing or impossible costs neither the rate nor the other time."""
    item = {"fundingRate": "-0.0001", "fundingTime": str(times[0]), "nextFundingTime": str(times[1])}
    feed, _ = opened(SWAP)
    out = feed.received(frame("funding-rate", SWAP, item), T0)
    (event,) = of(out)
    assert event.funding_rate == "-0.0001"
    assert event.next_funding_ts == (None if due is None else due * 1_000_000)
    assert event.funding_interval == interval
    assert len([one for one in out if isinstance(one, DeadLetter)]) == dead


def test_only_followed_products_of_a_type_have_liquidations() -> None:
    """The venue sends those of every swap; nothing of another is published or announced."""
    feed, _ = opened(SWAP)
    assert feed.received(liquidations("IOST-USDT-SWAP", detail()), T0) == []
    assert feed.counts["ignored"] == 1
    assert feed.received(liquidations("SWAP", detail()), T0) == []
    (event,) = of(feed.received(liquidations(SWAP, detail()), T0))
    assert (event.symbol, len(event.liquidations)) == (SWAP, 1)


def test_side_of_a_liquidation_is_that_of_the_order_and_the_oldest_is_first() -> None:
    """A short position is closed by a purchase ("Liquidation orders channel": `side` is the order side)."""
    feed, _ = opened(SWAP)
    sent = [detail("buy", "13", MS - 2_000), detail("sell", "0.1", MS - 7_000)]
    (event,) = of(feed.received(liquidations(SWAP, *sent), T0))
    assert event.liquidations == (
        Liquidation(ts_event=(MS - 7_000) * 1_000_000, side="sell", price="0.5", size="0.1"),
        Liquidation(ts_event=(MS - 2_000) * 1_000_000, side="buy", price="0.5", size="13"),
    )
    assert event.ts_event == (MS - 2_000) * 1_000_000


@pytest.mark.parametrize(
    "bad", [{"side": "long"}, {"sz": "0"}, {"sz": "x"}, {"bkPx": ""}, {"ts": ""}, {"ts": str(MS * 2)}, {"sz": 13}]
)
def test_bad_liquidation_is_a_dead_letter_and_its_neighbours_pass(bad: dict[str, Any]) -> None:
    """Of the same product and of the next."""
    feed, _ = opened(SWAP, "ETH-USDT-SWAP")
    items = [{"instId": SWAP, "details": [detail() | bad, detail("sell")]},
             {"instId": "ETH-USDT-SWAP", "details": [detail()]}]  # fmt: skip
    out = feed.received(frame(LIQUIDATIONS, "SWAP", *items), T0)
    assert [(one.symbol, [each.side for each in one.liquidations]) for one in of(out)] == [
        (SWAP, ["sell"]), ("ETH-USDT-SWAP", ["buy"]),
    ]  # fmt: skip
    assert len([one for one in out if isinstance(one, DeadLetter)]) == 1


def test_item_that_cannot_be_read_costs_only_itself() -> None:
    """A price that is no text is a dead letter, and the next item is published."""
    feed, _ = opened(SWAP, FUTURE)
    out = feed.received(frame("mark-price", SWAP, {"markPx": 5}, {"instId": FUTURE, "markPx": "6"}), T0)
    assert [(one.symbol, one.mark_price) for one in of(out)] == [(FUTURE, "6")]
    assert [one.field for one in out if isinstance(one, DeadLetter)] == ["mark_price"]


@pytest.mark.parametrize("channel", [*PER_PRODUCT, "index-tickers", LIQUIDATIONS])
def test_frame_of_contracts_that_is_cut_off_costs_no_book(channel: str) -> None:
    """Its head says that it was no change of a book."""
    feed, _ = opened(SPOT, SWAP)
    feed.received(book(10, -1), T0)
    whole = frame(channel, SWAP, {}).replace(b'": ', b'":').replace(b", ", b",")
    out = feed.received(whole[:-5], T0)
    assert [type(one) for one in out] == [DeadLetter]


def test_recording_shows_the_contracts_that_it_has() -> None:
    """Without a list of products each contract that was seen follows its index, and no spot product does."""
    feed = OkxFeed2022(line="okx/0")
    feed.opened(T0)
    index = frame("index-tickers", "BTC-USDT", {"idxPx": "42308.1"})
    feed.received(book(10, -1), T0)
    assert of(feed.received(index, T0)) == []
    for name in (SWAP, FUTURE):
        assert [one.symbol for one in of(feed.received(frame("mark-price", name, {"markPx": "5"}), T0))] == [name]
    assert [one.symbol for one in of(feed.received(index, T0))] == [SWAP, FUTURE]


# --- Beside books and trades ---


def book(number: int, previous: int, name: str = SPOT) -> bytes:
    """Return a frame of `books`: a whole book, or a change of one size."""
    data = {"asks": [["11", "1", "0", "1"]], "bids": [["9", str(number), "0", "1"]], "ts": str(MS), "checksum": 0,
            "seqId": number, "prevSeqId": previous}  # fmt: skip
    action = "snapshot" if previous == -1 else "update"
    return json.dumps({"arg": {"channel": "books", "instId": name}, "action": action, "data": [data]}).encode()


def trade(number: int, name: str = SPOT) -> bytes:
    """Return a frame of one trade."""
    item = {"tradeId": str(number), "px": "10", "sz": "1", "side": "buy", "count": "1"}
    return frame("trades", name, item)


def kinds(out: list[Output]) -> list[str]:
    """Return what kinds of book changes these outputs hold."""
    return [one.kind for one in out if isinstance(one, BookUpdate)]


BESIDE = st.sampled_from([
    frame("funding-rate", SWAP, {"fundingRate": "0.0001", "fundingTime": str(MS + 5)}),
    frame("mark-price", SWAP, {"markPx": "10"}), frame("mark-price", SPOT, {"markPx": "10"}),
    frame("index-tickers", "BTC-USDT", {"idxPx": "10"}), frame("open-interest", SWAP, {"oi": "10"}),
    liquidations(SWAP, detail()), liquidations("SWAP", detail()), frame("mark-price", SWAP, {"markPx": "x", "ts": "0"}),
    frame("mark-price", SWAP, {})[:-3].replace(b'": ', b'":'),
    *(answer(event, channel, name) for event in ("subscribe", "error") for channel, name in
      [*((channel, SWAP) for channel in PER_PRODUCT), ("index-tickers", "BTC-USDT"), (LIQUIDATIONS, "SWAP")]),
])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(BESIDE, max_size=4), min_size=6, max_size=6))
def test_nothing_that_comes_of_contracts_changes_books_and_trades(beside: list[list[bytes]]) -> None:
    """Whatever comes between, and whatever is refused, their events are the same, of spot products and of contracts."""
    frames = [book(10, -1), book(10, -1, SWAP), trade(1), trade(1, SWAP), book(11, 10), trade(2, SWAP)]

    def played(between: list[list[bytes]]) -> list[Output]:
        feed, _ = opened(SPOT, SWAP)
        out: list[Output] = []
        for one, others in zip(frames, between, strict=True):
            for each in (*others, one):
                out += feed.received(each, T0)
        return [one for one in out if isinstance(one, BookUpdate | Trades)]

    assert played(beside) == played([[]] * len(frames))

"""Subscriptions, lists of products and pings of Bybit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from marketdata.events import FeedStatus, Trades
from marketdata.feed import Fetch, Output, Reconnect, Send
from producers.venues.bybit.feed import BybitFeed
from producers.venues.bybit.names import LINEAR
from tests.producers.bybit_messages import SECOND, T0, acknowledge, book, feed_with_book, kinds, orders


@pytest.fixture
def feed() -> BybitFeed:
    """A feed that has a book, numbered 10."""
    return feed_with_book()


def test_pings_are_sent_and_silence_is_left(feed: BybitFeed) -> None:
    """Every 20 s a ping (documented), and sooner on a quiet line; both forms of the answer are heartbeats."""
    assert set(feed.ticked(T0 + 21 * SECOND)) == {Send(b'{"op":"ping"}')}
    for pong in (b'{"success":true,"ret_msg":"pong","conn_id":"x","op":"ping"}', b'{"op":"pong","args":["1"]}'):
        assert feed.received(pong, T0 + 22 * SECOND) == []
    assert feed.counts["heartbeats"] == 2
    out = feed.ticked(T0 + 60 * SECOND)
    assert kinds(out) == ["clear"]
    assert isinstance(out[-1], Reconnect)


def test_a_long_list_of_products_is_read_page_by_page(feed: BybitFeed) -> None:
    """The next page is requested by the cursor that the venue gives; lists of other markets are left alone."""
    row = {"symbol": "BTCUSDT", "status": "Trading", "contractType": "LinearPerpetual", "settleCoin": "USDT"}

    def answer(category: str, cursor: str) -> bytes:
        return json.dumps({"result": {"category": category, "list": [row], "nextPageCursor": cursor}}).encode()

    (request,) = [o for o in feed.fetched(Fetch("", "products"), answer("linear", "a%3D1"), T0) if isinstance(o, Fetch)]
    assert request.path.endswith("&limit=1000&cursor=a%3D1")
    assert not [o for o in feed.fetched(request, answer("linear", ""), T0) if isinstance(o, Fetch)]
    assert feed.fetched(request, answer("spot", "b"), T0) == []


def statuses(out: list[Output]) -> list[tuple[str, str, str | None, str]]:
    """Return kind, symbol, channel and reason of the statuses among these outputs."""
    return [(o.kind, o.symbol, o.channel, o.reason) for o in out if isinstance(o, FeedStatus)]


def refusal(order: dict[str, Any], reason: str = "error:handler not found,topic:publicTrade.NOSUCHUSDT") -> bytes:
    """Return the venue's refusal of a message."""
    return json.dumps({"success": False, "ret_msg": reason, "conn_id": "x", "req_id": order["req_id"],
                       "op": order["op"]}).encode()  # fmt: skip


def test_a_refused_message_costs_only_the_product_at_fault() -> None:
    """The venue refuses all topics of a message: each product is requested by itself, and one is refused for good."""
    feed = BybitFeed(line="bybit/0", products=("BTCUSDT", "NOSUCHUSDT", "ETHUSDT"))
    sent = [json.loads(o.frame) for o in feed.opened(T0) if isinstance(o, Send)]
    by_channel = {order["args"][0].rpartition(".")[0]: order for order in sent}
    out = feed.received(refusal(by_channel["publicTrade"]), T0)
    assert orders(out) == [("subscribe", [f"publicTrade.{name}"]) for name in ("BTCUSDT", "NOSUCHUSDT", "ETHUSDT")]
    assert not statuses(out)
    alone = [json.loads(o.frame) for o in out if isinstance(o, Send)]
    out = feed.received(refusal(alone[1]), T0)
    assert ("unsubscribed", "NOSUCH-USDT", "publicTrade", "refused") in statuses(out)
    assert ("gap", "NOSUCH-USDT", "publicTrade", "unsubscribed") in statuses(out)
    assert [(o.valid, o.symbol) for o in out if isinstance(o, Trades)] == [(False, "NOSUCH-USDT")]
    for order in (alone[0], alone[2]):
        assert feed.received(refusal(order).replace(b"false", b"true"), T0) == []
    assert feed.counts["subscriptions"] == 2


def test_a_subscription_without_an_answer_is_on_the_ledger_and_requested_again(feed: BybitFeed) -> None:
    """Ten seconds without an acknowledgement; the answer that comes at last ends it."""
    late = BybitFeed(line="bybit/0", products=("BTCUSDT",), market=LINEAR)
    late.opened(T0)
    late.received(book("snapshot", 10, bids=[("9", "1")]), T0)  # its data proves the book's
    out = late.ticked(T0 + 15 * SECOND)
    lost = {(kind, channel) for kind, _, channel, _ in statuses(out) if kind == "unsubscribed"}
    assert lost == {("unsubscribed", channel) for channel in ("publicTrade", "tickers", "allLiquidation")}
    late.received(book("delta", 11, bids=[("9", "2")]), T0 + 60 * SECOND)
    again = late.ticked(T0 + 80 * SECOND)
    assert not [o for o in again if isinstance(o, Fetch) and o.purpose == "trades"]  # which would prove nothing
    assert ("subscribe", ["publicTrade.BTCUSDT"]) in orders(again)
    assert ("subscribed", "BTC-USDT-PERP", "publicTrade", "") in statuses(acknowledge(late, again))
    assert not statuses(feed.ticked(T0 + 15 * SECOND))


def test_an_answer_without_a_number_is_that_of_the_oldest_message() -> None:
    """As some gateways of the venue leave it out (recorded on the spot market)."""
    feed = BybitFeed(line="bybit/0", products=("BTCUSDT",))
    feed.opened(T0)
    answer = b'{"success":true,"ret_msg":"subscribe","conn_id":"x","op":"subscribe"}'
    for _ in range(3):
        assert feed.received(answer, T0) == []
    feed.received(book("snapshot", 10, bids=[("9", "1")]), T0)
    assert not statuses(feed.ticked(T0 + 15 * SECOND))
    assert feed.received(answer, T0) == []  # of nothing that was sent

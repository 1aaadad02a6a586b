"""Messages of Coinbase Exchange as tests make them, and what a feed makes of them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from marketdata.book import L2Book
from marketdata.events import BookUpdate, FeedStatus, Trades
from marketdata.feed import Fetch, Output, Send
from producers.venues.coinbase_exchange.feed import CoinbaseExchangeFeed

T0 = 1_790_000_000_000_000_000
SECOND = 1_000_000_000
NAME = "BTC-USD"
Levels = dict[Decimal, Decimal]


def follow(out: list[Output]) -> dict[str, L2Book]:
    """Return the books that a consumer has after these outputs."""
    followed: dict[str, L2Book] = {}
    for event in out:
        if isinstance(event, BookUpdate):
            book = followed.setdefault(event.symbol, L2Book())
            if event.kind in {"snapshot", "clear"}:
                book.clear()
            book.bids.apply(event.bid_prices, event.bid_sizes)
            book.asks.apply(event.ask_prices, event.ask_sizes)
    return followed


def levels_of(book: L2Book) -> tuple[Levels, Levels]:
    """Return both sides of a book as plain numbers."""
    bids, asks = ({Decimal(p): Decimal(s) for p, s in side.top()} for side in (book.bids, book.asks))
    return bids, asks


def kinds(out: list[Output]) -> list[str]:
    """Return what kinds of book changes these outputs hold."""
    return [event.kind for event in out if isinstance(event, BookUpdate)]


def statuses(out: list[Output]) -> list[str]:
    """Return what kinds of statuses these outputs hold."""
    return [event.kind for event in out if isinstance(event, FeedStatus)]


def fetches(out: list[Output]) -> list[Fetch]:
    """Return the requests among these outputs."""
    return [output for output in out if isinstance(output, Fetch)]


def ids(out: list[Output]) -> list[str]:
    """Return the ids of the trades that were published."""
    return [trade.trade_id for event in out if isinstance(event, Trades) for trade in event.trades]


def message(kind: str, sequence: int | None, **fields: Any) -> bytes:
    """Return a message of `full`; its time is its sequence in milliseconds."""
    time = f"2026-08-09T21:00:{(sequence or 0) / 1000:06.3f}000Z"
    sent: dict[str, Any] = {"type": kind, "product_id": NAME, "time": time}
    if sequence is not None:
        sent["sequence"] = sequence
    return json.dumps(sent | fields, separators=(",", ":")).encode()


def opened(sequence: int, order_id: str, side: str, price: str, size: str) -> bytes:
    """Return an order that begins to rest."""
    return message("open", sequence, order_id=order_id, side=side, price=price, remaining_size=size)


def matched(sequence: int, maker: str, size: str, trade_id: int = 1, price: str = "100") -> bytes:
    """Return a trade with a buyer who waited."""
    return message("match", sequence, maker_order_id=maker, taker_order_id="t", trade_id=trade_id, side="buy",
                   price=price, size=size)  # fmt: skip


def rest_book(sequence: Any, *orders: tuple[str, str, str, str]) -> bytes:
    """Return REST's book of level 3, of orders (side, price, size, id)."""
    sides = {side: [list(order[1:]) for order in orders if order[0] == side] for side in ("bid", "ask")}
    return json.dumps({"sequence": sequence, "bids": sides["bid"], "asks": sides["ask"]}).encode()


ORDERS = (("bid", "100", "1", "a"), ("bid", "100.0", "2", "b"), ("bid", "99", "1", "c"), ("ask", "101", "1", "d"))


def listed(**channels: list[str]) -> bytes:
    """Return the list of what the connection is subscribed to."""
    return json.dumps({"type": "subscriptions",
                       "channels": [{"name": one, "product_ids": names} for one, names in channels.items()]}
                      ).encode()  # fmt: skip


def acknowledge(feed: CoinbaseExchangeFeed, depth: str = "level2_batch") -> list[Output]:
    """Answer each message of a new connection of one product with the list of everything that is subscribed."""
    channels = {channel: [NAME] for channel in (depth, "matches", "ticker", "heartbeat")}
    return [output for _ in range(5) for output in feed.received(listed(**channels), T0)]


def changes(out: list[Output]) -> list[tuple[str, str, str]]:
    """Return the level changes that these outputs hold."""
    found = []
    for event in out:
        if isinstance(event, BookUpdate) and event.kind in {"update", "snapshot"}:
            found += [("bid", p, s) for p, s in zip(event.bid_prices, event.bid_sizes, strict=True)]
            found += [("ask", p, s) for p, s in zip(event.ask_prices, event.ask_sizes, strict=True)]
    return found


def snapshot(**fields: Any) -> bytes:
    """Return a book of two levels."""
    return message("snapshot", None, bids=[["100", "1"]], asks=[["101", "1"]], **fields)


def feed_of_orders() -> CoinbaseExchangeFeed:
    """Return a feed that has a book of four orders, at sequence 10."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,), depth="full")
    feed.opened(T0)
    (request,) = fetches(feed.received(message("received", 8, order_id="x"), T0))
    assert (request.path, request.symbol) == ("products/BTC-USD/book?level=3", NAME)
    feed.received(message("done", 9, order_id="x", reason="canceled"), T0)
    feed.received(message("received", 10, order_id="x"), T0)
    out = feed.fetched(request, rest_book(10, *ORDERS), T0)
    assert kinds(out) == ["snapshot"]
    return feed


def feed_of_levels() -> CoinbaseExchangeFeed:
    """Return a feed that has a book of levels."""
    feed = CoinbaseExchangeFeed(line="coinbase_exchange/0", products=(NAME,))
    sent = [json.loads(output.frame) for output in feed.opened(T0) if isinstance(output, Send)]
    assert [order["channels"] for order in sent] == [
        ["status"],
        ["level2_batch"],
        ["matches"],
        ["ticker"],
        ["heartbeat"],
    ]
    acknowledge(feed)
    assert kinds(feed.received(snapshot(), T0)) == ["snapshot"]
    return feed

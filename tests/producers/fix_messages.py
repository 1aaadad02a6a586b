"""Messages of FIX as tests write them, and the feed's desk that takes them one by one."""

from __future__ import annotations

from marketdata.book import L2Book
from marketdata.events import BookUpdate, DeadLetter, FeedStatus, Trades
from marketdata.feed import Output, Send
from marketdata.fix.codec import Fields, decode, encode, utc
from producers.venues import make_feed
from producers.venues.fix.login import FixLogin
from producers.venues.kit.venue import LiveFeed

SECOND = 1_000_000_000
START = 1_786_309_500 * SECOND


def login(*, reset: bool = True, begin: str = "FIX.4.4") -> FixLogin:
    """Return how the feed logs on."""
    return FixLogin(senders=("US",), target="THEM", begin=begin, heartbeat_s=10, reset=reset, username="me",
                    password="secret")  # fmt: skip


def missing_trades(feed: LiveFeed, out: list[Output], ts: int) -> list[Output]:
    """Return where trades stay missing: on the ledger, and in the stream, where no later event states them complete."""
    out = [*out, *feed.time_passed(ts, ts)]
    missing: list[Output] = [o for o in out if isinstance(o, FeedStatus) and o.kind == "gap" and o.channel == "trades"]
    for place, event in enumerate(out):
        if isinstance(event, Trades) and event.reason == "gap" and not event.trades:
            later = [o for o in out[place:] if isinstance(o, Trades) and o.symbol == event.symbol]
            if not any(o.complete_from is not None and o.complete_from <= event.ts_event for o in later):
                missing.append(event)
    return missing


class Desk:
    """Writes the venue's messages by hand, to a feed that has logged on or follows a recording."""

    def __init__(self, products: tuple[str, ...] | None = ("BTC-USD",), *, reset: bool = True) -> None:
        self.feed = make_feed("fix", products=products, token=login(reset=reset) if products else None)
        self.number = 0
        self.ts = START
        self.sent = [output for output in self.feed.opened(START) if isinstance(output, Send)]
        self.logon = self.says("A", (98, "0"), (108, "10"), *([(141, "Y")] if reset else []))

    def says(self, kind: str, *fields: tuple[int, str], number: int = 0, first_sent: int = 0) -> list[Output]:
        """Bring the next message, or one again."""
        self.number += not number
        head: Fields = [(35, kind), (49, "THEM"), (56, "US"), (34, str(number or self.number)), (52, utc(START))]
        again: Fields = [(43, "Y"), (122, utc(first_sent))] if number else []
        return self.feed.received(encode("FIX.4.4", [*head, *again, *fields]), self.ts)


def named(name: str, side: str, price: str, size: str, *, action: str = "", symbol: str = "") -> Fields:
    """Return an entry with an id, of W, or of X where it has an action."""
    return [*([(279, action)] if action else []), (269, side), (278, name), *([(55, symbol)] if symbol else []),
            (270, price), (271, size)]  # fmt: skip


class Reader:
    """A consumer that follows the books that the feed publishes."""

    def __init__(self) -> None:
        self.books: dict[str, L2Book] = {}

    def top(self, out: list[Output], symbol: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Apply the outputs and return both sides of a symbol's book; no book may be cleared."""
        assert not [output for output in out if isinstance(output, DeadLetter)]
        for event in out:
            if isinstance(event, BookUpdate):
                assert event.valid
                book = self.books.setdefault(event.symbol, L2Book())
                (book.bids.replace if event.kind == "snapshot" else book.bids.apply)(event.bid_prices, event.bid_sizes)
                (book.asks.replace if event.kind == "snapshot" else book.asks.apply)(event.ask_prices, event.ask_sizes)
        return self.books[symbol].bids.top(None), self.books[symbol].asks.top(None)


def level(price: str, *, side: str = "0", size: str = "1", action: str = "") -> Fields:
    """Return an entry of W, or of X where it has an action."""
    return [*([(279, action)] if action else []), (269, side), (270, price), (271, size)]


def books_of(out: list[Output]) -> list[tuple[str, str, list[str]]]:
    """Return symbol, kind and bids of the books that are published."""
    return [(event.symbol, event.kind, event.bid_prices) for event in out if isinstance(event, BookUpdate)]


def asked_again(out: list[Output]) -> set[str]:
    """Return the symbols whose books are asked for."""
    sent = [decode(output.frame) for output in out if isinstance(output, Send)]
    return {message.get(55) for message in sent if (message.kind, message.get(263)) == ("V", "1")}

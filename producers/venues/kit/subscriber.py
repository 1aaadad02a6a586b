"""What one line is subscribed to, and what follows where it is not: the part of the feeds' base that handles it.

1. `_request` sends the subscriptions, whose answers are due from then on. `_read` reports what the venue answers:
   `_acknowledged`, `_refused`, `_refused_message` for one that names no product, `_take_list` for a list of all.
2. A channel that is refused, or not answered in time, is on the ledger, invalid, and vouched for by nothing; it is
   requested again later (`kit.subscriptions`). An answer or data ends that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from marketdata.events import ALL_SYMBOLS, UNSUBSCRIBED
from marketdata.feed import Output
from producers.venues.kit import trades
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.instruments import Listing
from producers.venues.kit.limits import Limits
from producers.venues.kit.orders import Order
from producers.venues.kit.products import Product
from producers.venues.kit.repairs import Repairs
from producers.venues.kit.subscriptions import Subscriptions


class Subscriber(ABC):
    """The subscriptions of one line; `VenueFeed` has the rest, and makes what is declared here."""

    book_channel: str
    trades_channel: str
    channels: tuple[str, ...]
    limits: Limits
    counts: Counter[str]
    _wanted: tuple[str, ...] | None
    _takes_all: bool
    _carriers: tuple[str, str]
    _products: Listing
    _ledger: Ledger
    _repairs: Repairs
    _subscriptions: Subscriptions

    # --- Hooks ---

    @abstractmethod
    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterable[Output]:
        """Return the messages that `subscribe` or `unsubscribe` these products, at most `limits.arguments` of them."""

    def _forget(self, product: Product) -> None:  # noqa: B027 - a hook that may stay empty
        """Forget what is kept of a product's book: it is lost."""

    def _recover_trades(self, call: Call, product: Product) -> None:  # noqa: B027 - a hook that may stay empty
        """Request the trades that may be missing since before this connection."""

    # --- What feeds use ---

    def _is_subscribed(self, channel: str, name: str) -> bool:
        """Return whether a channel is known to be subscribed: it was acknowledged, or its data has come."""
        return self._subscriptions.is_live(channel, name, self._mark(channel, name))

    def _request(self, call: Call, channel: str, names: Iterable[str]) -> list[Output]:
        """Return the messages that subscribe these products, whose answers are due from now on."""
        out: list[Output] = []
        for part in self.limits.messages_of(list(names)):
            out += self._order(call, "subscribe", channel, part)
            # The shell sends one message after the other at the venue's rate.
            ts = call.ts + (len(call.out) + len(out)) * self.limits.message_pause_ns
            for name in part[:1] if self._takes_all else part:
                self._subscriptions.request(channel, name, ts, self._mark(channel, name))
        return out

    def _unsubscribe(self, call: Call, channel: str, names: Iterable[str]) -> Iterator[Output]:
        """Return the messages that unsubscribe these products."""
        for part in self.limits.messages_of(list(names)):
            yield from self._order(call, "unsubscribe", channel, part)

    def _subscription_of(self, product: Product) -> str:
        """Return the name under which a product is subscribed."""
        return self._wanted[0] if self._takes_all and self._wanted else product.name

    def _mark(self, channel: str, name: str) -> tuple[int | None, int | None]:
        """Return what changes with the data that a channel carries of a product."""
        carries_book, carries_trades = channel == self._carriers[0], channel == self._carriers[1]
        product, counts = self._products.get(name), self.counts
        if self._takes_all:
            marks: tuple[int | None, int | None] = counts["snapshots"] + counts["book_updates"], counts["trades"]
        else:
            marks = (None, None) if product is None else (product.ts_book, product.ts_trade)
        return marks[0] if carries_book else None, marks[1] if carries_trades else None

    def _acknowledged(self, call: Call, channel: str, name: str = "") -> None:
        """Take the venue's confirmation of a subscription."""
        self.counts["subscriptions"] += 1
        if self._subscriptions.acknowledge(channel, name, call.ts, self._mark(channel, name)):
            self._recovered(call, channel, name)

    def _refused(self, call: Call, channel: str, name: str = "", *, detail: str = "") -> None:
        """Take the venue's refusal of a subscription; `detail` is the venue's own text."""
        if self._subscriptions.refuse(channel, name, call.ts, self._mark(channel, name)):
            self._lose_subscription(call, channel, name, "refused", detail)

    def _refused_message(self, call: Call, order: Order | None, detail: str) -> None:
        """Take the refusal of one message of ours, which does not name the product at fault.

        Each of several products is requested again by itself, so that only the one at fault is refused.
        """
        if order is None or order.verb != "subscribe":
            return
        for name in order.names:
            if len(order.names) > 1:
                call.out += self._request(call, order.channel, (name,))
            else:
                self._refused(call, order.channel, name, detail=detail)

    def _take_list(self, call: Call, listed: Collection[tuple[str, str]], order: Order | None) -> list[tuple[str, str]]:
        """Take the venue's list of everything that is subscribed, as (channel, name); `order` is what it answers.

        What it leaves out is refused. Returns what it confirms.
        """
        confirmed: list[tuple[str, str]] = []
        for channel, name in sorted(listed):
            state = self._subscriptions.state(channel, name)
            is_answer = order is None or (order.channel == channel and name in order.names)
            is_news = state in {None, "refused"} or (state == "requested" and is_answer)
            if is_news and channel in self.channels and self._products.accepts(name):
                self._acknowledged(call, channel, name)
                confirmed.append((channel, name))
        for channel, name, state in list(self._subscriptions):
            if state in {"acknowledged", "flowing"} and (channel, name) not in listed:
                self._refused(call, channel, name, detail="it is not listed")
        if order is not None and order.verb == "subscribe":
            missing = tuple(name for name in order.names if (order.channel, name) not in listed)
            self._refused_message(call, order._replace(names=missing), "it is not listed")
        return confirmed

    def _check_subscriptions(self, call: Call) -> None:
        """Handle the deadlines of subscriptions: data that has come, answers that have not, what is tried again."""
        subscriptions = self._subscriptions
        for channel, name in subscriptions.open():
            if subscriptions.flow(channel, name, self._mark(channel, name)):
                self._recovered(call, channel, name)
        for refusal in subscriptions.take_overdue(call.ts):
            self._lose_subscription(call, *refusal, "the venue did not answer in time")
        retried: dict[tuple[str, bool], list[str]] = {}
        for refusal in subscriptions.take_retries(call.ts):
            retried.setdefault((refusal.channel, refusal.reason == "no_data"), []).append(refusal.name)
        for (channel, is_subscribed), names in retried.items():
            if is_subscribed:
                call.out += self._unsubscribe(call, channel, names)
            call.out += self._request(call, channel, names)

    def _lose_subscription(self, call: Call, channel: str, name: str, reason: str, detail: str) -> None:
        """State that a channel is not subscribed, in the status, on the ledger and in the stream of trades."""
        self.counts["unsubscribed"] += 1
        products = self._products_of(call, channel, name)
        call.status(self._symbol_of(products), "unsubscribed", reason=reason, channel=channel, detail=detail)
        lost = [one for one, carrier in zip((self.book_channel, self.trades_channel), self._carriers, strict=True)
                if carrier == channel]  # fmt: skip
        for product in products:
            if self.book_channel in lost:
                self._forget(product)
            for one in lost:
                self._repairs.came(one, product.name)  # it is requested again with the subscription
            self._ledger.lose(call, product, UNSUBSCRIBED, set(lost), detail=detail or reason, channel=channel)
            if self.trades_channel in lost:
                trades.interrupted(call, product)

    def _products_of(self, call: Call, channel: str, name: str) -> list[Product]:
        """Return the products that a subscription of this name brings, as far as they are known or ours."""
        del channel  # where a name means the same on every channel
        if self._takes_all:
            return list(self._products)
        is_ours = self._wanted is not None and self._products.accepts(name)
        product = self._products.find(call, name) if is_ours else self._products.get(name)
        return [] if product is None else [product]

    def _recovered(self, call: Call, channel: str, name: str) -> None:
        """State that a channel that was refused is subscribed now."""
        products = self._products_of(call, channel, name)
        call.status(self._symbol_of(products), "subscribed", channel=channel)
        for product in products:
            if channel == self._carriers[1] and self._ledger.is_pending(product, self.trades_channel):
                self._recover_trades(call, product)

    def _symbol_of(self, products: list[Product]) -> str:
        """Return the symbol that a status about the subscription of these products has."""
        return products[0].symbol if len(products) == 1 and not self._takes_all else ALL_SYMBOLS

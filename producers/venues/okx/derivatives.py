"""What OKX sends about contracts besides books and trades: funding, mark and index prices, open interest, liquidations.

Theory of operation. DOCS is "OKX API guide", https://www.okx.com/docs-v5/en/, sections "Funding rate channel"
(#public-data-websocket-funding-rate-channel), "Mark price channel", "Index tickers channel", "Open interest channel"
and "Liquidation orders channel" (anchors of the same form).

1. Swaps and futures are subscribed, with the arguments, and pushed as often, as DOCS says:

   | channel | argument | of | pushed |
   |---|---|---|---|
   | `funding-rate` | instId | swaps, and futures that are X-Perps | every 30 to 90 s |
   | `mark-price` | instId | all | every 200 ms with a change, else every 10 s |
   | `open-interest` | instId | all | every 3 s with a change |
   | `index-tickers` | instId, which is the index | all of that index | every 100 ms with a change, else every minute |
   | `liquidation-orders` | instType; there is no narrower one | all of that type | at each liquidation |

   A subscription of an index or a type is one, however many contracts share it. `BTC-USDT` is an index here, and a
   spot product elsewhere, which has none of these channels. Of a type, only products that are followed are published.
2. `fundingRate` is a fraction, collected at `fundingTime`, the next time of payment. The interval is the difference to
   `nextFundingTime`, and may change (DOCS). `nextFundingRate` is no longer supported (DOCS), and not read.
3. `oi` is in contracts, as the size of a trade is. `oiUsd` is in US dollars: it is the value in the quote currency, and
   is published, where that is USD; elsewhere the value is unknown.
4. `side` of a liquidation is that of the liquidated order: `sell` closes a `posSide` `long`. `bkPx` is its price, `sz`
   its size in contracts, `ts` its own time. Those of a message are put in the order of time, which they need not
   have; not all are sent (DOCS), and none has an id.
5. A price update may come twice with one time; the later one counts (DOCS), as in the events.

Options have none of these here: their greeks and volatilities (`opt-summary`) come for a whole family at once, some
hundred options with each change, and are not carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from operator import attrgetter
from typing import Any, Literal

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import Liquidation
from producers.venues.kit import derivatives
from producers.venues.kit.calls import Call
from producers.venues.kit.instruments import Listing
from producers.venues.kit.products import Product
from producers.venues.kit.values import given, ms_text_ns
from producers.venues.okx.names import FUTURE, PERPETUAL, currencies, kind_of, listed_as, pays_funding

FUNDING, MARK, INTEREST = "funding-rate", "mark-price", "open-interest"
INDEX, LIQUIDATIONS = "index-tickers", "liquidation-orders"
CHANNELS = (FUNDING, MARK, INTEREST, INDEX, LIQUIDATIONS)

# Returns the venue's time of a message, which the feed notes; takes the text, what reads it, and the field's name.
EventTime = Callable[[Call, Any, Callable[[Any, str], int], str], int]


class _Item(msgspec.Struct):
    """An item of any channel but liquidations; a field that its channel does not have is None."""

    name: str = msgspec.field(name="instId")
    ts: Any = None
    funding_rate: Any = msgspec.field(name="fundingRate", default=None)
    funding_ms: Any = msgspec.field(name="fundingTime", default=None)
    following_ms: Any = msgspec.field(name="nextFundingTime", default=None)
    mark: Any = msgspec.field(name="markPx", default=None)
    index: Any = msgspec.field(name="idxPx", default=None)
    contracts: Any = msgspec.field(name="oi", default=None)
    dollars: Any = msgspec.field(name="oiUsd", default=None)


class _Liquidated(msgspec.Struct):
    """What was liquidated of one product."""

    name: str = msgspec.field(name="instId")
    details: list[msgspec.Raw]


class _Liquidation(msgspec.Struct):
    side: Literal["buy", "sell"]
    price: str = msgspec.field(name="bkPx")
    size: str = msgspec.field(name="sz")
    ts: str


_ITEM = msgspec.json.Decoder(_Item)
_LIQUIDATED = msgspec.json.Decoder(_Liquidated)
_LIQUIDATION = msgspec.json.Decoder(_Liquidation)


class Derivatives:
    """The channels of contracts of one line. `wanted` are the products that are followed; None: all that are seen."""

    def __init__(self, products: Listing, wanted: tuple[str, ...] | None, event_time: EventTime) -> None:
        self._products = products
        self._event_time = event_time
        self._is_recorded = wanted is None
        self._sharing: dict[tuple[str, str], list[str]] = {}  # the products of each channel and name to subscribe
        self._known = 0
        self._know(dict.fromkeys(wanted or ()))

    def subscriptions(self) -> dict[str, list[str]]:
        """Return what is to be subscribed, by channel: instIds, indices, and types."""
        found: dict[str, list[str]] = {}
        for channel, name in self._sharing:
            found.setdefault(channel, []).append(name)
        return found

    def products_of(self, call: Call, channel: str, name: str) -> list[Product]:
        """Return the products that are followed and that a subscription of this name brings."""
        if self._is_recorded:
            self._know(islice(self._products.names(), self._known, None))
        shared = self._sharing.get((channel, name), ())
        return [one for one in (self._products.find(call, each) for each in shared) if one is not None]

    def take(self, call: Call, channel: str, items: Iterable[msgspec.Raw]) -> None:
        """Publish the items of a channel, unless it is another; one that cannot be read is a dead letter by itself."""
        if channel not in CHANNELS:
            call.line.counts["ignored"] += 1
            return
        take = self._liquidated if channel == LIQUIDATIONS else self._item
        call.each(items, lambda raw: take(call, channel, raw))

    def _item(self, call: Call, channel: str, raw: msgspec.Raw) -> None:
        sent = _ITEM.decode(raw)
        products = self._of_item(call, channel, sent.name)
        if not products:
            return
        ts_event = self._event_time(call, sent.ts, _time, "ts")
        values = derivatives.read(call, _decimal, mark_price=sent.mark, index_price=sent.index,
                                  open_interest=sent.contracts, funding_rate=sent.funding_rate)  # fmt: skip
        dollars = derivatives.read(call, _decimal, open_interest_value=sent.dollars)
        times = derivatives.read(call, _time, next_funding_ts=sent.funding_ms, following_ts=sent.following_ms)
        next_ts, following_ts = times["next_funding_ts"], times["following_ts"]
        interval = (following_ts - next_ts) // SECOND_NS if next_ts and following_ts else None
        for product in products:
            values |= dollars if product.instrument.quote_currency == "USD" else {"open_interest_value": None}
            derivatives.send(call, product, ts_event, **values, next_funding_ts=next_ts, funding_interval=interval)

    def _liquidated(self, call: Call, channel: str, raw: msgspec.Raw) -> None:
        sent = _LIQUIDATED.decode(raw)
        found: list[Liquidation] = []

        def take(detail: msgspec.Raw) -> None:
            one = _liquidation(call, detail)
            if one is not None:
                found.append(one)

        for product in self._of_item(call, channel, sent.name):
            call.each(sent.details, take, "bad_liquidation")
            found.sort(key=attrgetter("ts_event"))
            ts_event = found[-1].ts_event if found else call.now
            derivatives.send(call, product, ts_event, liquidations=found)

    def _of_item(self, call: Call, channel: str, name: str) -> list[Product]:
        """Return the products that an item is about; none, counted as `ignored`, where no contract is followed."""
        if channel != INDEX and _subscribed_as(channel, name) is not None:
            one = self._products.find(call, name)
            return [] if one is None else [one]
        products = self.products_of(call, channel, name) if channel == INDEX else []
        call.line.counts["ignored"] += not products
        return products

    def _know(self, names: Iterable[str]) -> None:
        """Note the subscriptions that bring these products."""
        for name in names:
            self._known += 1
            for channel in CHANNELS:
                shared = _subscribed_as(channel, name)
                if shared is not None:
                    self._sharing.setdefault((channel, shared), []).append(name)


def argument(channel: str, name: str) -> dict[str, str]:
    """Return an argument of a request to subscribe, of any channel."""
    return {"channel": channel, "instType" if channel == LIQUIDATIONS else "instId": name}


def _subscribed_as(channel: str, name: str) -> str | None:
    """Return the name by which a channel of a product is subscribed; None where the product has no such channel."""
    if kind_of(name) not in {PERPETUAL, FUTURE} or (channel == FUNDING and not pays_funding(name)):
        return None
    if channel == LIQUIDATIONS:
        return listed_as(name)
    return "-".join(currencies(name)) if channel == INDEX else name


def _liquidation(call: Call, raw: msgspec.Raw) -> Liquidation | None:
    """Return one liquidation; None, with a dead letter of its own, when no event may hold it. Raises BadEvent."""
    sent = _LIQUIDATION.decode(raw)
    return derivatives.liquidation(call, ts_event=ms_text_ns(sent.ts, "ts"), side=sent.side, price=sent.price,
                                   size=sent.size)  # fmt: skip


def _text(value: Any, field: str) -> str:
    """Return a value, which is always a text. Raises BadEvent."""
    if not isinstance(value, str):
        raise BadEvent("bad_type", field, str(value)[:200])
    return value


def _decimal(value: Any, field: str) -> str | None:
    return given(_text(value, field), field)


def _time(value: Any, field: str) -> int:
    """Return UTC nanoseconds, 0 for an empty text. Raises BadEvent."""
    text = _text(value, field)
    return ms_text_ns(text, field) if text else 0

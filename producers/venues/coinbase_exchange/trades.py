"""The trades of Coinbase Exchange: their ids rise by one, and those that are skipped are requested over REST.

Trade ids rise by one per product (held on a recording). `matches` may drop messages ("Exchange WebSocket Channels",
https://docs.cdp.coinbase.com/exchange/websocket-feed/channels): then REST's last trades are requested. A heartbeat has
the last trade id: what it named and is not here when the next one comes is lost.
"""

from __future__ import annotations

from collections import Counter
from operator import itemgetter

import msgspec

from marketdata.events import Trade
from marketdata.feed import Fetch
from producers.venues.coinbase_exchange import messages as sent
from producers.venues.kit import numbered_trades, trades
from producers.venues.kit.calls import Call
from producers.venues.kit.gaps import Ledger
from producers.venues.kit.products import Product
from producers.venues.kit.requests import Requests
from producers.venues.kit.values import check_trade, iso_ns


def read_match(call: Call, message: sent.Match) -> Trade | None:
    """Return a match's trade; None for one of an impossible time, a dead letter that still changes its order.

    Raises BadEvent for any other value that no trade may have.
    """
    check_trade(message.price, message.size)
    with call.refusing("bad_frame"):
        call.venue_time(iso_ns(message.time, "time"), "time")
        return sent.read_trade(message)
    return None


class TradeNumbers:
    """The trades of one line."""

    def __init__(self, counts: Counter[str], ledger: Ledger, requests: Requests) -> None:
        self._counts = counts
        self._ledger = ledger
        self._requests = requests

    def take(self, call: Call, product: Product, trade: Trade) -> None:
        """Publish a trade, and request those that are missing."""
        skipped = numbered_trades.take(call, product, self._ledger, [(int(trade.trade_id), trade)])
        self._counts["gaps"] += skipped
        is_missing = product.trade_ids.skipped or product.unproven
        if is_missing and (skipped or self._ledger.is_pending(product, self._ledger.trades)):
            self._request(product.name)

    def account(self, call: Call, product: Product) -> None:
        """Close the gap of trades where none is missing."""
        if not product.trade_ids.skipped and not product.unproven:
            self._ledger.account(call, product, self._ledger.trades, call.now)

    def take_rest(self, call: Call, request: Fetch, product: Product | None) -> None:
        """Take REST's list of trades."""
        batch: list[tuple[int, Trade]] = []

        def take(raw: msgspec.Raw) -> None:
            listed = sent.REST_TRADE.decode(raw)
            batch.append((listed.trade_id, sent.read_trade(listed)))

        whole = call.each(sent.REST_TRADES.decode(call.payload), take, "bad_trades")
        self._requests.came(request)
        if product is not None and product.ts_trade is not None and batch:
            batch.sort(key=itemgetter(0))
            numbered_trades.take(call, product, self._ledger, batch, snapshot=True, whole=whole)

    def vouch(self, call: Call, product: Product, ts: int, claimed: int, last: int) -> None:
        """Take a heartbeat at `ts` with the last trade id; `claimed` is that of the heartbeat before it."""
        ids = product.trade_ids
        if ids.last is None:
            return
        if ids.last < claimed:
            ids.skip_to(claimed)
            self._counts["gaps"] += 1
            trades.doubt(product)
            trades.lose(call, product)
            if not self._ledger.is_pending(product, self._ledger.trades):
                self._ledger.note_skipped(call, product)
            self._request(product.name)
        if ids.last >= last:
            self.account(call, product)
            if (
                not self._ledger.is_pending(product, self._ledger.trades)
                and ("trades", product.name) not in self._requests
            ):
                product.ts_trades_numbered = ts
                trades.heartbeat(call, product, ts)

    def _request(self, name: str) -> None:
        self._requests.ask(Fetch(f"products/{name}/trades?limit=1000", "trades", name))

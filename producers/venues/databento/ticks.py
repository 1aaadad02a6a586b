"""The trades, quotes and bars of Databento's records.

DOCS is Databento's "Schemas" and "Trades" (https://databento.com/docs); CHECKED is what recordings of CME and NASDAQ
showed.

1. `side` of a trade is the aggressor's: "Ask for a sell aggressor in a trade, Bid for a buy aggressor, None where no
   side is specified" (DOCS, "Trades"). A record has no trade id; its time, `sequence` and its place among those with
   both the same make one, which is the same in every schema (CHECKED: mbp-1 and trades).
2. No price of a bid or an offer means that there is none.
3. Bars (`ohlcv-1m`, `-1h`, `-1d`) are the venue's own candles, labelled by their start; the day begins at midnight UTC,
   and an interval without trades has none (DOCS, "OHLCV"). From the gateway each comes once its interval is over, and
   is final.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import msgspec

from marketdata import dbn
from marketdata.errors import BadEvent
from marketdata.events import GAP, POSITIVE_KINDS, Candle, CandleHistory, Quote, Trade
from producers.venues.databento.state import State, TradeOrQuote
from producers.venues.kit import quotes, trades
from producers.venues.kit.calls import Call

_AGGRESSORS = {ord("B"): "buy", ord("A"): "sell", ord("N"): "unknown"}
# Flags of a trade that a consumer may want to know; they do not change what the trade counts for.
_CONDITIONS = ((dbn.BAD_TS_RECV, "BAD_TS_RECV"), (dbn.MAYBE_BAD_BOOK, "MAYBE_BAD_BOOK"))


class Ticks:
    """Publishes trades, quotes and bars of one line; `is_file`: bars are history, not live."""

    def __init__(self, *, counts: Counter[str], prices: dbn.Prices, is_file: bool) -> None:
        self._counts = counts
        self._prices = prices
        self._is_file = is_file

    def trade(self, call: Call, instrument: State, sent: TradeOrQuote) -> None:
        """Publish a trade; trades of one event are distinguished by their order."""
        if sent.side not in _AGGRESSORS:
            raise BadEvent("bad_side", "side", sent.side)
        moment = (sent.ts, sent.sequence)
        instrument.trade_place = instrument.trade_place + 1 if moment == instrument.trade else 0
        instrument.trade = moment
        if sent.price == dbn.UNDEF_PRICE or not sent.size:
            call.dead("bad_trade", "a trade without a price or a size")
            return
        trade = Trade(
            trade_id=f"{sent.ts}-{sent.sequence}-{instrument.trade_place}",
            ts_event=sent.ts,
            price=self._prices.text(sent.price),
            size=str(sent.size),
            side=_AGGRESSORS[sent.side],
            conditions=tuple(name for flag, name in _CONDITIONS if sent.flags & flag),
        )
        trades.check(instrument.product.instrument, trade)
        trades.send(call, instrument.product, (trade,))

    def quote(
        self, call: Call, instrument: State, sent: TradeOrQuote, level: bytes, *, last: str | None = None
    ) -> None:
        """Publish the best bid and offer. Raises BadEvent."""
        bid, ask, bid_size, ask_size = dbn.LEVEL.unpack(level)
        text = self._prices.text
        self.check_price(instrument, "bid_px", bid)
        self.check_price(instrument, "ask_px", ask)
        quotes.send(
            call, instrument.product, sent.ts,
            bid=None if bid == dbn.UNDEF_PRICE else text(bid), bid_size=str(bid_size),
            ask=None if ask == dbn.UNDEF_PRICE else text(ask), ask_size=str(ask_size), last=last,
        )  # fmt: skip
        if sent.flags & dbn.MAYBE_BAD_BOOK:
            quote = call.out.pop()
            assert isinstance(quote, Quote)  # noqa: S101 - it was sent two lines above
            call.out.append(msgspec.structs.replace(quote, valid=False, reason=GAP))

    def bar(self, call: Call, instrument: State, of: tuple[str, int], values: tuple[int, ...]) -> None:
        """Publish a bar of this interval and length: its start, its four prices, its volume.

        Live it is the venue's candle, of a file it is history. Raises BadEvent for one that cannot be.
        """
        (interval, length), (start, *prices, volume) = of, values
        texts = opened, high, low, closed = [self._prices.text(price) for price in prices]
        if not Decimal(low) <= min(map(Decimal, texts)) <= max(map(Decimal, texts)) <= Decimal(high):
            raise BadEvent("not_a_candle", "high", high)
        self.check_price(instrument, "low", min(prices))
        self._counts["bars"] += 1
        symbol, end = instrument.product.symbol, start + length
        if self._is_file:
            call.out.append(
                CandleHistory(
                    venue=call.line.venue, symbol=symbol, ts_event=end, ts_recv=call.ts, line=call.line.name,
                    interval=interval, start=start, opens=[opened], highs=[high], lows=[low], closes=[closed],
                    volumes=[str(volume)], quote_volumes=[None], buy_volumes=[None], trades=[None],
                )
            )  # fmt: skip
            return
        call.out.append(
            Candle(
                venue=call.line.venue, symbol=symbol, interval=interval, start=start, end=end, ts_event=end,
                ts_recv=call.ts, open=opened, high=high, low=low, close=closed, volume=str(volume), quote_volume=None,
                trades=None, state="final", **instrument.product.validity,
            )
        )  # fmt: skip

    def check_price(self, instrument: State, field: str, price: int) -> None:
        """Raise BadEvent for a price that this instrument cannot have."""
        if price <= 0 and instrument.product.instrument.kind in POSITIVE_KINDS:
            raise BadEvent("not_positive", field, self._prices.text(price))

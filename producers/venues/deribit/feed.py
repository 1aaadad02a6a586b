"""Deribit: public market data frames in, events out; options with their greeks.

Theory of operation. DOCS is "Deribit API", https://docs.deribit.com, with the pages "Notifications",
"book.(instrument_name).(interval)", "trades.(instrument_name).(interval)", "ticker.(instrument_name).(interval)" and
"Connection management best practices".

1. JSON-RPC 2.0. `public/subscribe` names channels; the answer lists those that are subscribed now, and a channel that
   it leaves out is refused (DOCS). The interval is 100 ms: `raw` needs a log-in.
2. `public/set_heartbeat`: the venue sends `heartbeat` every ten seconds, and `test_request`, which is answered by
   `public/test`, or the connection is closed (DOCS).
3. `book`: the first notification is a `snapshot`, later ones are changes [action, price, amount] with absolute amounts;
   `delete` removes the level. `prev_change_id` is the `change_id` before, else changes are lost (DOCS): clear the book
   and subscribe again.
4. `trades`: `trade_seq` rises by one per instrument; `trade_id` is unique per currency. A skipped number is a gap,
   which REST's last 1,000 trades fill. `direction` is the taker's (DOCS, "Trade direction of the taker").
5. A trade with `block_trade_id` was agreed privately, and says nothing of the market's price: no high, low, open or
   close. `liquidation` is M, T or MT: the maker, the taker or both were liquidated (DOCS).
6. `ticker`: best bid and offer (0 is none), mark and index price, open interest, funding of perpetuals
   (`current_funding`, a rate of eight hours), greeks and volatilities of options in percent (DOCS).
7. `amount` is in US dollars for inverse futures, else in the base currency (DOCS); it is published as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import itemgetter
from typing import Any, Literal

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.decimals import is_zero
from marketdata.errors import BadEvent
from marketdata.events import GAP, Instrument, Trade
from marketdata.feed import Fetch, Output, Send
from producers.venues.deribit.names import VENUE, describe
from producers.venues.kit import books, derivatives, numbered_trades, quotes
from producers.venues.kit.calls import Call
from producers.venues.kit.feed import VenueFeed
from producers.venues.kit.instruments import learn_each
from producers.venues.kit.limits import Limits, Rate
from producers.venues.kit.numbered_trades import Numbered
from producers.venues.kit.products import Product
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.values import Columns, Number, check_trade, ms_ns, number, numbers, price
from producers.venues.kit.venue import Signer

LISTED_MAX = 1_000
HEARTBEAT_S = 10
FUNDING_INTERVAL_S = 8 * 3_600
_BOOK, _TRADES, _TICKER = "book", "trades", "ticker"
_INTERVAL = "100ms"
_STATES = {"open": "online", "closed": "halted"}
_GREEKS = ("delta", "gamma", "vega", "theta", "rho")

# --- What the venue sends. Fields that are not used are not named, and are skipped without being built. ---


class _Params(msgspec.Struct):
    channel: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")
    type: str = ""


class _Frame(msgspec.Struct):
    method: str = ""
    params: _Params = msgspec.field(default_factory=_Params)
    id: int | None = None
    result: Any = None
    error: dict[str, Any] | None = None


_Level = tuple[Literal["new", "change", "delete"], Any, Any]


class _Book(msgspec.Struct):
    name: str = msgspec.field(name="instrument_name")
    type: Literal["snapshot", "change"]
    number: Number = msgspec.field(name="change_id")
    ms: int = msgspec.field(name="timestamp")
    bids: list[_Level]
    asks: list[_Level]
    previous: Number | None = msgspec.field(name="prev_change_id", default=None)


class _Trade(msgspec.Struct):
    name: str = msgspec.field(name="instrument_name")
    number: Number = msgspec.field(name="trade_seq")
    trade_id: str
    ms: int = msgspec.field(name="timestamp")
    price: Any
    amount: Any
    direction: Literal["buy", "sell"]
    liquidation: Literal["M", "T", "MT", ""] = ""
    block: str | None = msgspec.field(name="block_trade_id", default=None)
    combo: str | None = msgspec.field(name="combo_id", default=None)


class _Ticker(msgspec.Struct):
    name: str = msgspec.field(name="instrument_name")
    ms: int = msgspec.field(name="timestamp")
    state: str = ""
    best_bid_price: Any = None
    best_bid_amount: Any = None
    best_ask_price: Any = None
    best_ask_amount: Any = None
    last_price: Any = None
    stats: dict[str, Any] = {}
    mark_price: Any = None
    index_price: Any = None
    open_interest: Any = None
    current_funding: Any = None
    greeks: dict[str, Any] = {}
    bid_iv: Any = None
    ask_iv: Any = None
    mark_iv: Any = None
    underlying_price: Any = None


class _Listed(msgspec.Struct):
    name: str = msgspec.field(name="instrument_name")
    tick_size: Any = None
    min_trade_amount: Any = None
    contract_size: Any = None
    is_active: bool | None = None
    settlement_currency: str | None = None
    instrument_type: str = ""


class _List(msgspec.Struct):
    result: list[msgspec.Raw]


class _TradeList(msgspec.Struct):
    trades: list[msgspec.Raw] = []


class _TradeAnswer(msgspec.Struct):
    result: _TradeList


_FRAME = msgspec.json.Decoder(_Frame, float_hook=str)
_BOOK_OF = msgspec.json.Decoder(_Book, float_hook=str)
TRADE = msgspec.json.Decoder(_Trade, float_hook=str)
_TICKER_OF = msgspec.json.Decoder(_Ticker, float_hook=str)
LISTED = msgspec.json.Decoder(_Listed, float_hook=str)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_LIST = msgspec.json.Decoder(_List)
_TRADE_ANSWER = msgspec.json.Decoder(_TradeAnswer)


class DeribitFeed(VenueFeed):
    """One line of Deribit; products are instrument names. `heartbeats` counts the venue's own."""

    venue = VENUE
    book_channel = _BOOK
    trades_channel = _TRADES
    channels = (_BOOK, _TRADES, _TICKER)
    silence_ns = 25 * SECOND_NS
    ping = b'{"jsonrpc":"2.0","id":0,"method":"public/test","params":{}}'
    # DOCS: 32 connections of one address, 20 requests a second; its clients keep to 200 channels of a connection.
    limits = Limits(subscriptions=200, arguments=60, messages=(Rate(5, 1),), connects=(Rate(10, 60),))

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        super().__init__(line=line, products=products, token=token)
        self._numbers: dict[str, int] = {}
        self._asked: dict[int, tuple[str, tuple[str, ...]]] = {}
        self._last_id = 0

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Continue what an earlier process published; the numbers of trades are the events' sequences."""
        call = self._call(ts)
        self._products.resume(call, self._ledger, previous, self._wanted or (), by_sequence=True, carried=self._carried)
        return call.out

    # --- What is sent to the venue ---

    def _begin(self) -> None:
        super()._begin()
        self._numbers.clear()
        self._asked.clear()

    def _introduce(self, call: Call) -> Iterable[Output]:
        del call
        return (self._request_of("public/set_heartbeat", interval=HEARTBEAT_S),)

    def _order(self, call: Call, verb: str, channel: str, names: Collection[str]) -> Iterable[Output]:
        del call
        order = self._request_of(f"public/{verb}", channels=[f"{channel}.{name}.{_INTERVAL}" for name in names])
        if verb == "subscribe":
            self._asked[self._last_id] = channel, tuple(names)
        return (order,)

    def _request_of(self, method: str, **params: Any) -> Send:
        self._last_id += 1
        return Send(msgspec.json.encode({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}))

    def _again(self, call: Call, channel: str, names: Collection[str]) -> Iterable[Output]:
        return super()._again(call, channel, names) if channel == _BOOK else map(_fetch_trades, names)

    def _recover_trades(self, call: Call, product: Product) -> None:
        call.out.append(_fetch_trades(product.name))

    def _fetch_products(self) -> Iterable[Fetch]:
        return (Fetch("public/get_instruments?currency=any&expired=false", "products"),)

    # --- Frames ---

    def _read(self, call: Call) -> None:
        frame = _FRAME.decode(call.payload)
        if frame.method == "subscription":
            self._notified(call, frame.params)
        elif frame.method == "heartbeat":
            self.counts["heartbeats"] += 1
            if frame.params.type == "test_request":
                call.out.append(self._request_of("public/test"))
        elif frame.id is not None:
            self._replied(call, frame.id, frame)
        else:
            raise BadEvent("unknown_frame", "method", frame.method[:100])

    def _replied(self, call: Call, number: int, frame: _Frame) -> None:
        """Take the answer to a request: what it does not list of a subscription was refused."""
        channel, names = self._asked.pop(number, ("", ()))
        detail = ""
        if frame.error is not None:
            detail = f"{frame.error.get('code')} {frame.error.get('message')}"[:500]
            call.dead("venue_error", detail, field="error", value=detail[:200])
        listed = set(frame.result) if isinstance(frame.result, list) and all(map(_is_text, frame.result)) else set()
        for name in names:
            if f"{channel}.{name}.{_INTERVAL}" in listed:
                self._acknowledged(call, channel, name)
            else:
                self._refused(call, channel, name, detail=detail or "the answer does not list it")

    def _notified(self, call: Call, params: _Params) -> None:
        channel = params.channel.partition(".")[0]
        if channel == _BOOK:
            self._book(call, _BOOK_OF.decode(params.data))
        elif channel == _TRADES:
            self._take_trades(call, _RAWS.decode(params.data))
        elif channel == _TICKER:
            self._ticker(call, _TICKER_OF.decode(params.data))
        else:
            self.counts["ignored"] += 1

    def _concerned(self, payload: bytes) -> tuple[Collection[str] | None, Collection[str]]:
        """Return books only: a trade that is missing shows by its number."""
        try:
            kind, _, rest = _FRAME.decode(payload).params.channel.partition(".")
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None, (_BOOK,)
        name = rest.rpartition(".")[0]
        if not kind:
            return None, (_BOOK,)
        return (name,), ((_BOOK,) if kind == _BOOK else ())

    # --- Books ---

    def _forget(self, product: Product) -> None:
        self._numbers.pop(product.name, None)

    def _book(self, call: Call, sent: _Book) -> None:
        product = self._products.find(call, sent.name)
        if product is None:
            return
        columns = _columns(sent)
        ts_event = self._event_time(call, sent.ms, ms_ns, "timestamp")
        last = self._numbers.get(sent.name)
        call.sequence = sent.number
        if sent.type == "snapshot":
            self._numbers[sent.name] = sent.number
            self._snapshot(call, product, ts_event, columns)
        elif last is None or not product.book_valid:
            self.counts["deltas_before_snapshot"] += 1
        elif sent.previous == last:
            self._numbers[sent.name] = sent.number
            books.update(call, product, ts_event, columns, even_empty=True)
        elif sent.number <= last:
            self.counts["duplicates"] += 1
        else:
            self._lose(call, (product,), (_BOOK,), GAP, "sequence", expected=last, received=sent.previous)

    # --- Trades ---

    def _answered(self, call: Call, request: Fetch) -> bool:
        if request.purpose == "trades":
            self._take_trades(call, _TRADE_ANSWER.decode(call.payload).result.trades, listed_for=request.symbol)
        return request.purpose == "trades"

    def _take_trades(self, call: Call, items: list[msgspec.Raw], *, listed_for: str = "") -> None:
        """Take trades of the channel, or REST's last trades of one product."""

        def read(raw: msgspec.Raw) -> tuple[str, Numbered]:
            sent = TRADE.decode(raw)
            trade = read_trade(sent)
            self._advance(call, trade.ts_event)
            return sent.name, (sent.number, trade)

        batches, whole = self._read_each(call, items, read)
        product = self._products.get(listed_for)
        if product is not None and not batches:
            numbered_trades.give_up(call, product, self._ledger, answered=whole)
        for name, batch in batches.items():
            batch.sort(key=itemgetter(0))
            call.sequence = batch[-1][0]
            found = self._products[name]
            if numbered_trades.take(call, found, self._ledger, batch, snapshot=bool(listed_for), whole=whole):
                self.counts["gaps"] += 1
                self._repairs.again(call, _TRADES, (name,), "sequence")

    # --- Tickers ---

    def _ticker(self, call: Call, sent: _Ticker) -> None:
        product = self._products.find(call, sent.name)
        if product is None:
            return
        ts_event = self._event_time(call, sent.ms, ms_ns, "timestamp")
        if sent.state in _STATES:
            self._products.learn(call, product, status=_STATES[sent.state], detail=sent.state)
        stats = sent.stats
        quotes.send(
            call, product, ts_event,
            bid=_price(sent.best_bid_price, "best_bid_price"), bid_size=_size(sent.best_bid_amount, "best_bid_amount"),
            ask=_price(sent.best_ask_price, "best_ask_price"), ask_size=_size(sent.best_ask_amount, "best_ask_amount"),
            last=_price(sent.last_price, "last_price"), volume_24h=_size(stats.get("volume"), "volume"),
            high_24h=_price(stats.get("high"), "high"), low_24h=_price(stats.get("low"), "low"),
            change_24h=_size(stats.get("price_change"), "price_change"),
        )  # fmt: skip
        values = derivatives.read(
            call, number, mark_price=sent.mark_price, index_price=sent.index_price, open_interest=sent.open_interest,
            funding_rate=sent.current_funding, underlying_price=sent.underlying_price,
            **{name: sent.greeks.get(name) for name in _GREEKS},
        )  # fmt: skip
        rates = derivatives.read(call, _percent, bid_iv=sent.bid_iv, ask_iv=sent.ask_iv, mark_iv=sent.mark_iv)
        interval = None if values["funding_rate"] is None else FUNDING_INTERVAL_S
        derivatives.send(call, product, ts_event, **values, **rates, funding_interval=interval)

    # --- Products ---

    def _describe(self, name: str) -> Instrument:
        return describe(name)

    def _learn_products(self, call: Call) -> None:
        learn_each(call, _LIST.decode(call.payload).result, LISTED, self._learn)

    def _learn(self, call: Call, sent: _Listed) -> None:
        if not self._products.accepts(sent.name):
            return  # most of the thousands that are listed
        self._products.know(call, sent.name, **listed_fields(sent))


# --- Reading values ---


def _columns(sent: _Book) -> Columns:
    sides = []
    for levels, field in ((sent.bids, "bids"), (sent.asks, "asks")):
        sizes = numbers([level[2] for level in levels], field)
        sizes = ["0" if level[0] == "delete" else size for level, size in zip(levels, sizes, strict=True)]
        sides.append((numbers([level[1] for level in levels], field), sizes))
    return (*sides[0], *sides[1])


def listed_fields(sent: _Listed) -> dict[str, Any]:
    """Return a listed instrument as fields of Instrument. Raises BadEvent."""
    size = _size(sent.min_trade_amount, "min_trade_amount")
    return {
        "tick_size": _price(sent.tick_size, "tick_size"),
        "size_increment": size,
        "min_order_size": size,
        "status": "unknown" if sent.is_active is None else "online" if sent.is_active else "halted",
        "contract_multiplier": _size(sent.contract_size, "contract_size"),
        "settlement_currency": sent.settlement_currency,
        "inverse": sent.instrument_type == "reversed" if sent.instrument_type else None,
    }


def read_trade(sent: _Trade) -> Trade:
    """Return a trade of the stream or of REST. Raises BadEvent."""
    traded_price, size = number(sent.price, "price"), number(sent.amount, "amount")
    check_trade(traded_price, size, ("price", "amount"))
    is_block = sent.block is not None
    conditions = ["block"] * is_block + ["combo"] * (sent.combo is not None)
    return Trade(
        trade_id=sent.trade_id, ts_event=ms_ns(sent.ms, "timestamp"), price=traded_price, size=size,
        side=sent.direction, liquidation=bool(sent.liquidation),
        conditions=(*conditions, *([f"liquidation {sent.liquidation}"] if sent.liquidation else [])),
        excluded_from=("high_low", "open_close") if is_block else (),
    )  # fmt: skip


def _size(value: Any, field: str) -> str | None:
    return None if value is None else number(value, field)


def _price(value: Any, field: str) -> str | None:
    return None if value is None else price(number(value, field), field)


def _percent(value: Any, field: str) -> str | None:
    """Return a volatility as a fraction; 0 is none."""
    text = number(value, field)
    return None if is_zero(text) else derivatives.from_percent(text, field)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _fetch_trades(name: str) -> Fetch:
    path = f"public/get_last_trades_by_instrument?instrument_name={name}&count={LISTED_MAX}"
    return Fetch(path, "trades", name)

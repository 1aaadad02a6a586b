"""The shapes of symbols, ticker, order book and trades."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.rest.models.shared import Answer, Cursor, Level, Model, Nanoseconds, Next, Price, Symbol, Time, Venue


class TickerData(Model):
    """Best bid and offer, last trade and the last 24 hours; null where it is not known."""

    bid: Price | None
    bid_size: Price | None
    ask: Price | None
    ask_size: Price | None
    last: Price | None
    volume_24h: Price | None
    high_24h: Price | None
    low_24h: Price | None
    change_24h: Annotated[str | None, Field(description="Percent.", examples=["1.25"])]


class TickerAnswer(Answer):
    """The ticker of one symbol."""

    type: Literal["ticker"]
    data: TickerData


class BookData(Model):
    """Best levels first."""

    bids: list[Level]
    asks: list[Level]


class BookAnswer(Answer):
    """The order book of one symbol; both sides are empty while the book is unknown."""

    type: Literal["l2_snapshot"]
    depth: Annotated[int, Field(description="Levels a side at most.", examples=[20])]
    sequence: Annotated[int | None, Field(description="The venue's sequence number that it reflects.", examples=[17])]
    data: BookData


class TradeData(Model):
    """One execution."""

    trade_id: Annotated[str, Field(examples=["734210001"])]
    timestamp: Time
    ts_event: Nanoseconds
    ts_recv: Nanoseconds
    price: Price
    size: Price
    side: Annotated[str, Field(description="Aggressor: buy, sell or unknown.", examples=["buy"])]
    liquidation: Annotated[bool, Field(examples=[False])]
    action: Annotated[str, Field(description="Only when it is not new: correct or cancel, as equities do.")] = "new"
    original_id: Annotated[str, Field(description="Only of a correction: the trade whose place it takes.")] = ""
    valid: Annotated[bool, Field(description="Whether its feed could be trusted then.", examples=[True])]
    reason: Annotated[str, Field(examples=[""])]
    conditions: Annotated[
        list[str],
        Field(
            default_factory=list,
            description="The venue's own codes; absent where it sends none.",
            examples=[["@", "I"]],
        ),
    ]
    excluded_from: Annotated[
        list[str],
        Field(
            default_factory=list,
            description="What it does not update: volume, high_low, open_close; absent where it updates all.",
            examples=[["high_low", "open_close"]],
        ),
    ]


class TradesAnswer(Answer):
    """Trades, newest first."""

    type: Literal["trades"]
    data: list[TradeData]
    next_cursor: Cursor
    next: Next


class _StoredData(Model):
    timestamp: Time
    ts_event: Nanoseconds
    ts_recv: Nanoseconds
    origin: Annotated[str, Field(description="live, repair or backfill.", examples=["live"])]
    valid: Annotated[bool, Field(description="Whether it could be trusted then.", examples=[True])]
    reason: Annotated[str, Field(examples=[""])]


class QuoteData(_StoredData):
    """One change of the best bid and offer, or of the venue's statistics; null where the message did not have it."""

    source: Annotated[str, Field(description="book: of our book. venue: the venue's own.", examples=["book"])]
    bid: Price | None
    bid_size: Price | None
    ask: Price | None
    ask_size: Price | None
    last: Price | None
    volume_24h: Price | None
    high_24h: Price | None
    low_24h: Price | None
    change_24h: Annotated[str | None, Field(description="Percent.", examples=["1.25"])]


class QuotesAnswer(Answer):
    """Quotes, newest first."""

    type: Literal["quotes"]
    data: list[QuoteData]
    next_cursor: Cursor
    next: Next


class StoredBookData(_StoredData):
    """The best levels at one time, best first."""

    depth: Annotated[int, Field(description="Levels a side at most.", examples=[50])]
    sequence: Annotated[int | None, Field(description="The venue's sequence number that it reflects.", examples=[17])]
    bids: list[Level]
    asks: list[Level]


class BooksAnswer(Answer):
    """Books, newest first."""

    type: Literal["books"]
    data: list[StoredBookData]
    next_cursor: Cursor
    next: Next


class SymbolData(Model):
    """An instrument; what the venue does not list is null."""

    venue: Venue
    symbol: Symbol
    venue_symbol: Annotated[str, Field(description="As the venue writes it.", examples=["BTC-USD"])]
    base_currency: Annotated[str, Field(examples=["BTC"])]
    quote_currency: Annotated[str, Field(examples=["USD"])]
    min_order_size: Annotated[str | None, Field(examples=["0.00000001"])]
    tick_size: Annotated[str | None, Field(examples=["0.01"])]
    size_increment: Annotated[str | None, Field(examples=["0.00000001"])]
    status: Annotated[str, Field(examples=["online"])]
    kind: Annotated[str, Field(description="spot, future, perpetual, equity, option or unknown.", examples=["spot"])]
    expiry: Annotated[Time | None, Field(description="Of a future or option.")]
    strike: Annotated[Price | None, Field(description="Of an option.")]
    contract_multiplier: Annotated[
        str | None,
        Field(
            description="Units of the underlying (of the quote currency where inverse) in one contract.", examples=["1"]
        ),
    ]
    settlement_currency: Annotated[str | None, Field(examples=["USDT"])]
    inverse: Annotated[bool | None, Field(description="Whether it is settled in its base currency.", examples=[False])]
    valid: Annotated[bool, Field(description="Whether its book or ticker may be trusted now.", examples=[True])]
    reason: Annotated[str, Field(examples=[""])]


class SymbolsAnswer(Model):
    """Every symbol of every venue."""

    type: Literal["symbols"]
    timestamp: Time
    valid: bool
    reason: str
    data: list[SymbolData]

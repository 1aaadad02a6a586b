"""The shapes of candles, and of why a candle is what it is."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.rest.models.shared import Answer, Cursor, Model, Nanoseconds, Next, Price, Symbol, Time, Venue


class CandleData(Model):
    """One candle of [start, end); the prices are null where there was no trade. Bars by recipe have more fields."""

    interval: Annotated[
        str, Field(description="Length, or tick:, volume: or value: with the size of a bar.", examples=["1m"])
    ]
    start: Time
    end: Time
    start_ns: Nanoseconds
    end_ns: Nanoseconds
    ts_event: Nanoseconds
    ts_recv: Nanoseconds
    open: Price | None
    high: Price | None
    low: Price | None
    close: Price | None
    volume: Price
    quote_volume: Annotated[Price | None, Field(description="null where the venue does not send it.")]
    buy_volume: Annotated[Price | None, Field(description="null where the venue does not send it.")]
    trades: Annotated[
        int | None,
        Field(
            description="0: the interval is complete and had no trade. null: the venue does not send it.", examples=[42]
        ),
    ]
    state: Annotated[str, Field(description="open, final or revised.", examples=["final"])]
    revision: Annotated[int, Field(description="One more for each later correction.", examples=[0])]
    origin: Annotated[str, Field(description="live, repair or backfill.", examples=["live"])]
    valid: Annotated[bool, Field(examples=[True])]
    reason: Annotated[str, Field(examples=[""])]
    vwap: Annotated[
        Price | None,
        Field(
            description="quote_volume divided by volume, rounded half to even to 18 significant digits; null without "
            "volume or where the venue does not send the sums."
        ),
    ]
    recipe: Annotated[str, Field(description="Name of the recipe.", examples=["five_seconds"])] = ""
    recipe_hash: Annotated[str, Field(description="Identifies what the recipe computes.")] = ""
    number: Annotated[
        int | None, Field(description="One more with each tick, volume or value bar; null for bars of time.")
    ] = None
    sell_volume: Annotated[Price | None, Field(description="Volume of trades whose aggressor sold.")] = None
    buy_trades: Annotated[int | None, Field(description="Trades whose aggressor bought.")] = None
    sell_trades: Annotated[int | None, Field(description="Trades whose aggressor sold.")] = None


class CandlesAnswer(Answer):
    """Candles, newest first."""

    type: Literal["candles"]
    interval: Annotated[str, Field(description="Of the candles, in its shortest notation.", examples=["1m"])]
    source: Annotated[str, Field(description="Whose they are: `trades` or `venue`.", examples=["trades"])]
    data: list[CandleData]
    next_cursor: Cursor
    next: Next


class ExplainedTrade(Model):
    """A trade that counted in a candle."""

    trade_id: str
    timestamp: Time
    price: Price
    size: Price
    side: str
    conditions: Annotated[list[str], Field(description="The venue's codes.")]
    counts_in: Annotated[list[str], Field(description="Of volume, high_low and open_close, what it updates.")]
    has_price_of: Annotated[list[str], Field(description="Which of the candle's prices equal its price.")]
    origin: Annotated[str, Field(description="live, repair or backfill.")]
    valid: Annotated[bool, Field(description="Whether its feed could be trusted then.")]
    reason: str
    received: Time


class LeftOutTrade(Model):
    """A trade that did not count in a candle."""

    trade_id: str
    timestamp: Time
    price: Price
    size: Price
    side: str
    conditions: list[str]
    why: Annotated[str, Field(description="excluded, late, cancelled, corrected, duplicate or refused.")]
    detail: str


class CountedTrades(Model):
    """The trades that counted: all by number, the first ones in full."""

    count: int
    items: list[ExplainedTrade]


class LeftOutTrades(Model):
    """The trades that did not count: all by number and reason, the first ones in full."""

    count: int
    by_reason: dict[str, int]
    items: list[LeftOutTrade]


class ExplainedRevision(Model):
    """One closed state of a candle, with what changed since the one before and why."""

    revision: int
    state: str
    received: Time
    origin: str
    valid: bool
    reason: str
    changes: Annotated[list[dict[str, Any]], Field(description="`field`, `before` and `after`.")]
    because: list[str]


class ExplanationAnswer(Model):
    """Why a candle is what it is."""

    type: Literal["candle_explanation"]
    venue: Venue
    symbol: Symbol
    interval: Annotated[str, Field(examples=["1m"])]
    start: Time
    end: Time
    verdict: Annotated[
        str,
        Field(
            description="equal: the stored trades make the stored candle. different: they do not. open: it still "
            "changes. from_history: it was taken from the venue's history. not_stored.",
            examples=["equal"],
        ),
    ]
    summary: str
    candle: Annotated[dict[str, Any] | None, Field(description="The stored candle; null if there is none.")]
    recomputed: Annotated[dict[str, Any], Field(description="What the counted trades make.")]
    differences: Annotated[list[dict[str, Any]], Field(description="`field`, `stored` and `recomputed`.")]
    counted: CountedTrades
    left_out: LeftOutTrades
    duplicates_known: Annotated[
        bool, Field(description="Whether `left_out` contains duplicates: only the command line can read them.")
    ]
    revisions: Annotated[list[ExplainedRevision], Field(description="Oldest first.")]
    gaps: Annotated[list[dict[str, Any]], Field(description="Entries of the ledger that overlap the candle.")]
    venue_bar: Annotated[dict[str, Any] | None, Field(description="The venue's own candle, where it is stored.")]
    venue_differences: Annotated[
        list[dict[str, Any]], Field(description="`field`, `ours`, `venue`, and `difference`, ours minus the venue's.")
    ]

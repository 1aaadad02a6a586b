"""The shapes of the candle service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.rest.models.shared import TIME_EXAMPLE, Model, Price, Symbol, Time

Exchange = Annotated[str, Field(description="Venue name.", examples=["bitfinex"])]
Timeframe = Annotated[str, Field(description="Length of a candle.", examples=["1m"])]
LastTime = Annotated[str | None, Field(examples=[TIME_EXAMPLE])]


class HealthAnswer(Model):
    """Whether candles can be had."""

    status: Annotated[
        Literal["healthy", "degraded", "unhealthy"],
        Field(
            description="degraded: live candles without history. unhealthy (503): no live candles.",
            examples=["healthy"],
        ),
    ]
    timestamp: Time
    checks: Annotated[dict[str, str], Field(description="The state of each dependency.", examples=[{"kafka": "ok"}])]


class ExchangeStatus(Model):
    """The data of one exchange."""

    exchange: Exchange
    symbols: Annotated[int, Field(description="For which data came.", examples=[412])]
    valid: Annotated[int, Field(description="Of these, how many may be trusted now.", examples=[410])]
    reasons: Annotated[dict[str, int], Field(description="The others, by reason.", examples=[{"stale": 2}])]
    last_update: LastTime


class IngestionJob(Model):
    """A backfill of candles."""

    exchange: Exchange
    symbol: Symbol
    timeframe: Timeframe
    status: Annotated[str, Field(description="running, paused, failed or done.", examples=["done"])]
    start: Time
    end: Time
    started_at: Time
    completed_at: LastTime
    candles_fetched: Annotated[int, Field(examples=[525_600])]
    last_error: str | None


class ServiceStatusAnswer(Model):
    """What comes from each exchange, and the latest backfills; `jobs` is null while the database does not respond."""

    timestamp: Time
    exchanges: list[ExchangeStatus]
    jobs: list[IngestionJob] | None


class ServiceCandle(Model):
    """One candle from `timestamp` on; the prices are null where there was no trade."""

    timestamp: Annotated[Time, Field(description="Its start.")]
    open: Price | None
    high: Price | None
    low: Price | None
    close: Price | None
    volume: Price
    trades: Annotated[int | None, Field(examples=[42])]
    closed: Annotated[bool, Field(description="Whether its time is over.", examples=[True])]
    valid: Annotated[bool, Field(examples=[True])]
    reason: Annotated[str, Field(examples=[""])]


class ServiceCandlesAnswer(Model):
    """Candles, oldest first."""

    exchange: Exchange
    symbol: Symbol
    timeframe: Timeframe
    candles: list[ServiceCandle]
    next_start: Annotated[
        str | None, Field(description="Give it as `start` for the rest of the range; null when this is all of it.")
    ]


class LatestCandleAnswer(Model):
    """The newest candle, null where there is none."""

    exchange: Exchange
    symbol: Symbol
    timeframe: Timeframe
    candle: ServiceCandle | None


class ServiceGap(Model):
    """Missing data, of every timeframe."""

    exchange: Exchange
    symbol: Annotated[str, Field(description="* when all symbols were concerned.", examples=["BTC-USD"])]
    start: LastTime
    end: LastTime
    reason: Annotated[str, Field(examples=["sequence"])]
    detected_at: Time
    repaired: Annotated[bool, Field(examples=[True])]
    repaired_at: LastTime


class ServiceGapsAnswer(Model):
    """Gaps, latest detected first."""

    gaps: list[ServiceGap]


class ServiceSymbol(Model):
    """One symbol of an exchange."""

    exchange: Exchange
    symbol: Symbol
    exchange_symbol: Annotated[str, Field(description="As the exchange writes it.", examples=["tBTCUSD"])]
    base_currency: Annotated[str, Field(examples=["BTC"])]
    quote_currency: Annotated[str, Field(examples=["USD"])]
    status: Annotated[str, Field(examples=["online"])]


class ServiceSymbolsAnswer(Model):
    """Every symbol of every exchange."""

    symbols: list[ServiceSymbol]

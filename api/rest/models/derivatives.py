"""The shapes of derivatives: latest values, events and liquidations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.rest.models.shared import TIME_EXAMPLE, Answer, Cursor, Model, Nanoseconds, Next, Price, Time


class LiquidationData(Model):
    """One forced trade as the venue reports it apart from its trades."""

    timestamp: Time
    side: Annotated[str, Field(description="Of the liquidation order: sell closes a long position.", examples=["sell"])]
    price: Price
    size: Price
    liquidation_id: Annotated[str | None, Field(examples=[None])]


class _DerivativeFields(Model):
    mark_price: Price | None
    index_price: Price | None
    open_interest: Annotated[Price | None, Field(description="In the units of a trade's size.")]
    open_interest_value: Annotated[Price | None, Field(description="In the quote currency.")]
    funding_rate: Annotated[str | None, Field(description="A fraction: 0.0001 is 0.01 %.", examples=["0.0001"])]
    predicted_funding_rate: Annotated[str | None, Field(description="Of the next period.", examples=["0.00012"])]
    next_funding_time: Time | None
    funding_interval: Annotated[int | None, Field(description="Seconds between payments.", examples=[28800])]
    delta: Annotated[str | None, Field(examples=["0.52"])]
    gamma: Annotated[str | None, Field(examples=["0.00002"])]
    vega: Annotated[str | None, Field(examples=["110.5"])]
    theta: Annotated[str | None, Field(examples=["-45.1"])]
    rho: Annotated[str | None, Field(examples=["12.3"])]
    bid_iv: Annotated[str | None, Field(description="Implied volatility, a fraction per year.", examples=["0.55"])]
    ask_iv: Annotated[str | None, Field(description="Implied volatility, a fraction per year.", examples=["0.57"])]
    mark_iv: Annotated[str | None, Field(description="Implied volatility, a fraction per year.", examples=["0.56"])]
    underlying_price: Price | None


class DerivativeData(_DerivativeFields):
    """What one message of the venue had; the other fields are null."""

    timestamp: Time
    ts_event: Nanoseconds
    ts_recv: Nanoseconds
    liquidations: list[LiquidationData]
    origin: Annotated[str, Field(description="live, repair or backfill.", examples=["live"])]
    valid: Annotated[bool, Field(examples=[True])]
    reason: Annotated[str, Field(examples=[""])]


class LatestDerivative(_DerivativeFields):
    """The newest value of each field, null where the venue never sent one."""

    updated: Annotated[
        dict[str, str],
        Field(description="When each value that is not null was valid.", examples=[{"funding_rate": TIME_EXAMPLE}]),
    ]


class DerivativesAnswer(Answer):
    """The latest values, and what the venue sent, newest first."""

    type: Literal["derivatives"]
    latest: LatestDerivative
    data: list[DerivativeData]
    next_cursor: Cursor
    next: Next

"""The shapes of metrics, and of the best bid and offer over all venues."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.rest.models.shared import Answer, Cursor, Model, Nanoseconds, Next, Price, Symbol, Time, Venue


class MetricsData(Model):
    """Metrics of a book at one time; null where unknown, as all are while the book is not valid."""

    timestamp: Time
    ts_event: Nanoseconds
    ts_recv: Nanoseconds
    start_ns: Nanoseconds
    valid: bool
    reason: Annotated[str, Field(description="Why the book was not valid, empty when it was.", examples=[""])]
    start: Annotated[
        Time, Field(description="Start of the interval of order_flow and the counts; it ends at timestamp.")
    ]
    bid: Price | None
    bid_size: Price | None
    ask: Price | None
    ask_size: Price | None
    mid: Annotated[Price | None, Field(description="(bid + ask) / 2, exact.")]
    microprice: Annotated[
        Price | None, Field(description="(bid * ask_size + ask * bid_size) / (bid_size + ask_size), 18 digits.")
    ]
    spread: Annotated[Price | None, Field(description="ask - bid, exact.", examples=["0.01"])]
    spread_bps: Annotated[Price | None, Field(description="10000 * spread / mid, 18 digits.", examples=["0.0015"])]
    imbalance: Annotated[
        Price | None,
        Field(description="(bid_size - ask_size) / (bid_size + ask_size), 18 digits.", examples=["-0.25"]),
    ]
    depth_bps: Annotated[list[str], Field(description="Distances from mid in basis points.", examples=[["5", "10"]])]
    bid_depths: Annotated[list[str], Field(description="Sizes of the bids within each.", examples=[["1.5", "4"]])]
    ask_depths: Annotated[list[str], Field(description="Sizes of the asks within each.", examples=[["2", "3.25"]])]
    bid_reach_bps: Annotated[
        Price | None, Field(description="Distance of the lowest bid that the venue sends.", examples=["250"])
    ]
    ask_reach_bps: Annotated[
        Price | None, Field(description="Distance of the highest ask that the venue sends.", examples=["250"])
    ]
    order_flow: Annotated[
        str | None,
        Field(
            description="Order flow imbalance (Cont, Kukanov, Stoikov) of the interval; null where the book was not "
            "valid in all of it.",
            examples=["-12.5"],
        ),
    ]
    changes: Annotated[int, Field(description="Levels set or removed in the interval.", examples=[120])]
    best_price_changes: Annotated[int, Field(description="Changes of the best prices.", examples=[4])]


class MetricsAnswer(Answer):
    """Metrics of a book, newest first."""

    type: Literal["metrics"]
    data: list[MetricsData]
    next_cursor: Cursor
    next: Next


class ConsolidatedSide(Model):
    """The best price of one side over all valid venues."""

    price: Price
    size: Annotated[str, Field(description="Sum of the sizes at that price.", examples=["1.5"])]
    venues: Annotated[list[str], Field(examples=[["coinbase", "kraken"]])]


class ConsolidatedVenue(Model):
    """One venue's best prices, and whether they are used."""

    venue: Venue
    symbol: Symbol
    bid: Price | None
    bid_size: Price | None
    ask: Price | None
    ask_size: Price | None
    contract_multiplier: Annotated[str | None, Field(description="Of a contract, whose sizes it multiplies.")]
    valid: Annotated[bool, Field(description="A venue that is not valid is left out.", examples=[True])]
    reason: Annotated[str, Field(examples=[""])]
    timestamp: Time | None
    age_ms: Annotated[int | None, Field(description="How long ago it was received.", examples=[120])]


class ConsolidatedData(Model):
    """The best bid and offer over all venues."""

    kind: Annotated[
        str, Field(description="Kind of the instrument; unknown where no venue lists it.", examples=["spot"])
    ]
    state: Annotated[
        str,
        Field(description="normal, locked, crossed, one_sided, or unknown without a valid venue.", examples=["normal"]),
    ]
    bid: ConsolidatedSide | None
    ask: ConsolidatedSide | None
    mid: Price | None
    spread: Annotated[Price | None, Field(description="Negative when crossed.", examples=["0.02"])]
    venues: list[ConsolidatedVenue]
    left_out: Annotated[list[str], Field(description="Venues that are not valid now.", examples=[["gemini"]])]


class ConsolidatedAnswer(Answer):
    """The best bid and offer of one instrument over all venues; valid when at least one venue is."""

    type: Literal["consolidated"]
    data: ConsolidatedData

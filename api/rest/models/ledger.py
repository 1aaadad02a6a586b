"""The shapes of gaps, jobs, anomalies and the health of all data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.rest.models.shared import TIME_EXAMPLE, Cursor, Model, Nanoseconds, Next, Symbol, Time, Venue


class GapData(Model):
    """One gap, from its discovery to its repair."""

    gap_id: Annotated[str, Field(examples=["coinbase/0-1786-42"])]
    venue: Venue
    symbol: Annotated[str, Field(description="* when the whole connection was concerned.", examples=["BTC-USD"])]
    channel: str | None
    line: Annotated[str, Field(examples=["coinbase/0"])]
    reason: Annotated[str, Field(examples=["sequence"])]
    detail: str
    state: Annotated[str, Field(description="open or repaired.", examples=["repaired"])]
    start: Annotated[str | None, Field(description="Start of the affected time.", examples=[TIME_EXAMPLE])]
    end: Annotated[str | None, Field(description="End of the affected time.", examples=[TIME_EXAMPLE])]
    start_ns: Nanoseconds | None
    end_ns: Nanoseconds | None
    expected: Annotated[int | None, Field(description="Sequence number that should have come.", examples=[41])]
    received: Annotated[int | None, Field(description="Sequence number that came.", examples=[43])]
    found_by: str
    detected_at: Time
    repaired_at: Annotated[str | None, Field(examples=[TIME_EXAMPLE])]
    repaired_by: Annotated[
        str | None,
        Field(
            description="resync (the feed's own, by a snapshot or late trades), restarted or succeeded (by the first "
            "whole book of the next process or line), rest_trades, rest_candles or late_data (found by a scan), "
            "passed_over (a time without data so long that it gets no candles).",
            examples=["resync"],
        ),
    ]


class GapsAnswer(Model):
    """The ledger of gaps, latest first."""

    type: Literal["gaps"]
    timestamp: Time
    valid: bool
    reason: str
    data: list[GapData]
    next_cursor: Cursor
    next: Next


class JobData(Model):
    """One job of backfill or repair: what was asked of a venue's history, and how far it is."""

    job_id: Annotated[str, Field(examples=["coinbase:BTC-USD|candles|1m|1754773200000000000"])]
    venue: Venue
    symbol: Symbol
    kind: Annotated[str, Field(description="candles, trades or repair.", examples=["candles"])]
    interval: Annotated[
        str, Field(description="Interval of the candles; of a repair the gap's channel.", examples=["1m"])
    ]
    state: Annotated[str, Field(description="running, paused, failed or done.", examples=["done"])]
    start: Time
    end: Time
    start_ns: Nanoseconds
    end_ns: Nanoseconds
    cursor_ns: Nanoseconds
    cursor: Annotated[str, Field(description="Everything before this time has been fetched.", examples=[TIME_EXAMPLE])]
    fetched: Annotated[int, Field(description="Candles or trades that the venue sent.", examples=[525_600])]
    published: Annotated[int, Field(description="Candles, of all intervals, or trades that were new.")]
    attempts: Annotated[int, Field(description="How often it was started or resumed.", examples=[1])]
    last_error: Annotated[str | None, Field(description="Why it could not go on, or why a gap stays.")]
    started_at: Time
    updated_at: Time
    completed_at: Annotated[str | None, Field(examples=[TIME_EXAMPLE])]


class JobsAnswer(Model):
    """The jobs of backfill and repair, latest change first."""

    type: Literal["jobs"]
    timestamp: Time
    valid: bool
    reason: str
    data: list[JobData]
    next_cursor: Cursor
    next: Next


class AnomalyData(Model):
    """Something about the market or its data that a person or a strategy should know."""

    anomaly_id: str
    venue: Venue
    symbol: Symbol
    timestamp: Time
    kind: Annotated[
        str,
        Field(
            description="crossed, stale, silent, gap, price_jump, price_deviation, spread_blowout, volume_spike, "
            "quote_stuffing or liquidation_cascade.",
            examples=["price_jump"],
        ),
    ]
    severity: Annotated[str, Field(description="info, warning or critical.", examples=["warning"])]
    metric: Annotated[str, Field(description="What was measured.")]
    value: Annotated[str, Field(description="The worst value so far.", examples=["0.05"])]
    limit: Annotated[str, Field(description="The limit that the value crossed.", examples=["0.01"])]
    usual: Annotated[str | None, Field(description="What is usual for the symbol.", examples=["0.0001"])]
    text: Annotated[str, Field(description="One sentence for people.")]
    phase: Annotated[str, Field(description="start, peak or end.", examples=["end"])]
    start: Time
    peak: Annotated[Time | None, Field(description="Time of the worst value so far.")]
    end: Annotated[Time | None, Field(description="null until it has ended.")]
    start_ns: Nanoseconds
    peak_ns: Nanoseconds | None
    end_ns: Nanoseconds | None
    evidence: dict[str, Any]


class AnomaliesAnswer(Model):
    """Anomalies by their start, newest first, each once."""

    type: Literal["anomalies"]
    timestamp: Time
    valid: bool
    reason: str
    data: list[AnomalyData]
    next_cursor: Cursor
    next: Next


class SymbolStatus(Model):
    """The health of one symbol's data at one venue."""

    venue: Venue
    symbol: Symbol
    valid: bool
    reason: str
    timestamp: Annotated[str | None, Field(description="When anything was received last.", examples=[TIME_EXAMPLE])]
    age_ms: Annotated[int | None, Field(description="How long ago that was.", examples=[120])]
    book_valid: Annotated[bool, Field(examples=[True])]
    book_reason: str
    book_levels: Annotated[int, Field(description="Levels of both sides.", examples=[40210])]
    trades_valid: bool
    trades_reason: str
    halted: bool
    messages: Annotated[int, Field(description="Taken in since the API started.", examples=[73012])]
    line: Annotated[str, Field(examples=["coinbase/0"])]
    sequence: int | None


class FeedEvent(Model):
    """What happened to a feed last."""

    venue: Venue
    symbol: Symbol
    timestamp: Time
    kind: Annotated[str, Field(examples=["connected"])]
    reason: str
    detail: str
    line: str
    channel: str | None
    gap_id: str | None
    expected: int | None
    received: int | None


class StatusData(Model):
    """Symbols, and the latest events of the feeds, newest first."""

    symbols: list[SymbolStatus]
    events: list[FeedEvent]


class StatusAnswer(Model):
    """The health of all data. `valid` is false when any symbol's data may not be trusted."""

    type: Literal["status"]
    timestamp: Time
    valid: bool
    reason: str
    data: StatusData
    next_cursor: Cursor


class VenueSummary(Model):
    """How many symbols of one venue are valid, and why the others are not."""

    venue: Venue
    symbols: Annotated[int, Field(description="For which data came.", examples=[412])]
    valid: Annotated[int, Field(examples=[410])]
    reasons: Annotated[dict[str, int], Field(description="The others, by reason.", examples=[{"stale": 2}])]
    halted: Annotated[int, Field(examples=[0])]
    messages: Annotated[int, Field(description="Taken in since the API started.", examples=[730120])]
    timestamp: Annotated[str | None, Field(description="When anything was received last.", examples=[TIME_EXAMPLE])]
    age_ms: Annotated[int | None, Field(description="How long ago that was.", examples=[12])]


class SummaryAnswer(Model):
    """The health of all data in a few numbers; `valid` is false when any symbol's data may not be trusted."""

    type: Literal["status_summary"]
    timestamp: Time
    valid: bool
    reason: str
    data: list[VenueSummary]

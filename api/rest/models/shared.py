"""What the shapes of several answers have in common, and the shape of an error."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.rest.codes import MEANINGS

TIME_EXAMPLE = "2026-08-09T21:05:48.228568Z"

Price = Annotated[str, Field(description="Decimal string, exact.", examples=["64250.01"])]
Time = Annotated[str, Field(description="RFC 3339, microseconds, UTC.", examples=[TIME_EXAMPLE])]
Nanoseconds = Annotated[
    str, Field(description="UTC nanoseconds, all digits, as text.", examples=["1786309548228568123"])
]
Level = Annotated[
    list[str], Field(min_length=2, max_length=2, description="`[price, size]`.", examples=[["64250.01", "0.5"]])
]
Venue = Annotated[str, Field(description="Venue name.", examples=["coinbase"])]
Symbol = Annotated[str, Field(description="Symbol.", examples=["BTC-USD"])]
Cursor = Annotated[
    str | None,
    Field(description="Give it as `cursor` for the next, older page; null on the last page.", examples=[None]),
]


Next = Annotated[str | None, Field(description="Address of the next, older page; also in the header `Link`.")]


class Model(BaseModel):
    """A shape that has exactly these fields."""

    model_config = ConfigDict(extra="forbid")


class Answer(Model):
    """What every answer about one symbol has."""

    venue: Venue
    symbol: Symbol
    timestamp: Time
    ts_event: Nanoseconds
    valid: Annotated[bool, Field(description="Whether the value may be trusted.", examples=[True])]
    reason: Annotated[
        str,
        Field(
            description="Empty when valid; else gap, stale, crossed, checksum, halted, resyncing, disconnected or, of "
            "a candle, amended.",
            examples=[""],
        ),
    ]


class FieldError(Model):
    """A parameter that cannot be used."""

    field: Annotated[str, Field(examples=["start"])]
    value: Annotated[str, Field(examples=["2026-08-09T21:05:48"])]
    message: Annotated[str, Field(examples=["must be an RFC 3339 time with a zone, such as 2026-08-09T21:05:48Z"])]


class ProblemAnswer(BaseModel):
    """An error (RFC 9457)."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: Annotated[str, Field(examples=["Unprocessable Content"])]
    status: Annotated[int, Field(examples=[422])]
    detail: Annotated[str, Field(description="What is wrong, and what to do about it.")]
    instance: Annotated[str, Field(examples=["/api/v1/market/BTC-USD/trades"])]
    code: Annotated[
        str,
        Field(
            description="What went wrong, for programs. "
            + " ".join(f"`{code}` ({status}): {meaning}" for code, (status, meaning) in MEANINGS.items()),
            examples=["bad_parameter"],
        ),
    ]
    trace_id: Annotated[
        str, Field(description="Finds the request in logs and traces.", examples=["4bf92f3577b34da6a3ce929d0e0e4736"])
    ]
    errors: list[FieldError] = []
    venues: Annotated[list[str], Field(description="With 409: the venues to choose from.")] = []
    near: Annotated[list[str], Field(description="With 404: symbols with a similar name.")] = []

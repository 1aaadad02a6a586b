"""Async client of a Tickstream API: history over REST, and live streams that repair themselves."""

from tickstream_client.book import Book, Level
from tickstream_client.client import Event, MarketDataClient
from tickstream_client.errors import ApiError, ClientError, Refused
from tickstream_client.kafka import Hops, decode_hops
from tickstream_client.messages import Disconnected, Message, Resumed, SequenceGap

__all__ = [
    "ApiError",
    "Book",
    "ClientError",
    "Disconnected",
    "Event",
    "Hops",
    "Level",
    "MarketDataClient",
    "Message",
    "Refused",
    "Resumed",
    "SequenceGap",
    "decode_hops",
]

"""De-duplication and one-minute candles with Quix Streams, as a user of it would write them.

`candles.py BROKERS SOURCE TRADES CANDLES SCHEMA`: reads our Avro trades (with fastavro, its own decoder), leaves out
trade ids that came before, publishes the messages that are left and the candles. At least once. Runs in an environment
of its own.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import fastavro
from quixstreams import Application
from quixstreams.models import SerializationContext
from quixstreams.models.serializers import BytesSerializer, Deserializer, JSONSerializer

MINUTE_MS = 60_000
PREFIX_BYTES = 5


class Trades(Deserializer):
    """Reads a record in the Confluent wire format with the schema of `schemas/trades.avsc`."""

    def __init__(self, schema: dict[str, Any]) -> None:
        super().__init__()
        self._schema = fastavro.parse_schema(schema)

    def __call__(self, value: bytes, ctx: SerializationContext) -> dict[str, Any]:  # noqa: ARG002 - its protocol
        """Return the record, with its bytes beside it."""
        record: Any = fastavro.schemaless_reader(io.BytesIO(value[PREFIX_BYTES:]), self._schema, None)
        record["bytes"] = value
        return dict(record)


def is_new(record: dict[str, Any], state: Any) -> bool:
    """Return whether the message brings a trade newer than the last one of its symbol."""
    last = state.get("last", 0)
    newest = max((int(trade["trade_id"]) for trade in record["trades"]), default=0)
    if newest <= last:
        return False
    state.set("last", newest)
    return True


def first(record: dict[str, Any]) -> dict[str, Any]:
    """Return the candle of the first message of a minute."""
    prices = [float(trade["price"]) for trade in record["trades"]]
    volume = sum(float(trade["size"]) for trade in record["trades"])
    return {"open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1], "volume": volume}


def following(candle: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Return the candle after another message."""
    now = first(record)
    candle["high"] = max(candle["high"], now["high"])
    candle["low"] = min(candle["low"], now["low"])
    candle["close"] = now["close"]
    candle["volume"] += now["volume"]
    return candle


def main(brokers: str, source: str, trades: str, candles: str, schema_file: str) -> None:
    """Run until terminated."""
    with open(schema_file, encoding="utf-8") as file:  # noqa: PTH123 - one file
        schema = json.load(file)
    app = Application(
        broker_address=brokers,
        consumer_group=f"quix-{source}",
        auto_offset_reset="earliest",
        commit_interval=0.5,
        state_dir=f"/tmp/{source}-quix-state",
        auto_create_topics=True,
        use_changelog_topics=False,
        loglevel="WARNING",
    )
    input_topic = app.topic(source, value_deserializer=Trades(schema), key_deserializer="bytes")
    output = app.topic(trades, value_serializer=BytesSerializer(), key_serializer="bytes")
    candle_topic = app.topic(candles, value_serializer=JSONSerializer(), key_serializer="bytes")
    stream = app.dataframe(input_topic).filter(is_new, stateful=True)
    stream.apply(lambda record: record["bytes"]).to_topic(output)
    windows = stream.tumbling_window(MINUTE_MS).reduce(reducer=following, initializer=first)
    windows.current().to_topic(candle_topic)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])

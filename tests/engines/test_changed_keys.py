"""Outputs under another key than their input go to the partition of their own key; the others stay where they are."""

from __future__ import annotations

from typing import Any

from marketdata import topics
from marketdata.codec import Codec
from marketdata.events import EVENTS, Anomaly, AnyEvent, BookUpdate, VenuePrice
from marketdata.partitions import partition_of
from stream_apps.chain import INPUTS, make_chains
from stream_apps.operators import make_operators
from stream_apps.pipeline import Output, Pipeline, Record, Shell, Start

CODEC = Codec({cls.schema: number for number, cls in enumerate(EVENTS, start=1)})
T0 = 1_780_000_000_000_000_000
SECOND = 1_000_000_000
PARTITIONS = 7


def outputs(number: int, topic: topics.Topic, events: list[AnyEvent]) -> list[tuple[AnyEvent, Output]]:
    """Return what the pipeline of a partition writes for events of one input topic."""
    operators = make_operators()
    shell = Shell(operators=lambda: operators, decode=CODEC.decode, encode=CODEC.encode, clock=lambda: T0,
                  partitions=PARTITIONS)  # fmt: skip
    starts = {name: Start(offset=0, topic_id="t") for name in INPUTS}
    pipeline = Pipeline(number, make_chains(operators), starts, shell)
    for offset, event in enumerate(events):
        pipeline.step(Record(topic.physical(), offset, event.key.encode(), CODEC.encode(event), None, 0))
    batch = pipeline.batch()
    assert batch is not None
    found = [(CODEC.decode(each.value), each) for each in batch.outputs if each.value is not None]
    return [(event, each) for event, each in found if event.schema != "Checkpoint"]


def test_the_prices_of_all_venues_meet_in_the_partition_of_their_symbol() -> None:
    """From whichever partitions their books come."""
    common: dict[str, Any] = {"symbol": "BTC-USD", "line": "l", "ts_event": T0, "ts_recv": T0, "kind": "snapshot"}
    sides: dict[str, Any] = {"bid_prices": ["1"], "bid_sizes": ["1"], "ask_prices": ["2"], "ask_sizes": ["1"]}
    for number, venue in enumerate(["coinbase", "kraken", "okx"]):
        made = outputs(number, topics.INGEST_BOOKS, [BookUpdate(venue=venue, **common, **sides)])
        assert {type(event).__name__ for event, _ in made} == {"BookUpdate", "Quote", "Book", "Metrics", "VenuePrice"}
        for event, output in made:
            wanted = partition_of(b"*:BTC-USD", PARTITIONS) if isinstance(event, VenuePrice) else None
            assert output.partition == wanted


def test_an_anomaly_between_venues_goes_where_its_venue_and_symbol_go() -> None:
    """So that one partition has everything of a symbol of a venue."""
    prices: list[AnyEvent] = [
        VenuePrice(venue="*", symbol="BTC-USD", line=venue, ts_event=T0 + second * SECOND, ts_recv=T0, valid=True,
                   of_venue=venue, price="150" if (second, venue) == (120, "okx") else "100")
        for second in range(121)
        for venue in ("coinbase", "kraken", "okx")
    ]  # fmt: skip
    ((event, output),) = outputs(3, topics.VENUE_PRICES, prices)
    assert isinstance(event, Anomaly)
    assert (event.venue, event.kind, output.key) == ("okx", "price_deviation", b"okx:BTC-USD")
    assert output.partition == partition_of(b"okx:BTC-USD", PARTITIONS)

"""The publisher and the whole producer process against the real Kafka and registry."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, Message
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from infra.local.table import Endpoints
from marketdata import headers
from marketdata.codec import Codec
from marketdata.errors import Unavailable
from marketdata.events import AnyEvent, BookUpdate, DeadLetter, Instrument, RawFrame, Trade, Trades
from runtime.kafka import headers_of
from runtime.recordings import Recorded
from runtime.settings import CommonSettings
from tests.producers.process import LIMIT_S, all_messages, producer, publishing

if TYPE_CHECKING:
    from tests.producers.conftest import Frames

NOW = 1_800_000_000_000_000_000


def trades(number: int, **fields: Any) -> Trades:
    """Return a message of one trade."""
    trade = Trade(trade_id=str(number), ts_event=NOW, price="1", size="1", side="buy")
    values: dict[str, Any] = {"venue": "coinbase", "symbol": "BTC-USD", "ts_event": NOW, "ts_recv": NOW,
                              "line": "coinbase/0", "sequence": number, "trades": (trade,)}  # fmt: skip
    return Trades(**(values | fields))


def test_events_go_keyed_to_the_topic_of_their_kind_with_trace_and_times(
    settings: CommonSettings, codec: Codec
) -> None:
    """One frame's records share one trace; each has its own id; the bytes are in the Confluent format."""
    instrument = Instrument(venue="coinbase", symbol="BTC-USD", ts_recv=NOW, venue_symbol="BTC-USD",
                            base_currency="BTC", quote_currency="USD")  # fmt: skip
    update = BookUpdate(venue="coinbase", symbol="BTC-USD", ts_event=NOW, ts_recv=NOW, line="coinbase/0",
                        kind="update", bid_prices=["1.50"], bid_sizes=["0"])  # fmt: skip
    raw = RawFrame(venue="coinbase", line="coinbase/0", number=0, ts_recv=NOW, kind="recv", data=b"{}")
    events: list[AnyEvent] = [instrument, trades(1), update]

    async def scenario() -> None:
        async with publishing(settings, codec) as publisher:
            await publisher.write("coinbase/0", events, NOW, raw)

    asyncio.run(scenario())
    messages = all_messages(settings)
    got = {schema: [codec.decode(m.value() or b"") for m in found] for schema, found in messages.items() if found}
    assert got == {"Instrument": [instrument], "Trades": [events[1]], "BookUpdate": [update], "RawFrame": [raw]}
    found = [message for several in messages.values() for message in several]
    heads = [headers_of(message) for message in found]
    assert {message.key() for message in found} == {b"coinbase:BTC-USD", b"coinbase/0"}
    assert len({head[headers.TRACEPARENT] for head in heads}) == 1
    assert len({head["ce_id"] for head in heads}) == 4
    assert {head["ce_type"] for head in heads} >= {b"tickstream.md.Trades.v1", b"tickstream.md.RawFrame.v1"}
    hops = [headers.hops_of(head) for head in heads]
    assert all(each.t_recv == NOW and each.t_produced > 0 and each.input is None for each in hops)
    assert all(head["ce_subject"] == message.key() for head, message in zip(heads, found, strict=True))
    partitions = {messages[schema][0].partition() for schema in ("Instrument", "Trades", "BookUpdate")}
    assert len(partitions) == 1, "one key, one partition number, in every topic"


def test_order_is_kept_and_nothing_is_lost_when_the_buffer_overflows(
    settings: CommonSettings, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the bound is written at once: `write` waits, every record arrives once and in order."""
    monkeypatch.setattr("producers.live.publisher.BUFFER_BYTES_MAX", 20_000)
    monkeypatch.setattr("producers.live.publisher.BUFFER_BYTES_LOW", 10_000)
    most = 0

    async def scenario() -> None:
        nonlocal most
        async with publishing(settings, codec) as publisher:
            for number in range(5_000):
                await publisher.write("coinbase/0", [trades(number)], NOW)
                most = max(most, publisher.buffered_bytes)
            assert publisher.buffered_bytes <= 20_000

    asyncio.run(scenario())
    got = [codec.decode(message.value() or b"") for message in all_messages(settings)["Trades"]]
    assert [event.sequence for event in got if isinstance(event, Trades)] == list(range(5_000))
    assert most <= 20_000


def test_event_that_does_not_fit_its_schema_becomes_a_dead_letter(settings: CommonSettings, codec: Codec) -> None:
    """It stops nothing: the next event goes on, and what was refused is kept."""
    bad = trades(1, ts_event=2**70)

    async def scenario() -> None:
        async with publishing(settings, codec) as publisher:
            await publisher.write("coinbase/0", [bad, trades(2)], NOW)

    asyncio.run(scenario())
    messages = all_messages(settings)
    (letter,) = [codec.decode(message.value() or b"") for message in messages["DeadLetter"]]
    assert isinstance(letter, DeadLetter)
    assert (letter.stage, letter.reason, letter.line) == ("feed", "does_not_fit_schema", "coinbase/0")
    assert json.loads(letter.payload)["ts_event"] == 2**70
    assert len(messages["Trades"]) == 1


def test_failed_delivery_restarts_the_lines_and_a_fatal_one_ends_the_process(
    settings: CommonSettings, codec: Codec
) -> None:
    """A record that cannot be sent (too big, here) is a gap in a stream: nothing may go on as if it were not."""
    restarts: list[str] = []
    big = BookUpdate(venue="coinbase", symbol="x" * 40_000_000, ts_event=NOW, ts_recv=NOW, line="coinbase/0",
                     kind="update")  # fmt: skip

    async def scenario() -> None:
        async with publishing(settings, codec) as publisher:
            publisher.on_failure = lambda: restarts.append("now")
            await publisher.write("coinbase/0", [big], NOW)
            assert restarts == ["now"]
            assert publisher.failures == 1
            publisher._erred(KafkaError(KafkaError._FATAL, "out of order", fatal=True))
            with pytest.raises(Unavailable, match="out of order"):
                await publisher.write("coinbase/0", [trades(2)], NOW)

    asyncio.run(scenario())


def test_trades_that_cannot_be_delivered_end_the_process(settings: CommonSettings, codec: Codec) -> None:
    """Their feed takes them for published; the next process reads from the topic what is missing."""

    async def scenario() -> None:
        async with publishing(settings, codec) as publisher:
            await publisher.write("coinbase/0", [trades(1, symbol="x" * 40_000_000)], NOW)
            with pytest.raises(Unavailable, match="cannot continue"):
                await publisher.write("coinbase/0", [trades(2)], NOW)

    asyncio.run(scenario())


# --- The process ---


def test_producer_waits_for_registry_and_says_so() -> None:
    """Nothing is there: it is alive, not ready, names what it misses, and still stops at once."""
    nowhere = {"TICKSTREAM_REGISTRY_URL": "http://127.0.0.1:9", "TICKSTREAM_KAFKA_BROKERS": "127.0.0.1:9"}
    with producer(nowhere) as running:
        running.until(lambda: "does not respond" in running.get("/readyz")[1])
        assert running.get("/healthz")[0] == 200
        status, body = running.get("/readyz")
        assert status == 503
        assert "registry" in json.loads(body)["checks"]["registry"]


def test_producer_waits_for_topics_and_says_so(endpoints: Endpoints, topic_prefix: str, codec: Codec) -> None:
    """Kafka is there and the topics are not: /readyz tells what to run."""
    with producer(endpoints.environment() | {"TICKSTREAM_TOPIC_PREFIX": topic_prefix}) as running:
        running.until(lambda: "tickstream topics apply" in running.get("/readyz")[1])


def test_bad_setting_is_named() -> None:
    """A key without a secret that can sign stops the start with the variable's name."""
    done = subprocess.run(
        [sys.executable, "-m", "producers.live"], cwd=Path(__file__).resolve().parents[2], timeout=LIMIT_S, check=False,
        env=os.environ | {"COINBASE_API_KEY": "k", "COINBASE_API_SECRET": "nonsense"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"COINBASE_API_SECRET" in done.stderr


def test_recording_reaches_kafka_whole(settings: CommonSettings, endpoints: Endpoints, codec: Codec,
                                       recording: list[Recorded]) -> None:  # fmt: skip
    """Over a real socket, through the real process: every frame raw, every trade once, both books, no dead letter."""
    frames = [line.data for line in recording if line.t == "recv"]

    async def scenario() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.recv()
            for frame in frames:
                await connection.send(frame)
            await connection.close(1000, "end of recording")

        def progress(connection: ServerConnection, request: Request) -> Response | None:
            held = json.dumps({"recorded": [{}], "began": recording[0].ts_recv})
            return connection.respond(200, held) if request.path == "/progress" else None

        async with serve(play, "127.0.0.1", 0, max_size=None, process_request=progress) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            urls = {"COINBASE_WS_URL": f"ws://127.0.0.1:{port}", "COINBASE_REST_URL": f"http://127.0.0.1:{port}"}
            await asyncio.to_thread(run, urls | {"COINBASE_PRODUCTS": "BTC-USD,eth-usd"})

    def run(addresses: dict[str, str]) -> None:
        source = {"TICKSTREAM_SOURCE": "replay", "TICKSTREAM_TOPIC_PREFIX": settings.topic_prefix}
        with producer(endpoints.environment() | source | addresses) as running:
            running.until(lambda: 'tickstream_frames_total{line="coinbase/0",venue="coinbase"} 400.0' in
                          running.get("/metrics")[1])  # fmt: skip
            running.until(lambda: running.get("/readyz")[0] == 200)

    asyncio.run(scenario())
    messages = all_messages(settings)
    raw = [codec.decode(message.value() or b"") for message in messages["RawFrame"]]
    assert [event.data.decode() for event in raw if isinstance(event, RawFrame) and event.kind == "recv"] == frames
    ids = [trade.trade_id for message in messages["Trades"] for trade in _trades_of(codec, message)]
    assert len(ids) == len(set(ids)) == 240
    books = [codec.decode(message.value() or b"") for message in messages["BookUpdate"]]
    kinds = [event.kind for event in books if isinstance(event, BookUpdate)]
    assert (kinds.count("snapshot"), kinds.count("update"), kinds.count("clear")) == (2, 287, 0)
    assert messages["DeadLetter"] == []
    statuses = [codec.decode(message.value() or b"") for message in messages["FeedStatus"]]
    assert [getattr(event, "kind", "") for event in statuses] == ["connected", "ended"]


def _trades_of(codec: Codec, message: Message) -> tuple[Trade, ...]:
    event = codec.decode(message.value() or b"")
    assert isinstance(event, Trades)
    return event.trades


def test_lines_each_bring_the_whole_feed(
    settings: CommonSettings, endpoints: Endpoints, codec: Codec, make_frames: type[Frames]
) -> None:
    """Two lines are two connections with their own names."""

    async def scenario() -> None:
        async def play(connection: ServerConnection) -> None:
            await connection.send(make_frames().snapshot().decode())
            await connection.wait_closed()

        async with serve(play, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await asyncio.to_thread(
                run, {"COINBASE_WS_URL": f"ws://127.0.0.1:{port}", "COINBASE_REST_URL": "http://127.0.0.1:9"}
            )

    def run(addresses: dict[str, str]) -> None:
        wanted = {"TICKSTREAM_LINES": "2", "TICKSTREAM_TOPIC_PREFIX": settings.topic_prefix}
        with producer(endpoints.environment() | wanted | addresses) as running:
            for line in ("coinbase/0", "coinbase/1"):
                said = f'tickstream_frames_total{{line="{line}",venue="coinbase"}} 1.0\n'
                running.until(lambda said=said: said in running.get("/metrics")[1])  # type: ignore[misc]

    asyncio.run(scenario())
    books = [codec.decode(message.value() or b"") for message in all_messages(settings)["BookUpdate"]]
    snapshots = [event.line for event in books if isinstance(event, BookUpdate) and event.kind == "snapshot"]
    assert sorted(snapshots) == ["coinbase/0", "coinbase/1"]

"""Each fault does what it says, to the frames that it names, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import websockets

from infra.simulator.faults import Fault, Hit, Injector, spoil

BTC, ETH = "BTC-USD", "ETH-USD"
Opens = Callable[..., Any]
Bounded = Callable[[Any], None]


def _sequences(client: Any) -> list[int]:
    return [frame["sequence_num"] for frame in client.frames]


async def _after(client: Any, sequence: int, frames: int = 5) -> None:
    """Read some frames beyond a sequence."""
    await client.until(lambda frame: frame["sequence_num"] >= sequence + frames)


def test_dropped_frame_leaves_a_hole_in_the_sequence(venue: Opens, bounded: Bounded) -> None:
    """The sequence that was hit never arrives, its neighbours do, and it was a book frame as asked for."""

    async def scenario() -> None:
        async with venue(rate=300) as exchange, exchange.client() as client:
            await client.subscribe("ticker")
            await client.subscribe("level2")
            hit = (await exchange.fault(kind="drop", channel="l2_data", symbol=BTC))["hits"][0]
            await _after(client, hit["sequence"])
            got = _sequences(client)
            assert sorted(set(range(got[-1] + 1)) - set(got)) == [hit["sequence"]]
            assert (hit["channel"], hit["symbol"]) == ("l2_data", BTC)
            missed = await exchange.get(f"/book/{BTC}", sequence=hit["sequence"])
            assert missed["book_sequence"] == hit["sequence"], "the exchange's own book has what was dropped"

    bounded(scenario())


def test_client_that_missed_a_frame_has_a_wrong_book_until_the_next_snapshot(venue: Opens, bounded: Bounded) -> None:
    """The comparison with the exchange's own book finds a lost update, so it can find a client that hides one."""

    async def scenario() -> None:
        async with venue(rate=300) as exchange, exchange.client() as client:
            await client.subscribe("level2", BTC)
            hit = (await exchange.fault(kind="drop", channel="l2_data", count=20))["hits"][-1]
            last = await client.until(lambda frame: frame["sequence_num"] > hit["sequence"])
            assert client.books[BTC] != await exchange.book(BTC, sequence=last["sequence_num"])
            ack = await client.subscribe("level2", BTC)
            assert client.books[BTC] == await exchange.book(BTC, sequence=ack["sequence_num"])

    bounded(scenario())


def test_duplicated_frame_comes_twice_byte_for_byte(venue: Opens, bounded: Bounded) -> None:
    """One sequence number arrives twice in a row with the same content."""

    async def scenario() -> None:
        async with venue(rate=300) as exchange, exchange.client() as client:
            await client.subscribe("level2")
            hit = (await exchange.fault(kind="duplicate"))["hits"][0]["sequence"]
            await _after(client, hit)
            got = _sequences(client)
            assert got == sorted([*range(got[-1] + 1), hit])
            place = got.index(hit)
            assert client.frames[place] == client.frames[place + 1]

    bounded(scenario())


def test_reordered_frame_comes_after_its_successor(venue: Opens, bounded: Bounded) -> None:
    """Two neighbours change places; nothing is lost."""

    async def scenario() -> None:
        async with venue(rate=300) as exchange, exchange.client() as client:
            await client.subscribe("level2")
            hit = (await exchange.fault(kind="reorder"))["hits"][0]["sequence"]
            await _after(client, hit)
            got = _sequences(client)
            assert got[hit : hit + 2] == [hit + 1, hit]
            assert sorted(got) == list(range(len(got)))

    bounded(scenario())


def test_truncated_frame_is_no_json(venue: Opens, bounded: Bounded) -> None:
    """The spoilt frame cannot be parsed, and the next one can."""

    async def scenario() -> None:
        async with venue(rate=300) as exchange, exchange.client() as client:
            await client.subscribe("level2")
            await exchange.fault(kind="corrupt", channel="l2_data", variant="truncated")
            with pytest.raises(json.JSONDecodeError):
                await client.until(lambda _: False)
            await client.next()

    bounded(scenario())


@pytest.mark.parametrize(
    ("variant", "field", "value"),
    [("type", "new_quantity", {"unexpected": True}), ("number", "new_quantity", "NaN"), ("side", "side", "sideways")],
)
def test_spoilt_field_is_the_only_change(variant: Any, field: str, value: object) -> None:
    """The frame stays JSON and differs in the first such field only."""
    level = {"side": "bid", "event_time": "t", "price_level": "1", "new_quantity": "2"}
    frame = {"channel": "l2_data", "sequence_num": 5, "events": [{"type": "update", "updates": [level, dict(level)]}]}
    spoilt = orjson.loads(spoil(orjson.dumps(frame), variant))
    frame["events"][0]["updates"][0][field] = value  # type: ignore[index]
    assert spoilt == frame


def test_frame_with_nothing_to_spoil_is_cut_in_half() -> None:
    """A heartbeat has no side: it is truncated instead of sent whole."""
    assert spoil(b'{"channel":"heartbeats"}', "side") == b'{"channel":"'


def test_muted_connection_is_silent_and_open(venue: Opens, bounded: Bounded) -> None:
    """While muted nothing arrives, afterwards frames go on with what was numbered in between missing."""

    async def scenario() -> None:
        async with venue(rate=300) as exchange, exchange.client() as client:
            await client.subscribe("level2")
            await client.next()
            muted = await exchange.fault(kind="mute", seconds=0.5)
            before = exchange.exchange.connections[1].sequence
            after = await client.until(lambda frame: frame["sequence_num"] >= before)
            silence_ns = exchange.exchange.clock() - muted["ts"]
            hits = (await exchange.get("/faults"))["past"][0]
            assert silence_ns >= 500_000_000
            assert hits["done"]
            assert after["sequence_num"] == hits["hits"][-1]["sequence"] + 1
            assert not {hit["sequence"] for hit in hits["hits"]} & set(_sequences(client))

    bounded(scenario())


def test_disconnect_resets_the_connection_without_a_close_frame(venue: Opens, bounded: Bounded) -> None:
    """The client sees a broken connection and no close code; other connections stay when one is named."""

    async def scenario() -> None:
        async with venue(rate=300) as exchange, exchange.client() as one, exchange.client() as other:
            await one.subscribe("level2")
            await other.subscribe("level2")
            done = await exchange.fault(kind="disconnect", connection=1)
            with pytest.raises(websockets.ConnectionClosedError) as broken:
                await one.until(lambda _: False)
            assert broken.value.rcvd is None
            assert isinstance(broken.value.__cause__, ConnectionResetError)
            assert [hit["connection"] for hit in done["hits"]] == [1]
            assert done["hits"][0]["sequence"] >= one.frames[-1]["sequence_num"]
            await other.next()

    bounded(scenario())


def test_halted_product_tells_its_status_and_stops_trading(venue: Opens, bounded: Bounded) -> None:
    """Status says offline, then nothing of that product changes; after the resume it does, and status says online."""

    async def scenario() -> None:
        async with venue(rate=500) as exchange, exchange.client() as client:
            for channel in ("status", "level2", "market_trades"):
                await client.subscribe(channel, BTC, ETH)
            halt = await exchange.fault(kind="halt", symbol=BTC)
            assert [hit["channel"] for hit in halt["hits"]] == ["status"]
            told = await client.until(lambda frame: frame["sequence_num"] == halt["hits"][0]["sequence"])
            (product,) = told["events"][0]["products"]
            assert (product["id"], product["status"]) == (BTC, "offline")
            (listed, _) = (await exchange.get("/api/v3/brokerage/market/products"))["products"]
            assert listed["trading_disabled"]
            start = len(client.frames)
            await _after(client, client.frames[-1]["sequence_num"], 60)
            assert {
                event.get("product_id", event.get("trades", [{}])[0].get("product_id"))
                for frame in client.frames[start:]
                for event in frame["events"]
            } == {ETH}
            resume = await exchange.fault(kind="resume", symbol=BTC)
            told = await client.until(lambda frame: frame["sequence_num"] == resume["hits"][0]["sequence"])
            assert told["events"][0]["products"][0]["status"] == "online"
            await client.until(lambda frame: frame["events"][0].get("product_id") == BTC)

    bounded(scenario())


def test_halt_with_a_length_ends_by_itself(venue: Opens, bounded: Bounded) -> None:
    """After its seconds the product is online again without a resume."""

    async def scenario() -> None:
        async with venue(rate=100) as exchange, exchange.client() as client:
            await client.subscribe("status", BTC)
            await exchange.fault(kind="halt", symbol=BTC, seconds=0.5)
            await client.until(lambda frame: _status(frame) == "offline")
            await client.until(lambda frame: _status(frame) == "online")

    bounded(scenario())


def _status(frame: dict[str, Any]) -> str | None:
    if frame["channel"] != "status":
        return None
    status: str = frame["events"][0]["products"][0]["status"]
    return status


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "explode"},
        {"kind": "drop", "symbol": "DOGE-USD"},
        {"kind": "drop", "connection": 99},
        {"kind": "mute"},
        {"kind": "drop", "cuont": 3},
    ],
)
def test_fault_that_cannot_be_is_refused(venue: Opens, bounded: Bounded, fault: dict[str, Any]) -> None:
    """A fault with a typing error or an unknown product is a 422 that says so, and nothing is put to work."""

    async def scenario() -> None:
        async with venue(rate=0) as exchange:
            answer = await exchange.http.post("/faults", json=fault)
            assert answer.status_code == 422
            assert answer.json()["detail"]
            assert await exchange.get("/faults") == {"active": [], "past": []}

    bounded(scenario())


def test_faults_from_the_start_hit_with_their_probability() -> None:
    """A fault without a count hits about its share of the frames for ever, and the same ones for the same seed."""
    hits = []
    for _ in range(2):
        injector = Injector(seed=4)
        injection = injector.add(Fault(kind="drop", count=0, probability=0.1), 0)
        for sequence in range(2_000):
            injector.frames(Hit(1, sequence, "l2_data", BTC, 0), b"x")
        assert not injection.done
        hits.append([hit.sequence for hit in injection.hits])
    assert hits[0] == hits[1]
    assert 140 < len(hits[0]) < 260


def test_faults_can_be_taken_back(venue: Opens, bounded: Bounded) -> None:
    """After DELETE no frame is hit any more."""

    async def scenario() -> None:
        async with venue(rate=300) as exchange, exchange.client() as client:
            await client.subscribe("level2")
            await exchange.fault(kind="duplicate", count=0)
            await client.until(lambda _: len(client.frames) - len(set(_sequences(client))) > 5)
            assert (await exchange.http.delete("/faults")).json() == {"ended": 1}
            last = exchange.exchange.connections[1].sequence
            await _after(client, last, 20)
            after = [number for number in _sequences(client) if number >= last]
            assert after == sorted(set(after))

    bounded(scenario())

"""A venue's REST interface against a real HTTP server: one budget and one wait for all lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest
import uvloop

from marketdata.feed import Fetch
from producers.rest import Client, Options
from producers.venues.binance.weight import used_weight
from producers.venues.kit.history import Budget

Answer = tuple[int, str]  # status, and a header line or nothing
LIMIT_S = 20.0
QUICK = Options(backoff_base_s=0.001, bytes_max=1_000)


class Venue:
    """An HTTP server that answers as `script` says, then with 200, and notes when it was asked for what."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.body = b"ok"
        self.asked: list[tuple[str, float]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a connection."""
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.asked.append((path, time.monotonic()))
        status, header = self.script.pop(0) if self.script else (200, "")
        extra = f"{header}\r\n" if header else ""
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n{extra}\r\n"
        writer.write(head.encode() + self.body)
        writer.close()

    @asynccontextmanager
    async def serve(self, budget: Budget | None = None) -> AsyncIterator[Client]:
        """Serve, and give what asks this server."""
        server = await asyncio.start_server(self, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, Client("venue", url, budget, options=QUICK) as rest, asyncio.timeout(LIMIT_S):
            yield rest


def snapshot(symbol: str, weight: int = 1) -> Fetch:
    """Return a request for a book."""
    return Fetch(f"depth?symbol={symbol}", "snapshot", symbol, weight)


@pytest.mark.parametrize(
    ("status", "when"),
    [(429, lambda: "1"), (418, lambda: formatdate(time.time() + 2, usegmt=True)), (503, lambda: "1")],
    ids=["limited", "banned-until-a-date", "unavailable"],
)
def test_no_line_asks_before_the_venue_said(status: int, when: Callable[[], str]) -> None:
    """`Retry-After`, in seconds or as a date, holds for every request."""

    async def scenario() -> None:
        venue = Venue((status, f"Retry-After: {when()}"))
        async with venue.serve() as rest:
            asked = asyncio.create_task(rest.get(snapshot("A")))
            while not venue.asked:  # noqa: ASYNC110 - the server is ours, and says nothing else
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            while not rest._not_before_s:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
            assert set(await asyncio.gather(asked, rest.get(snapshot("B")))) == {b"ok"}
            first, *later = [at for _, at in venue.asked]
            assert len(later) == 2
            assert min(later) - first > 0.9

    uvloop.run(scenario())


def test_failing_venue_is_tried_a_few_times_and_then_given_up() -> None:
    """Errors of the server are tried again; the request is not made for ever."""

    async def scenario() -> None:
        venue = Venue(*[(500, "")] * (QUICK.tries_max + 1))
        async with venue.serve() as rest:
            assert await rest.get(snapshot("A")) is None
            assert len(venue.asked) == QUICK.tries_max

    uvloop.run(scenario())


def test_request_that_the_venue_refuses_is_not_repeated() -> None:
    """A wrong request stays wrong."""

    async def scenario() -> None:
        venue = Venue((400, ""))
        async with venue.serve() as rest:
            assert await rest.get(snapshot("A")) is None
            assert len(venue.asked) == 1

    uvloop.run(scenario())


def test_redirect_is_not_followed() -> None:
    """No venue documents one, and it could lead anywhere."""

    async def scenario() -> None:
        venue = Venue((302, "Location: /elsewhere"))
        async with venue.serve() as rest:
            assert await rest.get(snapshot("A")) is None
            assert [path for path, _ in venue.asked] == ["/depth?symbol=A"]

    uvloop.run(scenario())


def test_answer_that_is_too_big_is_dropped() -> None:
    """No server can make us hold more than the limit."""

    async def scenario() -> None:
        venue = Venue((200, f"X: {'x' * 100}"))
        venue.body = b"x" * 2_000
        async with venue.serve() as rest:
            assert await rest.get(snapshot("A")) is None
            assert len(venue.asked) == 1

    uvloop.run(scenario())


def test_lines_and_symbols_share_one_budget_of_weight() -> None:
    """Requests wait until their weight may be spent: here four of 250, with 500 at once and 1,000 a second."""

    async def scenario() -> None:
        venue = Venue()
        async with venue.serve(Budget(burst=500, per_s=1_000)) as rest:
            began = time.monotonic()
            await asyncio.gather(*(rest.get(snapshot(symbol, 250)) for symbol in "ABCD"))
            times = sorted(at - began for _, at in venue.asked)
            assert times[2] > 0.24
            assert times[3] > 0.49

    uvloop.run(scenario())


def test_weight_that_others_spend_of_the_same_address_counts() -> None:
    """Another program has spent nearly all of this minute, as the first answer says; the next request waits."""

    async def scenario() -> None:
        venue = Venue((200, "X-MBX-USED-WEIGHT-1M: 6000"))
        left = used_weight(6_000)
        budget = Budget(burst=500, per_s=1_000, left=lambda headers, _: left(headers, 59.7))  # 0.3 s before the minute
        async with venue.serve(budget) as rest:
            await rest.get(snapshot("A"))
            await rest.get(snapshot("B"))
            assert venue.asked[1][1] - venue.asked[0][1] > 0.29

    uvloop.run(scenario())


def test_last_line_to_leave_closes() -> None:
    """A line that ends leaves the others' requests alone."""

    async def scenario() -> None:
        venue = Venue()
        async with venue.serve() as rest:
            async with rest:
                assert await rest.get(snapshot("A")) == b"ok"
            assert await rest.get(snapshot("A")) == b"ok"

    uvloop.run(scenario())

"""A line that is replaced before the venue ends it: a successor starts beside it and takes over once it has all books.

Theory of operation. Some venues end each connection after a fixed time (Binance after 24 h). To reconnect only then
would lose what happens meanwhile. Therefore:

1. When a connection is `lifetime_s` old, a successor with a feed and a line name of its own is started beside it.
2. While both are up they are redundant lines: the operators behind pass each event once, whichever line brings it.
3. When the successor has every book that the old one has, and has had them for `overlap_s`, the old one is retired: it
   reports its end, but no gap, since nothing is lost.
4. A successor that does not have them within `patience_s` is retired instead, and another one is tried after twice that
   time. The old one goes on meanwhile, and if the venue ends it first, it reconnects like any other line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog
from prometheus_client import Counter

from producers.live.connection import Connection
from producers.venues.kit.published import PreviousRun

OVERLAP_S = 5.0
PATIENCE_S = 300.0
LOOK_S = 0.5

_LOG = structlog.get_logger()
_HANDOVERS = Counter("tickstream_line_handovers_total", "Lines replaced before their end.", ["line", "outcome"])


class Handover:
    """One line over any number of generations; it looks like a `Connection` to its owner.

    `make` makes a connection by the name of its line: the names of two generations in a row differ.
    """

    def __init__(
        self,
        line: str,
        make: Callable[[str], Connection],
        lifetime_s: float,
        *,
        overlap_s: float = OVERLAP_S,
        patience_s: float = PATIENCE_S,
        look_s: float = LOOK_S,
    ) -> None:
        self.line = line
        self._make = make
        self._lifetime_s = lifetime_s
        self._overlap_s = overlap_s
        self._patience_s = patience_s
        self._look_s = look_s
        self._names = (line, f"{line}+")
        self._current = make(line)
        self._running: dict[Connection, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    @property
    def symbols(self) -> frozenset[str] | None:
        """Our symbols of the products to subscribe; None where only frames show them."""
        return self._current.symbols

    def resume(self, previous: PreviousRun) -> None:
        """Continue, once `run` is called, what earlier processes published."""
        self._current.resume(previous)

    def stop(self) -> None:
        """End the line in order; `run` returns soon."""
        self._stopping.set()
        for connection in self._running:
            connection.stop()

    def restart(self, reason: str) -> None:
        """Replace all connections: what consumers have may no longer be right."""
        for connection in self._running:
            connection.restart(reason)

    async def run(self) -> None:
        """Keep the line up until `stop`. Raises what a connection raises when it cannot go on."""
        self._start(self._current)
        not_before_s = 0.0
        try:
            while not self._stopping.is_set():
                await self._look()
                now = asyncio.get_running_loop().time()
                is_due = self._current.age_s >= self._lifetime_s and now >= not_before_s
                if is_due and not await self._hand_over():
                    not_before_s = now + 2 * self._patience_s
            await asyncio.gather(*self._running.values())
        finally:
            for task in self._running.values():
                task.cancel()

    def _start(self, connection: Connection) -> None:
        self._running[connection] = asyncio.create_task(connection.run(), name=connection.line)

    async def _look(self) -> None:
        """Wait for `look_s`, less if a stop is asked for or a connection fails."""
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait(
            [stopped, *self._running.values()], timeout=self._look_s, return_when=asyncio.FIRST_COMPLETED
        )
        stopped.cancel()
        for task in self._running.values():
            if task.done() and (error := task.exception()) is not None:
                raise error

    async def _hand_over(self) -> bool:
        """Let a successor take over; return False when it did not get the books in time."""
        old = self._current
        successor = self._make(self._names[old.line == self._names[0]])
        _LOG.info("handover begins", line=self.line, successor=successor.line, age_s=round(old.age_s))
        self._start(successor)
        loop = asyncio.get_running_loop()
        began, whole_since = loop.time(), None
        while not self._stopping.is_set():
            await self._look()
            now = loop.time()
            if not successor.is_beside(old):
                whole_since = None
                if now - began > self._patience_s:
                    await self._retire(successor, "abandoned")
                    return False
            elif whole_since is None:
                whole_since = now
            elif now - whole_since >= self._overlap_s:
                self._current = successor
                await self._retire(old, "taken_over")
                break
        return True

    async def _retire(self, connection: Connection, outcome: str) -> None:
        _HANDOVERS.labels(self.line, outcome).inc()
        _LOG.info("handover ends", line=self.line, outcome=outcome, successor=self._current.line)
        connection.retire()
        with suppress(asyncio.CancelledError):
            await self._running[connection]
        del self._running[connection]

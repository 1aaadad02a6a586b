"""Watches the platform while it runs: memory of each process, when its data flows again, and its books over REST."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from typing import Any, NamedTuple, Self

import httpx
import psutil
import psycopg

from infra.chaos.platform import PRODUCTS, Platform
from infra.local.state import Identity

EVERY_SECONDS = 0.5
# A slope over less than this is the warming up of a process.
SLOPE_SECONDS_MIN = 120.0
DEPTH = 20
_STORED = "SELECT symbol, max(ts_event_ns) FROM trades WHERE ts > now() - interval '5 minutes' GROUP BY symbol"


class Shown(NamedTuple):
    """A book as the API answered it, with the time of the answer, UTC nanoseconds."""

    symbol: str
    ts: int
    body: dict[str, Any]


class Sample(NamedTuple):
    """One look: `stored_ns` is the time up to which every product's trades are stored, 0 when nobody could say."""

    ts: int
    ready: frozenset[str]
    stored_ns: int


class Memory(NamedTuple):
    """Resident memory of one process: how much at most, and how fast it grew; None when it did not live long enough."""

    mb_max: float
    mb_per_min: float | None


class Watch:
    """A thread that looks at the platform every half second until it is stopped."""

    def __init__(self, platform: Platform, seed: int) -> None:
        self._platform = platform
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._memory: dict[tuple[str, Identity], list[tuple[float, float]]] = defaultdict(list)
        self.samples: list[Sample] = []
        self.shown: list[Shown] = []

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()

    def recovered_after(self, name: str, ended_ns: int) -> float | None:
        """Return seconds from a fault's end until the process was ready and later trades were stored; None if never."""
        for sample in self.samples:
            if sample.ts > ended_ns and name in sample.ready and sample.stored_ns > ended_ns:
                return (sample.ts - ended_ns) / 1e9
        return None

    def memory(self) -> dict[str, Memory]:
        """Return the memory of each process by name, of the incarnation that lived longest."""
        longest: dict[str, list[tuple[float, float]]] = {}
        peak: dict[str, float] = defaultdict(float)
        for (name, _), points in self._memory.items():
            peak[name] = max(peak[name], *(mb for _, mb in points))
            if name not in longest or _length(points) > _length(longest[name]):
                longest[name] = points
        return {name: Memory(round(peak[name], 1), _slope(points)) for name, points in sorted(longest.items())}

    def _run(self) -> None:
        api = f"http://127.0.0.1:{self._platform.ports['api']}/api/v1/market"
        with httpx.Client(timeout=2, trust_env=False) as http:
            while not self._stopping.wait(EVERY_SECONDS):
                self._look(http, api)

    def _look(self, http: httpx.Client, api: str) -> None:
        rows = self._platform.rows()
        ready = frozenset(
            name for name, row in rows.items() if row.state == "ready" and row.identity and row.identity.alive()
        )
        now_s = time.monotonic()
        for name, row in rows.items():
            if row.identity is not None:
                try:
                    mb = psutil.Process(row.identity.pid).memory_info().rss / 2**20
                except psutil.Error:
                    continue
                self._memory[name, row.identity].append((now_s, mb))
        symbol = self._random.choice(PRODUCTS)
        try:
            answer = http.get(f"{api}/{symbol}/orderbook", params={"depth": DEPTH})
            if answer.status_code == httpx.codes.OK:
                self.shown.append(Shown(symbol, time.time_ns(), answer.json()))
        except httpx.HTTPError:
            pass  # it is frozen or killed now and then
        self.samples.append(Sample(time.time_ns(), ready, self._stored_ns()))

    def _stored_ns(self) -> int:
        try:
            with psycopg.connect(
                self._platform.endpoints.database_url,
                connect_timeout=2,
                options="-c search_path=tickstream,public -c statement_timeout=2000",
                tcp_user_timeout=2000,
            ) as database:
                stored: dict[str, int] = dict(database.execute(_STORED).fetchall())
        except psycopg.Error:
            return 0
        return min((int(stored.get(symbol, 0)) for symbol in PRODUCTS), default=0)


def _length(points: list[tuple[float, float]]) -> float:
    return points[-1][0] - points[0][0]


def _slope(points: list[tuple[float, float]]) -> float | None:
    """Return the growth of the second half of a process's life in MB a minute, by least squares."""
    if _length(points) < SLOPE_SECONDS_MIN:
        return None
    half = points[len(points) // 2 :]
    mean_s = sum(at for at, _ in half) / len(half)
    mean_mb = sum(mb for _, mb in half) / len(half)
    spread = sum((at - mean_s) ** 2 for at, _ in half)
    return round(60 * sum((at - mean_s) * (mb - mean_mb) for at, mb in half) / spread, 2) if spread else None

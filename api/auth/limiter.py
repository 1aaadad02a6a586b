"""Limits the requests of each client over all API processes: token buckets in Redis, in memory while it is away.

Theory of operation.

1. A client's bucket is in Redis, and one Lua script changes it: it is atomic over all processes, uses Redis' own clock,
   and lets the bucket expire once it would be full again.
2. A process takes tokens as a lease: as many as the client may use in `_LEASE_S`, and uses them up without a round
   trip. What is unused after `_LEASE_S` is lost. So in any time t no more than
   burst + rate * (t + _LEASE_S) requests pass, over all processes; a client of up to 10 requests a second costs a round
   trip each, a faster one about ten a second. A refusal is remembered until the bucket has its next token.
3. While Redis does not answer, or none is configured, each process limits with buckets of its own. The limit then holds
   per process: n processes let n times as much pass. Requests are never unlimited and never refused for want of Redis.
   `tickstream_api_limiter_shared` is 1 while Redis decides; a failure is retried after `_RETRY_S`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import redis.asyncio
import structlog
from prometheus_client import Counter, Gauge
from redis.exceptions import RedisError

from api.auth.buckets import Buckets, Decision, Limit

CLIENTS_MAX = 100_000
_LEASE_S = 0.1
_RETRY_S = 1.0
_TIMEOUT_S = 0.25
_CONNECTIONS_MAX = 16
_PREFIX = "tickstream:limit:"

# KEYS[1] the bucket. ARGV: burst, tokens per second, tokens wanted. Returns tokens taken, tokens left, and microseconds
# until there is another one. The bucket is "tokens at": numbers as text with 17 digits, which a double survives.
SCRIPT = """
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local burst, rate, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local known = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(known[1]) or burst, tonumber(known[2]) or now
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
local taken = math.min(wanted, math.floor(tokens))
tokens = tokens - taken
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.17g', math.max(now, at)))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) / rate * 1000) + 1000)
local wait = 0
if tokens < 1 then wait = math.ceil((1 - tokens) / rate * 1000000) end
return {taken, math.floor(tokens), wait}
"""

SHARED = Gauge("tickstream_api_limiter_shared", "1 while Redis decides on limits, 0 while each process does.")
FAILURES = Counter("tickstream_api_limiter_failures_total", "Decisions that Redis should have made but did not.")
_LOG = structlog.get_logger()


class _Lease(msgspec.Struct):
    """Tokens that were taken from a bucket and may be used until a time (monotonic seconds); `empty`: it had none."""

    tokens: int
    left: int
    until: float
    empty: bool = False


class Limiter:
    """The buckets of all clients; lives on one event loop."""

    def __init__(self, redis_url: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._memory = Buckets(CLIENTS_MAX)
        self._leases: OrderedDict[str, _Lease] = OrderedDict()
        self._retry_at = 0.0
        self._script: Any = None
        self._redis: redis.asyncio.Redis | None = None
        if redis_url is not None:
            pool = redis.asyncio.BlockingConnectionPool.from_url(
                redis_url,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                max_connections=_CONNECTIONS_MAX,
                timeout=_TIMEOUT_S,
            )
            self._redis = redis.asyncio.Redis.from_pool(pool)
            self._script = self._redis.register_script(SCRIPT)
        SHARED.set(0)

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            with suppress(RedisError, OSError):
                await self._redis.aclose()

    def use(self, client: str, limit: Limit) -> Decision | None:
        """Take a token of a lease, without a round trip; None when there is none and `take` must be awaited."""
        if self._script is None:
            return self._memory.take(client, limit, 1, self._clock())
        lease, now = self._leases.get(client), self._clock()
        if lease is None or lease.until <= now:
            return None
        if lease.tokens:
            lease.tokens -= 1
            return Decision(1, lease.left + lease.tokens, 0.0)
        # An empty bucket is known to stay empty until then; a lease that was used up states nothing.
        return Decision(0, 0, lease.until - now) if lease.empty else None

    async def take(self, client: str, limit: Limit) -> Decision:
        """Take a token: of a lease, of Redis, or of this process's own bucket."""
        decision = self.use(client, limit)
        if decision is not None:
            return decision
        now = self._clock()
        if now < self._retry_at:
            return self._memory.take(client, limit, 1, now)
        wanted = max(1, int(limit.rate * _LEASE_S))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                taken, left, wait_us = await self._script(
                    keys=[_PREFIX + client], args=[limit.burst, limit.rate, wanted]
                )
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            return self._memory.take(client, limit, 1, self._clock())
        SHARED.set(1)
        if taken > 1:
            self._keep(client, _Lease(taken - 1, left, now + _LEASE_S))
        elif not taken:
            self._keep(client, _Lease(0, 0, self._clock() + wait_us / 1e6, empty=True))
        return Decision(min(taken, 1), left + max(0, taken - 1), wait_us / 1e6)

    def _keep(self, client: str, lease: _Lease) -> None:
        before = self._leases.pop(client, None)
        if before is not None and before.tokens and before.until > self._clock():
            # Another request of this client leased while we waited. No token lives longer than its own lease.
            lease = _Lease(lease.tokens + before.tokens, lease.left, before.until)
        self._leases[client] = lease
        if len(self._leases) > CLIENTS_MAX:
            self._leases.popitem(last=False)

    def _failed(self, error: BaseException) -> None:
        FAILURES.inc()
        if self._clock() >= self._retry_at:
            _LOG.warning("Redis does not answer; limits hold per process", error=type(error).__name__)
        self._retry_at = self._clock() + _RETRY_S
        SHARED.set(0)

"""Decides who a client is and whether it may do what it asks for: keys, scopes, limits and refusals in one place.

Theory of operation.

1. A key is looked up once in the database and then known for `KNOWN_S`, so most requests cost one SHA-256. Every second
   the keys that changed are read: a revoked key is refused by every process within about a second, and its sockets are
   closed.
2. While the database does not answer, known keys keep working for up to `KNOWN_S` and unknown ones get 503: access
   fails closed, and a short outage does not stop clients.
3. A client without a key is limited by its address, and so are wrong keys: `_WRONG` per address, which bounds what
   guesses cost us. A right key is limited by its own bucket wherever it is used.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from http import HTTPStatus
from typing import NoReturn

import msgspec
import structlog
from prometheus_client import Counter

from api.auth import keys, tokens
from api.auth.addresses import client_address, group_of, is_loopback, read_networks
from api.auth.audit import Audit
from api.auth.buckets import Decision, Limit
from api.auth.keys import SCOPES, Key
from api.auth.limiter import Limiter
from api.auth.store import Store
from api.auth.tiers import FILE, FREE, LOCAL, Tier, load_tiers
from api.auth.tokens import Grant, SigningKey, TokenRefused
from api.settings import ApiSettings
from marketdata.errors import SettingsError, TickstreamError

KNOWN_S = 300.0
_KNOWN_MAX = 100_000
_VISITORS_MAX = 10_000
_BLOCKED_MAX = 10_000
_CHECK_S = 1.0
# Longer than any transaction of ours: a change that was committed late is still found.
_CHANGED_WITHIN = timedelta(seconds=30)
_USED_EVERY_S = 60.0
_SIGNING_EVERY_S = 10.0
_SIGNING_RETRY_S = 1.0
_WRONG = Limit(burst=20, rate=0.5)
_ANONYMOUS_SCOPES = frozenset(SCOPES) - {"admin", "metrics:read"}
_LOCAL_SCOPES = _ANONYMOUS_SCOPES | {"metrics:read"}

REFUSED = Counter("tickstream_api_refused_total", "Requests that were refused, by reason.", ["reason"])
_LOG = structlog.get_logger()


class Denied(Exception):  # noqa: N818 - it is an answer, not a failure
    """A request that is refused; `code` is for programs and the text for people."""

    def __init__(
        self, status: HTTPStatus, code: str, detail: str, *, wait_s: float = 0.0, who: str = "anonymous"
    ) -> None:
        self.status = status
        self.code = code
        self.wait_s = wait_s
        self.who = who
        super().__init__(detail)


class Client(msgspec.Struct, frozen=True):
    """Who sends a request: `bucket` names what is limited, `who` is written to the audit log."""

    who: str
    bucket: str
    tier_name: str
    tier: Tier
    limit: Limit
    scopes: frozenset[str]
    key: Key | None = None

    def require(self, scope: str) -> None:
        """Raise Denied unless the client has a scope."""
        if scope in self.scopes:
            return
        if self.key is None:
            raise Denied(HTTPStatus.UNAUTHORIZED, "key_required", f"this needs an API key with the scope {scope}")
        has = ", ".join(sorted(self.scopes)) or "none"
        raise Denied(
            HTTPStatus.FORBIDDEN,
            "scope_missing",
            f"this needs the scope {scope}; the key {self.key.prefix} has {has}",
            who=self.who,
        )


class _Known(msgspec.Struct):
    key: Key
    client: Client
    since: float


class Access:
    """Everything about access that lives as long as the process; on one event loop."""

    def __init__(self, settings: ApiSettings) -> None:
        """Take the settings; raises SettingsError when they leave open who may use the API."""
        self.trusted_proxies = read_networks(settings.api_trusted_proxies, "TICKSTREAM_API_TRUSTED_PROXIES")
        self.anonymous = _anonymous(settings, proxied=bool(self.trusted_proxies))
        self._only_local = settings.api_anonymous is None
        self.tiers = load_tiers(settings.api_tiers or FILE)
        self._limits = {name: Limit(tier.burst, float(tier.requests_per_second)) for name, tier in self.tiers.items()}
        self.token_lifetime = timedelta(seconds=settings.api_token_s)
        self._signing_period = timedelta(days=settings.api_signing_key_days)
        self.store = Store(settings.dsn, settings.database_schema)
        redis_url = settings.redis_url
        self.limiter = Limiter(redis_url.get_secret_value() if redis_url is not None else None)
        self.audit = Audit(self.store.write_audit, now, anonymise=settings.api_anonymise_addresses)
        self.on_revoked: Callable[[str], None] = lambda _: None
        self.signing_keys: list[SigningKey] = []
        self.revoked: OrderedDict[str, None] = OrderedDict()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._blocked: OrderedDict[str, float] = OrderedDict()  # until when, by address
        self._used: dict[str, datetime] = {}
        self._used_at = self._signing_at = time.monotonic()
        self._signing_at -= _SIGNING_EVERY_S
        self._visitor = lru_cache(_VISITORS_MAX)(self._make_visitor)
        self._failing = False

    # Start and stop

    async def open(self) -> None:
        """Begin to connect; does not wait for it."""
        await self.store.open()

    async def close(self) -> None:
        """Store what waits and close every connection."""
        try:
            await self._note_used()
            await self.audit.flush()
        except TickstreamError as error:
            _LOG.warning("the last entries of the audit log were lost", error=str(error), entries=len(self.audit))
        await self.limiter.close()
        await self.store.close()

    async def run(self) -> None:
        """Read what changed and write what waits, about once a second, until cancelled."""
        while True:
            try:
                await self._refresh()
                await self.audit.flush()
                self._failing = False
            except TickstreamError as error:
                if not self._failing:
                    _LOG.warning("access control cannot use the database", error=str(error))
                self._failing = True
            await asyncio.sleep(_CHECK_S)

    # Requests

    def address(self, peer: str | None, forwarded: str) -> str:
        """Return a client's address, behind trusted proxies."""
        return client_address(peer, forwarded, self.trusted_proxies)

    async def client(self, credential: str | None, address: str, *, forwarded: bool) -> Client:
        """Return who sends a request with this key. Raises Denied when it may not be served at all."""
        if credential is None:
            return self.without_key(address, forwarded=forwarded)
        prefix = keys.prefix_of(credential)
        known = self._known.get(prefix) if prefix is not None else None
        if known is None or known.since + KNOWN_S < time.monotonic():
            known = await self._look_up(prefix, credential, address)
        elif not known.key.matches(credential):
            await self._wrong(address)
        key, time_now = known.key, now()
        reason = key.unusable(time_now)
        if reason is not None:
            raise Denied(HTTPStatus.UNAUTHORIZED, "key_unusable", reason, who=known.client.who)
        self._used[key.prefix] = time_now
        return known.client

    def without_key(self, address: str, *, forwarded: bool) -> Client:
        """Return a client that sends no key. Raises Denied when the API does not serve such."""
        local = is_loopback(address) and not forwarded
        if not self.anonymous or (self._only_local and not local):
            raise Denied(
                HTTPStatus.UNAUTHORIZED,
                "key_required",
                "send an API key: `Authorization: Bearer tsk_...`; the operator makes one with "
                "`tickstream keys create`, or serves everybody with TICKSTREAM_API_ANONYMOUS=1",
            )
        return self.visitor(address, forwarded=forwarded)

    def visitor(self, address: str, *, forwarded: bool) -> Client:
        """Return a client that reads what is open to everybody, such as the documentation."""
        return self._visitor(group_of(address), is_loopback(address) and not forwarded)

    def tier_of(self, name: str) -> tuple[str, Tier]:
        """Return a key's tier; the free one when the file of tiers no longer has it."""
        tier = self.tiers.get(name)
        return (name, tier) if tier is not None else (FREE, self.tiers[FREE])

    async def admit(self, client: Client) -> Decision:
        """Take a token of the client's bucket. Raises Denied when it is empty."""
        decision = self.limiter.use(client.bucket, client.limit)
        if decision is None:
            decision = await self.limiter.take(client.bucket, client.limit)
        if not decision.taken:
            raise Denied(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate_limited",
                f"the tier {client.tier_name} allows {client.tier.requests_per_second} requests a second and "
                f"{client.tier.burst} at once",
                wait_s=decision.wait_s,
                who=client.who,
            )
        return decision

    def refused(self, denied: Denied, address: str, detail: str) -> None:
        """Count a refusal and write it to the audit log."""
        REFUSED.labels(denied.code).inc()
        self.audit.note(denied.who, "request.refuse", denied.code, address, detail)

    # Tokens

    def issue(self, key: Key) -> tuple[str, Grant]:
        """Return a token for the WebSocket and what it allows. Raises Denied while no signing key is known."""
        time_now = now()
        signing = next((each for each in self.signing_keys if each.private is not None), None)
        if signing is None or signing.signs_until + tokens.PROPAGATION <= time_now:
            raise Denied(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "tokens_unavailable",
                "the database with the signing keys does not answer; try again in a moment",
                wait_s=2.0,
                who=f"key:{key.prefix}",
            )
        expires = time_now + self.token_lifetime
        if key.expires_at is not None:
            expires = min(expires, key.expires_at)
        grant = Grant(key.prefix, key.tier, key.scopes, expires.replace(microsecond=0))
        return tokens.issue(grant, signing, time_now), grant

    def verify(self, token: str) -> Grant:
        """Return what a token allows. Raises TokenRefused."""
        grant = tokens.verify(token, self.signing_keys, now())
        if grant.prefix in self.revoked:
            raise TokenRefused("the API key of the token was revoked")
        return grant

    async def rotate_signing_key(self, *, force: bool = False) -> None:
        """Read the keys that sign tokens; make one when none signs any more, or at once if forced."""
        time_now = now()
        new = tokens.new_signing_key(time_now, self._signing_period, self.token_lifetime)
        self.signing_keys = await self.store.signing_keys(new, time_now, force=force)

    # Changes of keys

    def changed(self, key: Key) -> None:
        """Take in a key that was made, rotated or revoked."""
        known = self._known.get(key.prefix)
        if known is not None:
            self._known[key.prefix] = self._know(key)
        if key.revoked_at is not None and key.prefix not in self.revoked:
            self.revoked[key.prefix] = None
            # Tokens of the oldest have long expired.
            if len(self.revoked) > _KNOWN_MAX:
                self.revoked.popitem(last=False)
            self.on_revoked(key.prefix)

    def _know(self, key: Key) -> _Known:
        who = f"key:{key.prefix}"
        tier_name, tier = self.tier_of(key.tier)
        client = Client(
            who=who,
            bucket=who,
            tier_name=tier_name,
            tier=tier,
            limit=self._limits[tier_name],
            scopes=key.scopes,
            key=key,
        )
        return _Known(key, client, time.monotonic())

    def _make_visitor(self, group: str, local: bool) -> Client:
        name = LOCAL if local else FREE
        return Client(
            who="anonymous",
            bucket=f"address:{group}",
            tier_name=name,
            tier=self.tiers[name],
            limit=self._limits[name],
            scopes=_LOCAL_SCOPES if local else _ANONYMOUS_SCOPES,
        )

    async def _look_up(self, prefix: str | None, credential: str, address: str) -> _Known:
        blocked_s = self._blocked.get(group_of(address), 0.0) - time.monotonic()
        if blocked_s > 0:
            raise _too_many_wrong_keys(blocked_s)
        try:
            key = await self.store.find(prefix) if prefix is not None else None
        except TickstreamError as error:
            raise Denied(HTTPStatus.SERVICE_UNAVAILABLE, "keys_unavailable", str(error), wait_s=2.0) from None
        if key is None or not key.matches(credential):
            await self._wrong(address)
        known = self._known[key.prefix] = self._know(key)
        self._known.move_to_end(key.prefix)
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)
        return known

    async def _wrong(self, address: str) -> NoReturn:
        """Raise Denied: the key is wrong, or too many were wrong from this address."""
        group = group_of(address)
        decision = await self.limiter.take(f"wrong:{group}", _WRONG)
        if not decision.taken:
            self._blocked[group] = time.monotonic() + decision.wait_s
            if len(self._blocked) > _BLOCKED_MAX:
                self._blocked.popitem(last=False)
            raise _too_many_wrong_keys(decision.wait_s)
        raise Denied(HTTPStatus.UNAUTHORIZED, "key_unknown", "the API key is not known; check that it is complete")

    async def _refresh(self) -> None:
        within = _CHANGED_WITHIN if self.signing_keys else self.token_lifetime + _CHANGED_WITHIN
        for key in await self.store.changed(within):
            self.changed(key)
        passed = time.monotonic()
        if passed - self._signing_at >= (_SIGNING_EVERY_S if self.signing_keys else _SIGNING_RETRY_S):
            self._signing_at = passed
            await self.rotate_signing_key()
        if passed - self._used_at >= _USED_EVERY_S:
            self._used_at = passed
            await self._note_used()

    async def _note_used(self) -> None:
        used, self._used = self._used, {}
        if used:
            await self.store.note_used(used)


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(UTC)


def _too_many_wrong_keys(wait_s: float) -> Denied:
    detail = "too many wrong keys came from this address"
    return Denied(HTTPStatus.TOO_MANY_REQUESTS, "too_many_wrong_keys", detail, wait_s=wait_s)


def _anonymous(settings: ApiSettings, *, proxied: bool) -> bool:
    """Return whether clients without a key are served. Raises SettingsError when nobody decided it."""
    if settings.api_anonymous is not None:
        return settings.api_anonymous
    if is_loopback(settings.host) and not proxied:
        return True
    reason = (
        f"TICKSTREAM_API_TRUSTED_PROXIES = {settings.api_trusted_proxies} passes on requests of others"
        if is_loopback(settings.host)
        else f"TICKSTREAM_HOST = {settings.host} lets other machines use the API"
    )
    raise SettingsError(
        f"{reason}, and nothing states who may.\n"
        "  TICKSTREAM_API_ANONYMOUS=0  every request needs an API key; make one with `tickstream keys create`\n"
        f"  TICKSTREAM_API_ANONYMOUS=1  everybody is served, with the limits of the tier {FREE}"
    )

"""Keys, signing keys and the audit log in the database: one function a statement, with the API's own role.

Raises Unavailable when the database does not answer, SettingsError when it lacks the tables or the right to use them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from api.auth import keys
from api.auth.keys import Key
from api.auth.tokens import SigningKey
from marketdata.errors import SettingsError, Unavailable

_CONNECT_TIMEOUT_S = 3
_POOL_TIMEOUT_S = 2.0
_CONNECTIONS_MAX = 4
_WAITING_MAX = 100
_STATEMENT_TIMEOUT_MS = 2_000
_COLUMNS = (
    "prefix, hash, name, owner, scopes, tier, created_at, expires_at, revoked_at, replaced_by, last_used_at"
)  # fmt: skip
_SIGNING_LOCK = "tickstream api signing keys"

AuditRow = tuple[datetime, str, str, str, str, str]


class Store:
    """A small pool of connections; use `open` and `close`."""

    def __init__(self, dsn: str, schema: str) -> None:
        given = conninfo_to_dict(dsn)
        options = f"-c search_path={schema},public -c TimeZone=UTC -c statement_timeout={_STATEMENT_TIMEOUT_MS}"
        ours: dict[str, Any] = {
            "options": f"{given.get('options') or ''} {options}".strip(),
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "application_name": "tickstream-api-access",
        }
        self._pool = AsyncConnectionPool(
            make_conninfo("", **(given | ours)),
            kwargs={"row_factory": dict_row},
            min_size=0,
            max_size=_CONNECTIONS_MAX,
            max_waiting=_WAITING_MAX,
            timeout=_POOL_TIMEOUT_S,
            reconnect_timeout=_CONNECT_TIMEOUT_S,
            check=AsyncConnectionPool.check_connection,
            open=False,
        )

    async def open(self) -> None:
        """Begin to connect; does not wait for it."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close(timeout=1.0)

    # Keys

    async def find(self, prefix: str) -> Key | None:
        """Return the record of a key, None when there is none."""
        rows = await self._rows(f"SELECT {_COLUMNS} FROM api_keys WHERE prefix = %s", [prefix])
        return _key(rows[0]) if rows else None

    async def all_keys(self, owner: str | None = None) -> list[Key]:
        """Return every key, or those of an owner, the newest first."""
        rows = await self._rows(
            f"SELECT {_COLUMNS} FROM api_keys WHERE %s::text IS NULL OR owner = %s ORDER BY created_at DESC, prefix",
            [owner, owner],
        )
        return [_key(row) for row in rows]

    async def changed(self, within: timedelta) -> list[Key]:
        """Return the keys whose access changed within this time."""
        rows = await self._rows(f"SELECT {_COLUMNS} FROM api_keys WHERE changed_at >= now() - %s", [within])
        return [_key(row) for row in rows]

    async def create(
        self, *, name: str, owner: str, scopes: Sequence[str], tier: str, lifetime: timedelta | None
    ) -> tuple[Key, str]:
        """Make a key; return its record and the key itself, which is not stored."""
        async with self._transaction() as connection:
            return await _insert(connection, name, owner, scopes, tier=tier, lifetime=lifetime)

    async def rotate(self, prefix: str, overlap: timedelta) -> tuple[Key, str] | None:
        """Make a key in place of a usable one, which stays valid for `overlap`; None when there is no usable one.

        The new key has the same name, owner, scopes and tier, and lives as long from now as the old one did.
        """
        async with self._transaction() as connection:
            cursor = await connection.execute(
                f"SELECT {_COLUMNS} FROM api_keys WHERE prefix = %s AND revoked_at IS NULL AND replaced_by IS NULL "
                "AND coalesce(expires_at > now(), true) FOR UPDATE",
                [prefix],
            )
            row = await cursor.fetchone()
            if row is None:
                return None
            old = _key(row)
            lifetime = old.expires_at - old.created_at if old.expires_at is not None else None
            new, text = await _insert(
                connection, old.name, old.owner, sorted(old.scopes), tier=old.tier, lifetime=lifetime
            )
            await connection.execute(
                "UPDATE api_keys SET expires_at = least(coalesce(expires_at, 'infinity'), now() + %s), "
                "replaced_by = %s, changed_at = clock_timestamp() WHERE prefix = %s",
                [overlap, new.prefix, prefix],
            )
            return new, text

    async def revoke(self, prefix: str) -> Key | None:
        """Revoke a key for good; None when there is none. Revoking it again changes nothing."""
        rows = await self._rows(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()), changed_at = clock_timestamp() "
            f"WHERE prefix = %s RETURNING {_COLUMNS}",
            [prefix],
        )
        return _key(rows[0]) if rows else None

    async def note_used(self, used: dict[str, datetime]) -> None:
        """Note when keys were last used."""
        await self._rows(
            "UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at) "
            "FROM unnest(%s::text[], %s::timestamptz[]) AS used (prefix, at) WHERE api_keys.prefix = used.prefix",
            [list(used), list(used.values())],
        )

    # Keys that sign tokens

    async def signing_keys(self, new: SigningKey, now: datetime, *, force: bool = False) -> list[SigningKey]:
        """Return the keys that may still verify, the one that signs first; add `new` when none signs, or if forced.

        The private part of a key that no longer signs is erased, and a key that verifies nothing is removed.
        """
        async with self._transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [_SIGNING_LOCK])
            if force:
                await connection.execute(
                    "UPDATE api_signing_keys SET verifies_until = verifies_until - (signs_until - %s), "
                    "signs_until = %s WHERE signs_until > %s",
                    [now, now, now],
                )
            await connection.execute("DELETE FROM api_signing_keys WHERE verifies_until <= %s", [now])
            await connection.execute(
                "UPDATE api_signing_keys SET private_key = NULL WHERE signs_until <= %s AND private_key IS NOT NULL",
                [now],
            )
            await connection.execute(
                "INSERT INTO api_signing_keys (kid, private_key, public_key, created_at, signs_until, verifies_until) "
                "SELECT %s, %s, %s, %s, %s, %s "
                "WHERE NOT EXISTS (SELECT FROM api_signing_keys WHERE signs_until > %s)",
                [new.kid, new.private, new.public, now, new.signs_until, new.verifies_until, now],
            )
            cursor = await connection.execute(
                "SELECT kid, private_key AS private, public_key AS public, signs_until, verifies_until "
                "FROM api_signing_keys ORDER BY signs_until DESC"
            )
            return [SigningKey(**row) for row in await cursor.fetchall()]

    # The audit log

    async def write_audit(self, rows: Sequence[AuditRow]) -> None:
        """Append to the audit log."""
        async with self._transaction() as connection, connection.cursor() as cursor:
            await cursor.executemany(
                "INSERT INTO api_audit (ts, who, action, outcome, address, detail) VALUES (%s, %s, %s, %s, %s, %s)",
                rows,
            )

    # Connections

    async def _rows(self, query: LiteralString, values: Sequence[Any]) -> list[dict[str, Any]]:
        async with self._transaction() as connection:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall() if cursor.description is not None else []

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection[dict[str, Any]]]:
        try:
            async with self._pool.connection() as connection:
                yield connection  # type: ignore[misc] # rows are dicts by the pool's settings
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as error:
            raise SettingsError(
                f"the tables of API keys cannot be used: {str(error).splitlines()[0]}; run `tickstream db migrate`"
            ) from None
        except (PoolTimeout, TooManyRequests, psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Unavailable(f"the database with the API keys does not answer ({type(error).__name__})") from None


async def _insert(
    connection: AsyncConnection[dict[str, Any]],
    name: str,
    owner: str,
    scopes: Sequence[str],
    *,
    tier: str,
    lifetime: timedelta | None,
) -> tuple[Key, str]:
    prefix, text = keys.make()
    cursor = await connection.execute(
        "INSERT INTO api_keys (prefix, hash, name, owner, scopes, tier, expires_at) "
        f"VALUES (%s, %s, %s, %s, %s, %s, now() + %s) RETURNING {_COLUMNS}",
        [prefix, keys.digest(text), name, owner, list(scopes), tier, lifetime],
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - for the type checker: it was just inserted
    return _key(row), text


def _key(row: dict[str, Any]) -> Key:
    return Key(**(row | {"scopes": frozenset(row["scopes"]), "hash": bytes(row["hash"])}))

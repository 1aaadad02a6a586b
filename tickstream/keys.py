"""`tickstream keys`: API keys, made, listed, replaced and revoked by whoever may use the database."""

from __future__ import annotations

import asyncio
import getpass
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from api.auth.access import Access
    from api.auth.keys import Key

app = typer.Typer(help="Make, list, replace and revoke the API's keys.", no_args_is_help=True)
console = Console()

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"(\d{1,6})([mhdw])", re.ASCII)
_Result = TypeVar("_Result")
_Prefix = Annotated[str, typer.Argument(help="The key's prefix: the 12 characters between `tsk_` and the next `_`.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    owner: Annotated[str, typer.Option("--owner", help="Who is responsible for it, such as a team's address.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help="market:read, history:read, export, stream, metrics:read or admin; may be given several times. "
            "The first four when not given.",
        ),
    ] = None,
    tier: Annotated[str, typer.Option("--tier", help="Tier of api/auth/tiers.toml.")] = "standard",
    expires: Annotated[
        str | None, typer.Option("--expires", help="Lifetime, such as 90d or 12h; never when not given.")
    ] = None,
    *,
    as_json: _Json = False,
) -> None:
    """Make a key and print it. It is shown only now: the database has nothing but its hash.

    Example: `tickstream keys create backtests --owner research@example.com --expires 90d`

    Example: `tickstream keys create operators --owner ops@example.com --scope admin --tier professional`
    """
    from api.auth.keys import NAME_CHARACTERS_MAX, SCOPES, SCOPES_DEFAULT

    scopes = sorted(set(scope or SCOPES_DEFAULT))
    for each in scopes:
        if each not in SCOPES:
            raise typer.BadParameter(f"{each!r} is none of {', '.join(SCOPES)}", param_hint="--scope")
    for text, hint in ((name, "NAME"), (owner, "--owner")):
        if not text.isprintable() or not 0 < len(text) <= NAME_CHARACTERS_MAX:
            raise typer.BadParameter(f"must have 1 to {NAME_CHARACTERS_MAX} printable characters", param_hint=hint)
    lifetime = _duration(expires, "--expires") if expires is not None else None

    async def run(access: Access) -> tuple[Key, str]:
        if tier not in access.tiers:
            raise typer.BadParameter(f"{tier!r} is none of {', '.join(access.tiers)}", param_hint="--tier")
        made = await access.store.create(name=name, owner=owner, scopes=scopes, tier=tier, lifetime=lifetime)
        _note(access, "key.create", made[0].prefix)
        return made

    key, text = _with_access(run)
    _print_new(key, text, as_json=as_json)


@app.command("list")
def list_(
    owner: Annotated[str | None, typer.Option("--owner", help="Only keys of this owner.")] = None,
    *,
    as_json: _Json = False,
) -> None:
    """List every key with its state and its last use; never its secret.

    Example: `tickstream keys list --owner research@example.com`

    Example: `tickstream keys list --json | jq -r '.[] | select(.last_used_at == null) | .prefix'`
    """
    found = _with_access(lambda access: access.store.all_keys(owner))
    if as_json:
        console.print_json(data=[key.shown() for key in found])
        return
    table = Table("prefix", "name", "owner", "tier", "scopes", "state", "last used")
    for key in found:
        scopes = " ".join(key.shown()["scopes"])
        table.add_row(key.prefix, key.name, key.owner, key.tier, scopes, _state(key), _day(key.last_used_at))
    console.print(table)


@app.command()
def rotate(
    prefix: _Prefix,
    overlap: Annotated[
        str, typer.Option("--overlap", help="How long the old key still works, such as 24h; 0m ends it now.")
    ] = "24h",
    *,
    as_json: _Json = False,
) -> None:
    """Replace a key by a new one with the same name, owner, scopes, tier and lifetime, and print it.

    Example: `tickstream keys rotate 3f9c1a7b20de --overlap 7d`
    """
    duration = _duration(overlap, "--overlap")

    async def run(access: Access) -> tuple[Key, str]:
        rotated = await access.store.rotate(prefix, duration)
        if rotated is None:
            raise typer.BadParameter(
                f"no usable key has the prefix {prefix!r}; see `tickstream keys list`", param_hint="PREFIX"
            )
        _note(access, "key.rotate", f"{prefix} -> {rotated[0].prefix}")
        return rotated

    key, text = _with_access(run)
    _print_new(key, text, as_json=as_json)


@app.command()
def revoke(prefix: _Prefix) -> None:
    """Revoke a key at once and for good. Its tokens end with it, and its sockets are closed within a second or two.

    Example: `tickstream keys revoke 3f9c1a7b20de`
    """

    async def run(access: Access) -> Key:
        key = await access.store.revoke(prefix)
        if key is None:
            raise typer.BadParameter(
                f"no key has the prefix {prefix!r}; see `tickstream keys list`", param_hint="PREFIX"
            )
        _note(access, "key.revoke", prefix)
        return key

    key = _with_access(run)
    console.print(f"[green]✓[/] revoked {key.prefix} ({key.name}, {key.owner})", highlight=False)


@app.command("rotate-signing")
def rotate_signing() -> None:
    """Sign tokens with a new key from now on, in every API process within a minute; earlier tokens stay valid.

    Example: `tickstream keys rotate-signing`
    """

    async def run(access: Access) -> str:
        await access.rotate_signing_key(force=True)
        _note(access, "signing_key.rotate", access.signing_keys[0].kid)
        return access.signing_keys[0].kid

    console.print(f"[green]✓[/] new tokens are signed with {_with_access(run)}", highlight=False)


def _with_access(work: Callable[[Access], Awaitable[_Result]]) -> _Result:
    """Do something with the API's own code and its role in the database."""
    from api.auth.access import Access
    from api.settings import ApiSettings
    from tickstream.here import load_here

    settings = load_here(ApiSettings, redis_url=None, host="127.0.0.1", api_trusted_proxies="")

    async def run() -> _Result:
        access = Access(settings)
        await access.open()
        try:
            result = await work(access)
            await access.audit.flush()
            return result
        finally:
            await access.close()

    return asyncio.run(run())


def _note(access: Access, action: str, detail: str) -> None:
    who = "unknown"
    with suppress(KeyError, OSError):  # a container's user may have no name
        who = getpass.getuser()
    access.audit.note(f"cli:{who}", action, "done", "local", detail)


def _duration(text: str, option: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration; write for example 90d, 12h or 30m", param_hint=option)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _print_new(key: Key, text: str, *, as_json: bool) -> None:
    if as_json:
        console.print_json(data={"key": text} | key.shown())
        return
    typer.echo(text)
    shown = key.shown()
    expires = shown["expires_at"] or "never"
    typer.echo(
        f"Keep it now: it cannot be shown again. {key.name}, {key.owner}, tier {key.tier}, "
        f"scopes {' '.join(shown['scopes'])}, expires {expires}.",
        err=True,
    )


def _state(key: Key) -> str:
    reason = key.unusable(datetime.now(UTC))
    if key.revoked_at is not None:
        return "revoked"
    if reason is not None:
        return "expired"
    if key.replaced_by is not None:
        return f"replaced, until {_day(key.expires_at)}"
    return "active" if key.expires_at is None else f"active until {_day(key.expires_at)}"


def _day(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M}Z"

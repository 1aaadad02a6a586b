"""`tickstream explain`: why a candle is what it is, as a table or as JSON."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from marketdata.clock import MINUTE_NS, parse_rfc3339
from marketdata.errors import BadEvent, Refused, Unavailable

if TYPE_CHECKING:
    from api.rest.history import History
    from api.settings import ApiSettings
    from marketdata.events import Candle, Trade
    from marketdata.explain import Evidence

app = typer.Typer(help="Explain stored values: what made them, and what did not.", no_args_is_help=True)
console = Console(highlight=False)

TRADES_MAX = 2_000_000
QUERY_MS = 60_000
# A trade and its duplicates were written to Kafka at most this long before and after the stored trades were received.
_AROUND_NS = 10 * MINUTE_NS


@app.callback()
def about() -> None:
    """Explain stored values: what made them, and what did not."""


@app.command("candle")
def candle(
    symbol: Annotated[str, typer.Argument(help="Symbol, for example `BTC-USD`.")],
    interval: Annotated[str, typer.Argument(help="1m, 5m, 15m, 1h, 4h, 1d, or a recipe's length such as 5s.")],
    start: Annotated[str, typer.Argument(help="Start of the candle, RFC 3339 with zone.")],
    *,
    venue: Annotated[str, typer.Option("--venue", help="Venue; needed where several trade the symbol.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, as the API answers.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=TRADES_MAX, help="Trades to print of each list at most.")
    ] = 20,
    venue_bar: Annotated[
        bool, typer.Option("--venue-bar", help="Get the venue's own candle from its REST history.")
    ] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Read in Kafka what the lines sent, which is kept for a day.")
    ] = False,
) -> None:
    """Print the trades that made a candle and those that did not and why, its revisions, and the venue's own bar.

    The stored trades are counted again: `verdict` states whether they make the stored candle, and `differences` where
    not.

    Example: `tickstream explain candle BTC-USD 1m 2026-08-09T21:05:00Z`

    Example: `tickstream explain candle BTC-USD 5m 2026-08-09T21:05:00Z --venue kraken --venue-bar --json | jq .verdict`
    """
    import orjson

    from api.settings import ApiSettings
    from marketdata.explain import explain
    from tickstream.here import load_here

    settings = load_here(ApiSettings, query_timeout_ms=QUERY_MS)
    evidence = asyncio.run(
        _evidence(settings, symbol, interval, parse_rfc3339(start, "START"), venue, venue_bar=venue_bar)
    )
    if duplicates:
        evidence = _with_received(settings, evidence)
    found = explain(evidence, limit)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        _print(found)


async def _evidence(
    settings: ApiSettings, symbol: str, interval: str, start: int, venue: str, *, venue_bar: bool
) -> Evidence:
    """Return what is stored about the candle, and the venue's own candle if it is to be fetched."""
    import msgspec

    from api.core.consumer import DATABASE
    from api.rest.evidence import gather
    from api.rest.history import History
    from api.rest.problems import Problem
    from runtime.health import Readiness

    readiness = Readiness(DATABASE)
    history = History(settings, readiness)
    await history.open()
    try:
        await history.check()
        if not readiness.is_up(DATABASE):
            raise Unavailable(f"the database cannot be read: {readiness.report()[1]}")
        found = venue or await _only_venue(history, symbol, start)
        evidence = await gather(history, found, symbol, interval, start, trades_max=TRADES_MAX)
    except Problem as problem:
        raise Refused(problem.detail) from None
    finally:
        await history.close()
    if evidence is None:
        raise Refused(f"nothing is stored about the {interval} candle of {found}:{symbol} that starts at START")
    if venue_bar:
        bar = await _fetch(found, symbol, evidence)
        evidence = msgspec.structs.replace(evidence, venue_bar=bar)
    return evidence


async def _only_venue(history: History, symbol: str, start: int) -> str:
    """Return the only venue that has a candle of a symbol then, or lists it. Raises BadEvent if there are several."""
    from api.rest.parameters import moment

    rows = await history.rows(
        "SELECT venue FROM candles WHERE symbol = %(symbol)s AND ts = %(start)s UNION "
        "SELECT venue FROM instruments WHERE symbol = %(symbol)s ORDER BY 1",
        {"symbol": symbol, "start": moment(start)},
    )
    venues = [row["venue"] for row in rows]
    if len(venues) == 1:
        return str(venues[0])
    if venues:
        raise BadEvent("ambiguous", "--venue", f"{symbol} is traded at {', '.join(venues)}")
    raise BadEvent("unknown", "SYMBOL", symbol)


async def _fetch(venue: str, symbol: str, evidence: Evidence) -> Candle | None:
    """Return the venue's own candle from its REST history, None when the venue has none."""
    from producers.history.settings import HistorySettings, find_history
    from tickstream.here import load_here

    async with find_history(load_here(HistorySettings), venue) as rest:
        async for chunk in rest.fetch_candles(symbol, evidence.interval, evidence.start, evidence.end):
            for bar in chunk.events:
                if bar.start == evidence.start:
                    return bar
    return None


def _with_received(settings: ApiSettings, evidence: Evidence) -> Evidence:
    """Return the evidence with what the lines sent, from md.ingest.trades."""
    import msgspec

    from marketdata.events import Trades
    from marketdata.topics import INGEST_TRADES
    from tickstream.reader import Reader

    times = [seen.ts_recv for seen in evidence.trades] or [evidence.start, evidence.end]
    key = f"{evidence.venue}:{evidence.symbol}".encode()
    received: list[tuple[str, Trade]] = []
    reader = Reader(settings, INGEST_TRADES)
    try:
        first, last = reader.offsets_at(min(times) - _AROUND_NS), reader.offsets_at(max(times) + _AROUND_NS)
        for message in reader.read(first, last):
            event = reader.decode(message) if message.key() == key else None
            if isinstance(event, Trades):
                received += [(event.line, trade) for trade in event.trades]
    finally:
        reader.close()
    return msgspec.structs.replace(evidence, received=received)


# --- The table ---


def _print(found: dict[str, Any]) -> None:
    console.print(f"[bold]{found['venue']}:{found['symbol']} {found['interval']} {found['start']}[/]")
    colour = {"equal": "green", "open": "yellow", "from_history": "yellow"}.get(found["verdict"], "red")
    console.print(f"[{colour}]{found['verdict']}[/]: {found['summary']}", soft_wrap=True)
    console.print(_figures(found))
    _print_trades("Left out", found["left_out"], ("why", "detail"))
    _print_trades("Counted", found["counted"], ("counts_in", "has_price_of", "origin", "reason"))
    for one in found["revisions"]:
        changes = ", ".join(f"{each['field']} {each['before']} → {each['after']}" for each in one["changes"])
        text = f"revision {one['revision']} at {one['received']}: {'; '.join(one['because'])}"
        console.print(f"{text} ({changes})" if changes else text, soft_wrap=True, markup=False)
    for gap in found["gaps"]:
        span = f"{gap['start'] or 'unknown'} to {gap['end'] or 'unknown'}"
        console.print(f"gap {gap['gap_id']}: {gap['reason']}, {span}, {gap['state']}", soft_wrap=True, markup=False)
    if not found["duplicates_known"]:
        console.print("duplicates are not stored: --duplicates reads them in Kafka", style="dim")


def _figures(found: dict[str, Any]) -> Table:
    candle, bar = found["candle"] or {}, found["venue_bar"]
    table = Table("field", "stored", "recomputed", *(("venue", "ours - venue") if bar else ()))
    different = {each["field"]: each for each in found["venue_differences"]}
    wrong = {each["field"] for each in found["differences"]}
    for name, value in found["recomputed"].items():
        if candle and name not in candle:
            continue
        row = [name, _text(candle.get(name)), _text(value)]
        if bar:
            row += [_text(bar.get(name)), _text(different.get(name, {}).get("difference"))]
        table.add_row(*row, style="red" if name in wrong else None)
    return table


def _print_trades(title: str, found: dict[str, Any], more: Iterable[str]) -> None:
    shown = len(found["items"])
    of = f"{shown} of {found['count']}" if shown < found["count"] else str(found["count"])
    console.print(f"[bold]{title}[/]: {of} trades")
    if not shown:
        return
    names = ("trade_id", "timestamp", "price", "size", "side", "conditions", *more)
    table = Table(*names)
    for item in found["items"]:
        table.add_row(*(_text(item[name]) for name in names))
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)

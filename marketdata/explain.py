"""Explains a candle: which of the stored trades counted, which did not and why, its revisions, and the venue's own bar.

1. The trades that start in the candle are counted again, in the order in which they were stored: without those that
   were cancelled, corrected (the correction counts in their place), refused as too late, or excluded by condition.
2. The result is compared with the stored candle field by field, as exact numbers.
3. A revision is explained by what arrived between it and the one before: late trades, amendments, repairs, or a change
   of validity.
4. Venue candles are compared in the same way. They may leave out trades that ours contain, by the venue's own rules.

`explain` is a pure function; the API and the command line read the evidence and show its result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from marketdata.clock import format_rfc3339
from marketdata.decimals import EXACT, plain
from marketdata.events import EXCLUSIONS, Candle, Trade
from marketdata.sided_bar import SidedBar, vwap

Json = dict[str, Any]

# A correction may be corrected, and so on; a longer chain is a cycle.
_CORRECTIONS_MAX = 100
# Trades of one cause of a revision that are named.
_NAMED_MAX = 10
_PRICES = ("open", "high", "low", "close")
_SUMS = ("volume", "quote_volume", "buy_volume", "trades")
_BY_RECIPE = ("sell_volume", "buy_trades", "sell_trades")


class SeenTrade(msgspec.Struct, frozen=True, kw_only=True):
    """A stored trade or amendment: with the validity and the origin of its message, and when it was received."""

    trade: Trade
    ts_recv: int
    origin: str
    valid: bool
    reason: str


class RefusedTrade(msgspec.Struct, frozen=True, kw_only=True):
    """A trade in a dead letter: the stage that refused it, and why."""

    trade: Trade
    ts_recv: int
    stage: str
    reason: str


class LedgerGap(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the ledger that overlaps the candle; times are UTC nanoseconds, None when unknown."""

    gap_id: str
    channel: str | None
    reason: str
    detail: str
    state: str
    ts_from: int | None
    ts_to: int | None
    repaired_by: str | None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is stored about a candle of [start, end).

    `revisions` are its closed states, oldest first. `trades` are in the order in which they were stored, amendments
    included. `received` are the trades of the candle as the lines sent them, with the line, before duplicates were
    removed; None when they are not known.
    """

    venue: str
    symbol: str
    interval: str
    start: int
    end: int
    candle: Candle | None
    revisions: Sequence[Candle]
    trades: Sequence[SeenTrade]
    refused: Sequence[RefusedTrade] = ()
    gaps: Sequence[LedgerGap] = ()
    venue_bar: Candle | None = None
    received: Sequence[tuple[str, Trade]] | None = None


def explain(evidence: Evidence, limit: int = 1_000) -> Json:
    """Return the explanation as plain values; lists of trades have at most `limit` items, and their full `count`.

    `verdict` is `equal` or `different` for a candle that its trades do or do not make, `open` while it still changes,
    `from_history` where it differs because it was taken from the venue's history, and `not_stored`.
    """
    counted, left_out = _sort_out(evidence)
    bar = _sum(trade for trade, _ in counted)
    recomputed = _figures(bar)
    candle = evidence.candle
    differences = [] if candle is None else _differences(candle, recomputed)
    verdict = _verdict(candle, differences)
    return {
        "type": "candle_explanation",
        "venue": evidence.venue,
        "symbol": evidence.symbol,
        "interval": evidence.interval,
        "start": format_rfc3339(evidence.start),
        "end": format_rfc3339(evidence.end),
        "verdict": verdict,
        "summary": _summary(evidence, verdict, differences, len(counted), len(left_out)),
        "candle": None if candle is None else _shown_candle(candle),
        "recomputed": recomputed,
        "differences": differences,
        "counted": {
            "count": len(counted),
            "items": [_shown_counted(trade, seen, recomputed) for trade, seen in counted[:limit]],
        },
        "left_out": {
            "count": len(left_out),
            "by_reason": dict(Counter(item["why"] for item in left_out)),
            "items": left_out[:limit],
        },
        "duplicates_known": evidence.received is not None,
        "revisions": _revisions(evidence),
        "gaps": [_shown_gap(gap) for gap in evidence.gaps],
        "venue_bar": None if evidence.venue_bar is None else _shown_candle(evidence.venue_bar),
        "venue_differences": _venue_differences(candle, evidence.venue_bar),
    }


# --- Which trades count ---


def _sort_out(evidence: Evidence) -> tuple[list[tuple[Trade, SeenTrade]], list[Json]]:
    """Return the trades that count, as corrected, and those that do not, with why."""
    amendments: dict[str, SeenTrade] = {}
    for seen in evidence.trades:
        if seen.trade.action != "new":
            amendments.setdefault(seen.trade.original_id or seen.trade.trade_id, seen)
    late = {one.trade.trade_id: one for one in evidence.refused if one.reason == "late"}
    counted: list[tuple[Trade, SeenTrade]] = []
    left_out: list[Json] = []
    stored = set()
    for seen in evidence.trades:
        trade = seen.trade
        if trade.action != "new" or not evidence.start <= trade.ts_event < evidence.end:
            continue
        stored.add(trade.trade_id)
        if trade.trade_id and trade.trade_id in late:
            left_out.append(_left_out(trade, "late", f"refused by {late[trade.trade_id].stage}: older than is kept"))
            continue
        standing = _standing(trade, amendments, left_out)
        if standing is None:
            continue
        if len(standing.excluded_from) == len(EXCLUSIONS):
            conditions = ", ".join(standing.conditions) or "not stated"
            left_out.append(_left_out(standing, "excluded", f"it updates nothing; conditions: {conditions}"))
            continue
        counted.append((standing, seen))
    for one in evidence.refused:
        inside = evidence.start <= one.trade.ts_event < evidence.end
        if inside and one.trade.action == "new" and one.trade.trade_id not in stored:
            why = one.reason if one.reason == "late" else "refused"
            left_out.append(_left_out(one.trade, why, f"dead letter of {one.stage}: {one.reason}"))
    left_out += _duplicates(evidence)
    return counted, left_out


def _standing(trade: Trade, amendments: dict[str, SeenTrade], left_out: list[Json]) -> Trade | None:
    """Return what a trade counts as after its amendments; None when it was cancelled."""
    for _ in range(_CORRECTIONS_MAX):
        found = amendments.get(trade.trade_id)
        if found is None:
            break
        change = found.trade
        at = format_rfc3339(found.ts_recv)
        if change.action == "cancel":
            left_out.append(_left_out(trade, "cancelled", f"cancelled at {at}"))
            return None
        left_out.append(_left_out(trade, "corrected", f"trade {change.trade_id} took its place at {at}"))
        side = trade.side if change.side == "unknown" else change.side
        same_id = change.trade_id == trade.trade_id
        trade = msgspec.structs.replace(change, ts_event=trade.ts_event, side=side)
        if same_id:
            break
    return trade


def _duplicates(evidence: Evidence) -> list[Json]:
    """Return what arrived a second time, on the same or another line."""
    found = []
    lines: dict[str, str] = {}
    for line, trade in evidence.received or ():
        if not trade.trade_id or trade.action != "new" or not evidence.start <= trade.ts_event < evidence.end:
            continue
        if trade.trade_id in lines:
            found.append(_left_out(trade, "duplicate", f"line {line} sent it after line {lines[trade.trade_id]}"))
        else:
            lines[trade.trade_id] = line
    return found


def _sum(trades: Iterable[Trade]) -> SidedBar | None:
    bar: SidedBar | None = None
    for trade in trades:
        if bar is None:
            bar = SidedBar(trade)
        else:
            bar.add_trade(trade)
    return bar


# --- What differs ---


def _figures(bar: SidedBar | None) -> Json:
    """Return what the counted trades make."""
    if bar is None:
        return dict.fromkeys(_PRICES) | {
            "volume": "0", "quote_volume": "0", "buy_volume": "0", "trades": 0, "vwap": None, "sell_volume": "0",
            "buy_trades": 0, "sell_trades": 0,
        }  # fmt: skip
    figures: Json = dict(zip((*_PRICES, *_SUMS[:3]), bar.figures(), strict=True))
    by_side = bar.by_side()
    return figures | {
        "trades": bar.trades,
        "vwap": vwap(figures["quote_volume"], figures["volume"]),
        "sell_volume": by_side.sell_volume,
        "buy_trades": by_side.buy_trades,
        "sell_trades": by_side.sell_trades,
    }


def _differences(candle: Candle, recomputed: Json) -> list[Json]:
    """Return the fields of a stored candle that its trades do not make, except fields that it does not have."""
    names = [*_PRICES, *_SUMS, *(_BY_RECIPE if candle.recipe else ())]
    found = []
    for name in names:
        stored, made = getattr(candle, name), recomputed[name]
        if stored is None and name not in _PRICES:
            continue
        if not _equal(stored, made):
            found.append({"field": name, "stored": stored, "recomputed": made})
    return found


def _venue_differences(candle: Candle | None, bar: Candle | None) -> list[Json]:
    """Return the fields in which our candle and the venue's differ; the difference is ours minus theirs."""
    if candle is None or bar is None:
        return []
    found = []
    for name in (*_PRICES, *_SUMS):
        ours, theirs = getattr(candle, name), getattr(bar, name)
        if theirs is None or _equal(ours, theirs):
            continue
        known = ours is not None
        difference = plain(EXACT.subtract(Decimal(ours), Decimal(theirs))) if known else None
        found.append({"field": name, "ours": ours, "venue": theirs, "difference": difference})
    return found


def _equal(one: str | int | None, other: str | int | None) -> bool:
    if one is None or other is None:
        return one is other
    return Decimal(one) == Decimal(other)


def _verdict(candle: Candle | None, differences: list[Json]) -> str:
    if candle is None:
        return "not_stored"
    if candle.state == "open":
        return "open"
    if not differences:
        return "equal"
    return "different" if candle.origin == "live" else "from_history"


def _summary(evidence: Evidence, verdict: str, differences: list[Json], counted: int, left_out: int) -> str:
    candle = evidence.candle
    trades = f"{counted} stored trades count and {left_out} do not"
    if candle is None:
        return f"the candle is not stored; {trades}"
    fields = ", ".join(each["field"] for each in differences)
    text = {
        "open": f"the candle is still open; {trades} so far",
        "equal": f"{trades}; together they make exactly the stored candle",
        "different": f"{trades}; they do not make the stored {fields}",
        "from_history": f"{trades}; the candle was taken from the venue's history and differs in {fields}",
    }[verdict]
    return text if candle.valid else f"{text}; the candle is not valid: {candle.reason}"


# --- Revisions ---


def _revisions(evidence: Evidence) -> list[Json]:
    found: list[Json] = []
    before: Candle | None = None
    for candle in evidence.revisions:
        shown = {
            "revision": candle.revision,
            "state": candle.state,
            "received": format_rfc3339(candle.ts_recv),
            "origin": candle.origin,
            "valid": candle.valid,
            "reason": candle.reason,
            "changes": [] if before is None else _changes(before, candle),
            "because": _because(evidence, before, candle),
        }
        found.append(shown)
        before = candle
    return found


def _changes(before: Candle, after: Candle) -> list[Json]:
    names = (*_PRICES, *_SUMS, *_BY_RECIPE, "valid", "reason")
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in names]
    return [{"field": name, "before": old, "after": new} for name, old, new in pairs if old != new]


def _because(evidence: Evidence, before: Candle | None, candle: Candle) -> list[str]:
    """Return what arrived between two revisions that explains the newer one."""
    if before is None:
        return ["its time had passed" if candle.origin == "live" else f"history ({candle.origin})"]
    causes = []
    if candle.origin not in {"live", before.origin}:
        causes.append(f"computed by history ({candle.origin})")
    arrived = [seen for seen in evidence.trades if before.ts_recv < seen.ts_recv <= candle.ts_recv]
    inside = [one for one in arrived if evidence.start <= one.trade.ts_event < evidence.end]
    for origin, name in (("live", "late"), ("repair", "repaired"), ("backfill", "backfilled")):
        ids = [one.trade.trade_id for one in inside if one.trade.action == "new" and one.origin == origin]
        if ids:
            causes.append(
                f"{name} trades: {', '.join(ids[:10])}{f' and {len(ids) - 10} more' if len(ids) > 10 else ''}"
            )
    stored = {seen.trade.trade_id for seen in evidence.trades if seen.trade.action == "new"}
    for one in arrived:
        original = one.trade.original_id or one.trade.trade_id
        if one.trade.action != "new" and original in stored:
            causes.append(f"trade {original} was {'cancelled' if one.trade.action == 'cancel' else 'corrected'}")
    if before.valid and not candle.valid:
        causes.append(f"it became invalid: {candle.reason}")
    elif candle.valid and not before.valid:
        causes.append(f"it became valid: {before.reason} was repaired")
    elif before.reason != candle.reason:
        causes.append(f"its reason changed from {before.reason} to {candle.reason}")
    return causes or ["not explained by what is stored"]


# --- How values are shown ---


def _left_out(trade: Trade, why: str, detail: str) -> Json:
    return _shown_trade(trade) | {"why": why, "detail": detail}


def _shown_trade(trade: Trade) -> Json:
    return {
        "trade_id": trade.trade_id,
        "timestamp": format_rfc3339(trade.ts_event),
        "price": trade.price,
        "size": trade.size,
        "side": trade.side,
        "conditions": list(trade.conditions),
    }


def _shown_counted(trade: Trade, seen: SeenTrade, recomputed: Json) -> Json:
    counts_in = [name for name in EXCLUSIONS if name not in trade.excluded_from]
    may_set = {"open_close": ("open", "close"), "high_low": ("high", "low")}
    prices = [name for part in counts_in for name in may_set.get(part, ())]
    return _shown_trade(trade) | {
        "counts_in": counts_in,
        "has_price_of": [name for name in _PRICES if name in prices and _equal(recomputed[name], trade.price)],
        "origin": seen.origin,
        "valid": seen.valid,
        "reason": seen.reason,
        "received": format_rfc3339(seen.ts_recv),
    }


def _shown_candle(candle: Candle) -> Json:
    names = (*_PRICES, *_SUMS, *(_BY_RECIPE if candle.recipe else ()))
    shown: Json = {name: getattr(candle, name) for name in names}
    shown["vwap"] = vwap(candle.quote_volume, candle.volume)
    for name in ("state", "revision", "origin", "valid", "reason", "recipe", "recipe_hash"):
        shown[name] = getattr(candle, name)
    shown["received"] = format_rfc3339(candle.ts_recv)
    return shown


def _shown_gap(gap: LedgerGap) -> Json:
    shown = msgspec.structs.asdict(gap)
    start, end = shown.pop("ts_from"), shown.pop("ts_to")
    shown["start"] = None if start is None else format_rfc3339(start)
    shown["end"] = None if end is None else format_rfc3339(end)
    return shown

"""Reads all that is stored about one candle from the database, for `marketdata.explain`."""

from __future__ import annotations

from typing import Any

import msgspec

from api.rest.history import CANDLE_COLUMNS, CANDLE_FIELDS, History, Row
from api.rest.parameters import moment
from api.rest.problems import bad_value
from marketdata.clock import MINUTE_NS, format_rfc3339
from marketdata.events import Candle, Trade, Trades
from marketdata.explain import Evidence, LedgerGap, RefusedTrade, SeenTrade
from marketdata.recipes import length_text, read_length

REVISIONS_MAX = 1_000
REFUSED_MAX = 1_000
GAPS_MAX = 200
AMENDMENTS_MAX = 10_000
# How long after a candle's end its trades may still be amended, or refused: venues amend trades on the next days.
_AMENDED_NS = 3 * 24 * 60 * MINUTE_NS

_TRADE = (
    "SELECT trade_id, ts_event_ns, ts_recv_ns, price::text, size::text, side, liquidation, action, original_id, valid, "
    "reason, origin, conditions, excluded_from FROM trades WHERE venue = %(venue)s AND symbol = %(symbol)s "
)
_CANDLE_IS = "WHERE venue = %(venue)s AND symbol = %(symbol)s AND interval = %(interval)s AND ts = %(start)s "


async def gather(
    history: History, venue: str, symbol: str, interval: str, start: int, *, trades_max: int
) -> Evidence | None:
    """Return what is stored about the candle that starts at `start` (UTC nanoseconds); None when nothing is.

    Raises Problem: for an interval that is not a length of time, a `start` where no candle begins, a candle with more
    than `trades_max` trades, and when the database does not answer.
    """
    length = read_length(interval)
    if length is None:
        raise bad_value("interval", interval, "must be a length of time, such as 1m or 5s")
    if start % length:
        begins = format_rfc3339(start - start % length)
        raise bad_value("start", format_rfc3339(start), f"no candle of {interval} begins there; one does at {begins}")
    end = start + length
    values = {
        "venue": venue, "symbol": symbol, "interval": length_text(length), "start": moment(start), "end": moment(end),
        "start_ns": start, "end_ns": end, "trades_max": trades_max + 1, "revisions_max": REVISIONS_MAX,
        "amended_by": moment(end + _AMENDED_NS),
        "amendments_max": AMENDMENTS_MAX, "refused_max": REFUSED_MAX, "gaps_max": GAPS_MAX,
    }  # fmt: skip
    latest = await history.rows(f"SELECT {CANDLE_COLUMNS} FROM candles_latest {_CANDLE_IS} LIMIT 1", values)
    revisions = await history.rows(
        f"SELECT {CANDLE_COLUMNS} FROM candles {_CANDLE_IS} ORDER BY revision, kafka_offset LIMIT %(revisions_max)s",
        values,
    )
    theirs = await history.rows(f"SELECT {CANDLE_COLUMNS} FROM venue_candles_latest {_CANDLE_IS} LIMIT 1", values)
    trades = await history.rows(
        f"{_TRADE} AND ts >= %(start)s AND ts < %(end)s AND ts_event_ns >= %(start_ns)s AND ts_event_ns < %(end_ns)s "
        "ORDER BY kafka_partition, kafka_offset, item LIMIT %(trades_max)s",
        values,
    )
    if len(trades) > trades_max:
        raise bad_value("interval", interval, f"the candle has more than {trades_max} trades: explain a shorter one")
    trades += await history.rows(
        f"{_TRADE} AND action <> 'new' AND ts >= %(end)s AND ts < %(amended_by)s "
        "ORDER BY kafka_partition, kafka_offset, item LIMIT %(amendments_max)s",
        values,
    )
    candle = candle_of(latest[0]) if latest else None
    evidence = Evidence(
        venue=venue,
        symbol=symbol,
        interval=length_text(length),
        start=start,
        end=end,
        candle=candle,
        revisions=[candle_of(row) for row in revisions],
        trades=[_seen(row) for row in trades],
        refused=await _refused(history, values, "time_bars" if candle is not None and candle.recipe else "candles"),
        gaps=await _gaps(history, values),
        venue_bar=candle_of(theirs[0]) if theirs else None,
    )
    return evidence if candle or trades or evidence.refused or evidence.gaps or theirs else None


async def _refused(history: History, values: dict[str, Any], stage: str) -> list[RefusedTrade]:
    """Return the trades of dead letters; those that were too late only where `stage` refused them."""
    rows = await history.rows(
        "SELECT stage, reason, ts_recv_ns, payload FROM dead_letters "
        "WHERE venue = %(venue)s AND symbol = %(symbol)s AND ts >= %(start)s AND ts < %(amended_by)s "
        "AND (reason <> 'late' OR stage = %(stage)s) ORDER BY ts LIMIT %(refused_max)s",
        values | {"stage": stage},
    )
    found = []
    for row in rows:
        try:
            event = msgspec.json.decode(row["payload"], type=Trades)
        except msgspec.DecodeError:
            continue  # the payload is a frame or a record, not trades
        found += [
            RefusedTrade(trade=trade, ts_recv=row["ts_recv_ns"], stage=row["stage"], reason=row["reason"])
            for trade in event.trades
        ]
    return found


async def _gaps(history: History, values: dict[str, Any]) -> list[LedgerGap]:
    rows = await history.rows(
        "SELECT gap_id, channel, reason, detail, state, ts_from_ns, ts_to_ns, repaired_by FROM gaps "
        "WHERE venue = %(venue)s AND symbol IN (%(symbol)s, '*') "
        "AND coalesce(ts_from_ns, ts_to_ns) < %(end_ns)s AND coalesce(ts_to_ns, ts_from_ns) >= %(start_ns)s "
        "ORDER BY detected_at DESC LIMIT %(gaps_max)s",
        values,
    )
    return [
        LedgerGap(
            gap_id=row["gap_id"], channel=row["channel"], reason=row["reason"], detail=row["detail"],
            state=row["state"], ts_from=row["ts_from_ns"], ts_to=row["ts_to_ns"], repaired_by=row["repaired_by"],
        )
        for row in rows
    ]  # fmt: skip


def _seen(row: Row) -> SeenTrade:
    trade = Trade(
        trade_id=row["trade_id"],
        ts_event=row["ts_event_ns"],
        price=row["price"],
        size=row["size"],
        side=row["side"],
        liquidation=row["liquidation"],
        action=row["action"],
        original_id=row["original_id"],
        conditions=tuple(row["conditions"] or ()),
        excluded_from=tuple(row["excluded_from"] or ()),
    )
    return SeenTrade(
        trade=trade, ts_recv=row["ts_recv_ns"], origin=row["origin"], valid=row["valid"], reason=row["reason"]
    )


def candle_of(row: Row) -> Candle:
    """Return a candle of the database as an event."""
    return Candle(
        start=row["start_ns"],
        end=row["end_ns"],
        ts_event=row["ts_event_ns"],
        ts_recv=row["ts_recv_ns"],
        **{name: row[name] for name in CANDLE_FIELDS},
    )

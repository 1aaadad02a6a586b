"""Ledger entries for input records that can never be read, deterministic and unique for each symbol."""

from __future__ import annotations

import msgspec

from marketdata.events import GAP, FeedStatus
from marketdata.operator import Lost

# The reason of a gap that is closed at once, because there is nothing to repair.
PASSED_OVER = "passed_over"


def gap(loss: Lost, key: str, channel: str, *, ts_from: int | None = None, ts_to: int | None = None) -> FeedStatus:
    """Return the entry that opens the gap of a loss for one symbol.

    `key` is `venue:symbol`; `ts_from` and `ts_to` are the bounds of the affected time, where known.
    """
    venue, _, symbol = key.partition(":")
    if loss.count is None:
        what = f"records from offset {loss.offset} on are lost"
    elif loss.count == 1:
        what = f"the record of offset {loss.offset} is lost"
    else:
        what = f"{loss.count} records from offset {loss.offset} on are lost"
    return FeedStatus(
        venue=venue,
        symbol=symbol,
        ts_event=loss.ts,
        ts_recv=loss.ts,
        line=f"{loss.topic}/{loss.partition}",
        kind="gap",
        reason=GAP,
        detail=f"{what}: {loss.reason}",
        channel=channel,
        gap_id=f"{loss.topic}|{loss.partition}|{loss.offset}|{key}",
        ts_from=ts_from,
        ts_to=ts_to,
    )


def closed(opened: FeedStatus, *, ts: int, ts_recv: int, reason: str = "", detail: str = "") -> FeedStatus:
    """Return the entry that closes a gap; `ts` is the event time from which the data is complete again."""
    return msgspec.structs.replace(
        opened, kind="resynced", ts_event=ts, ts_recv=ts_recv, ts_to=ts, reason=reason, detail=detail
    )


def passed_over(opened: FeedStatus, detail: str = "nothing to repair") -> list[FeedStatus]:
    """Return a gap and the entry that closes it at once, so that nothing tries to repair it."""
    return [opened, msgspec.structs.replace(opened, kind="resynced", reason=PASSED_OVER, detail=detail)]

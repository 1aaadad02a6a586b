"""The audit log: who did what, when, with which outcome and from where; written in batches, off the path of requests.

At most `WAITING_MAX` entries wait, and one batch a second is written, so a flood of refusals costs bounded memory and
bounded writes. What does not fit is counted by `tickstream_api_audit_dropped_total` and lost. Secrets never get here:
a key is named by its prefix.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog
from prometheus_client import Counter

from api.auth.addresses import anonymised
from marketdata.errors import TickstreamError

WAITING_MAX = 10_000
BATCH_MAX = 2_000
_TEXT_MAX = 500

WRITTEN = Counter("tickstream_api_audit_written_total", "Entries of the audit log that were stored.")
DROPPED = Counter("tickstream_api_audit_dropped_total", "Entries of the audit log that did not fit and were lost.")
_LOG = structlog.get_logger()

Row = tuple[datetime, str, str, str, str, str]


class Audit:
    """Entries that wait to be stored; `write` stores a batch, `clock` gives the UTC time."""

    def __init__(
        self, write: Callable[[Sequence[Row]], Awaitable[None]], clock: Callable[[], datetime], *, anonymise: bool
    ) -> None:
        self._write = write
        self._clock = clock
        self._anonymise = anonymise
        self._waiting: deque[Row] = deque()
        self._failing = False

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, who: str, action: str, outcome: str, address: str, detail: str = "") -> None:
        """Add an entry; never waits."""
        if len(self._waiting) >= WAITING_MAX:
            DROPPED.inc()
            return
        address = anonymised(address) if self._anonymise else address
        row = (self._clock(), who, action, outcome, address, detail.replace("\x00", "")[:_TEXT_MAX])
        self._waiting.append(row)

    async def flush(self) -> None:
        """Store what waits, one batch at most; what cannot be stored goes on waiting."""
        batch = [self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))]
        if not batch:
            return
        try:
            await self._write(batch)
        except TickstreamError as error:
            room = WAITING_MAX - len(self._waiting)
            DROPPED.inc(max(0, len(batch) - room))
            self._waiting.extendleft(reversed(batch[:room]))
            if not self._failing:
                _LOG.warning("the audit log cannot be written; entries wait", error=str(error), waiting=len(self))
            self._failing = True
        else:
            WRITTEN.inc(len(batch))
            self._failing = False

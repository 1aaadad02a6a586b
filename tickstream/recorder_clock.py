"""How far a recorder's clock was behind the venue's, as the first frames of a recording show.

Behind a running platform a venue's time far ahead of ours is refused, since it would close candles that are open. A
recording is over: where its recorder's clock was wrong, but the venue's times are right, nothing must be lost.
"""

from __future__ import annotations

from heapq import nlargest
from itertools import islice
from pathlib import Path

from marketdata.clock import AHEAD_NS_MAX, SECOND_NS
from marketdata.events import BookUpdate, Quote, Trades
from producers.venues import make_feed
from producers.venues.kit.venue import LiveFeed
from runtime.recordings import read

FRAMES = 2_000
# So many frames must agree: the time of a spoilt one may be any.
_WITNESSES = 3

# So much later than any frame that no feed refuses its time; still far from the end of 64 bits.
_LATER_NS = 50 * 365 * 86_400 * SECOND_NS

_TIMED = BookUpdate | Quote | Trades


def behind_ns(path: Path, venue: str) -> int:
    """Return by how many nanoseconds a recorder's clock was behind the venue's; 0 unless its times would be refused."""
    feeds: dict[str | None, LiveFeed] = {}
    ahead: list[int] = []
    for record in islice((record for record in read(path) if record.t == "recv"), FRAMES):
        later = record.ts_recv + _LATER_NS
        feed = feeds.get(record.conn)
        if feed is None:
            feed = feeds[record.conn] = make_feed(venue)
            feed.opened(later)
        # Where a frame has no time, its events have that of their receipt.
        times = [event.ts_event for event in feed.received(record.frame, later) if isinstance(event, _TIMED)]
        ahead += [max(times) - record.ts_recv] if times and max(times) < later - _LATER_NS // 2 else []
    furthest = nlargest(_WITNESSES, ahead)
    behind = furthest[-1] if len(furthest) == _WITNESSES else 0
    # A clock that is behind by a little less than the limit loses only what came quickest, which is worse to notice.
    return behind if behind > AHEAD_NS_MAX // 2 else 0

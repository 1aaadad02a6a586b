"""Bybit recordings: which market a frame is from, since recorders keep no address, and may mix several markets.

Only recordings are read so; a live line's market comes from the settings. A frame names its topic and symbol, and these
are the same on every market. What distinguishes them was checked on a recording:

1. The answer to a subscription has the text `subscribe` on the spot market and none on the others.
2. Tickers of derivatives have a mark price or are deltas, those of the spot market neither.
3. Trade ids of the spot market are numbers.
4. A book frame has its time before its type on the spot market. This is the weakest sign: it counts only where the
   others were of both markets, or of none.
5. Among derivatives, contracts in USD (BTCUSD, BTCUSDH26) are those of the inverse market.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from marketdata.feed import Fetch, Output
from producers.venues.bybit.feed import BybitFeed
from producers.venues.bybit.names import INVERSE, LINEAR, SPOT, VENUE, is_inverse
from producers.venues.kit.published import PreviousRun
from producers.venues.kit.venue import Signer

_HEAD_BYTES = 200  # a frame's topic, type and time
_TOPIC = b'{"topic":"orderbook'
_HEAD = re.compile(rb'"topic":\s*"(\w+)(?:\.[A-Za-z0-9]+)?\.([A-Za-z0-9.-]+)"')
_TRADE_ID = re.compile(rb'"i":\s*"([^"]+)"')
_IS_SNAPSHOT = re.compile(rb'"type":\s*"snapshot"')
_IS_SUBSCRIBED = re.compile(rb'"op":\s*"subscribe"')
_IS_SPOT = re.compile(rb'"ret_msg":\s*"subscribe"')


class MixedFeed:
    """One line of a recording: a feed of each market, each of which gets the frames of its own.

    `counts` are those of all markets together.
    """

    venue = VENUE
    silence_ns = BybitFeed.silence_ns

    def __init__(self, *, line: str, products: tuple[str, ...] | None = None, token: Signer | None = None) -> None:
        del token  # public channels take none
        self._feeds = {
            market: BybitFeed(line=line, products=products, market=market) for market in (SPOT, LINEAR, INVERSE)
        }
        self.counts: Counter[str] = Counter()
        for feed in self._feeds.values():
            feed.share(self.counts)
        self.ts_venue: int | None = None
        self._signs: set[bool] = set()  # of frames that show whether they are from the spot market
        self._books: dict[bytes, BybitFeed] = {}  # by the start of their frames, while all signs are of one market

    def symbols(self) -> frozenset[str] | None:
        """Return None: known only from frames."""
        return None

    def resume(self, previous: PreviousRun, ts: int) -> list[Output]:
        """Return nothing: a recording does not continue what an earlier process published."""
        del previous, ts
        return []

    def opened(self, ts: int) -> list[Output]:
        """Start over."""
        self._signs.clear()
        self._books.clear()
        return _once(feed.opened(ts) for feed in self._feeds.values())

    def received(self, frame: bytes, ts: int) -> list[Output]:
        """Return what a frame means to the feed of its market; one that cannot be read may have been of any."""
        topic = frame[: frame.find(b'"', len(_TOPIC), _HEAD_BYTES)]
        known = self._books.get(topic)
        if known is not None:
            out = known.received(frame, ts)
            self.ts_venue = known.ts_venue
            return out
        market = self._market(frame)
        feed = self._feeds[market or SPOT]
        if len(self._signs) == 1 and topic.startswith(_TOPIC):
            self._books[topic] = feed
        refused = self.counts["dead_letters"] if market is None else 0
        out = feed.received(frame, ts)
        for other in self._feeds.values():
            if other is not feed:
                other.keep_alive(ts)
                if market is None and self.counts["dead_letters"] != refused:
                    out += other.missed(ts)
        self.ts_venue = feed.ts_venue or self.ts_venue
        return out

    def fetched(self, request: Fetch, body: bytes, ts: int) -> list[Output]:
        """Give an answer to the feed that asked, a list of products to each."""
        if request.purpose == "products":
            return _once(feed.fetched(request, body, ts) for feed in self._feeds.values())
        market = next((name for name in self._feeds if f"category={name}&" in request.path), SPOT)
        return self._feeds[market].fetched(request, body, ts)

    def ticked(self, ts: int) -> list[Output]:
        """Let each check its connection."""
        return _once(feed.ticked(ts) for feed in self._feeds.values())

    def time_passed(self, ts: int, ts_event: int, *, skipped: bool = False) -> list[Output]:
        """State until when products without trades are complete (see `kit.idle`)."""
        return _once(feed.time_passed(ts, ts_event, skipped=skipped) for feed in self._feeds.values())

    def closed(self, reason: str, ts: int) -> list[Output]:
        """Declare every book invalid."""
        return _once(feed.closed(reason, ts) for feed in self._feeds.values())

    def _market(self, frame: bytes) -> str | None:
        """Return the market that a frame is from, None if it does not show that."""
        head = _HEAD.search(frame, 0, _HEAD_BYTES)
        kind, name = (b"", b"") if head is None else (head[1], head[2])
        is_spot = self._is_spot(frame, kind)
        if is_spot is None:
            return None
        if is_spot:
            return SPOT
        return INVERSE if is_inverse(name.decode()) else LINEAR

    def _is_spot(self, frame: bytes, kind: bytes) -> bool | None:
        if kind == b"orderbook":
            if len(self._signs) == 1:
                return next(iter(self._signs))
            return -1 < frame.find(b'"ts"', 0, _HEAD_BYTES) < frame.find(b'"type"', 0, _HEAD_BYTES)
        sign = None
        if kind == b"tickers":
            sign = b'"markPrice"' not in frame and _IS_SNAPSHOT.search(frame, 0, _HEAD_BYTES) is not None
        elif kind == b"publicTrade":
            found = _TRADE_ID.search(frame)
            sign = None if found is None else found[1].isdigit()
        elif kind == b"allLiquidation":
            sign = False
        elif not kind and _IS_SUBSCRIBED.search(frame):
            sign = _IS_SPOT.search(frame) is not None
        if sign is not None and sign not in self._signs:
            self._signs.add(sign)
            self._books.clear()
        return sign


def _once(outputs: Iterable[list[Output]]) -> list[Output]:
    """Return what several feeds say, and what they say alike once."""
    said: list[Output] = []
    for output in outputs:
        said += [one for one in output if one not in said]
    return said

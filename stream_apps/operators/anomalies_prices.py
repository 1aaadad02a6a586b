"""Anomalies between venues: a price away from the other venues' (see `anomaly`).

1. Venues differ all the time, by fees, by currency (USD and USDT) or, between spot and perpetuals, by funding. So each
   price counts without the venue's usual difference from the reference of (2), as logarithm.
2. The reference is the median over all venues whose last price is valid and not older than `FRESH_NS`. A single venue
   does not move it where there are three. Of two venues nobody can say which is away: they are compared with each
   other, and the first by name stands for both. While the usual difference of any is unknown, nothing is judged.
3. A venue whose book is not valid is not compared, nor are others with it.
"""

from __future__ import annotations

from collections import Counter
from math import exp, log
from statistics import median

import msgspec

from marketdata.clock import SECOND_NS
from marketdata.events import HALTED, AnyEvent, VenuePrice
from marketdata.operator import Lost
from marketdata.windows import Window
from stream_apps.operators import losses
from stream_apps.operators.anomaly import AFTER_HALT, Episodes, found, percent
from stream_apps.operators.anomaly_limits import LimitsBySymbol

KIND, METRIC = "price_deviation", "log_distance_from_other_venues"
FRESH_NS = 10 * SECOND_NS
# Venues of one symbol; prices of others are counted and ignored.
VENUES_MAX = 64
DIFFERENCES = 300
DIFFERENCES_MIN = 60
# Distances are known only when the usual differences are.
DISTANCES_MIN = 30
SIGMA = 1.4826
PAIR = 2


class VenueState(msgspec.Struct):
    """One venue: its last price (0 while it is not valid) and time, and what is usual for its differences.

    `differences` are those of the logarithm of its price from the reference, `distances` how far its price was from
    the reference without the usual difference.
    """

    differences: Window
    distances: Window
    episodes: Episodes
    price: float = 0.0
    ts: int = 0
    quiet: int = 0

    @property
    def usual(self) -> float:
        """The usual difference from the reference."""
        return self.differences.median() if len(self.differences) >= DIFFERENCES_MIN else 0.0


class AnomaliesPricesState(msgspec.Struct):
    """The venues of one symbol; `now` is the newest event time."""

    venues: dict[str, VenueState] = {}
    now: int = 0


class AnomaliesPrices:
    """The operator."""

    name = "anomalies_prices"
    input = "md.venue_prices"
    outputs: tuple[str, ...] = ("md.anomalies", "md.status")
    state = AnomaliesPricesState

    def __init__(self, limits: LimitsBySymbol | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._limits = limits or LimitsBySymbol()

    def start(self, key: str) -> AnomaliesPricesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return AnomaliesPricesState()

    def lost(self, state: AnomaliesPricesState, key: str, loss: Lost) -> tuple[AnomaliesPricesState, list[AnyEvent]]:
        """Return an entry of the ledger that is closed at once: the next prices say all that is needed."""
        for venue in state.venues.values():
            venue.price = 0.0
        return state, [*losses.passed_over(losses.gap(loss, key, "venue_prices"))]

    def step(self, state: AnomaliesPricesState, event: AnyEvent) -> tuple[AnomaliesPricesState, list[AnyEvent]]:
        """Return what begins, worsens or ends with a venue's price."""
        assert isinstance(event, VenuePrice)  # noqa: S101 - the topic's schema
        venue = state.venues.get(event.of_venue)
        if venue is None:
            if len(state.venues) >= VENUES_MAX:
                self.counts["too_many_venues"] += 1
                return state, []
            venue = state.venues[event.of_venue] = VenueState(Window(DIFFERENCES), Window(DIFFERENCES), Episodes())
        state.now = max(state.now, event.ts_event)
        venue.price = float(event.price) if event.valid and event.price is not None else 0.0
        venue.ts = max(venue.ts, event.ts_event)
        if event.reason == HALTED:
            venue.quiet = AFTER_HALT
        if venue.price <= 0:
            mine = msgspec.structs.replace(event, venue=event.of_venue)
            return state, venue.episodes.settle(mine) + venue.episodes.interrupt(mine, event.reason or "no price")
        fresh = {name: one for name, one in state.venues.items() if one.price > 0 and state.now - one.ts <= FRESH_NS}
        if event.of_venue not in fresh or len(fresh) == 1:
            return state, []
        name = event.of_venue if len(fresh) > PAIR else min(fresh)
        return state, self._judge(name, fresh, msgspec.structs.replace(event, venue=name))

    def _judge(self, name: str, fresh: dict[str, VenueState], event: VenuePrice) -> list[AnyEvent]:
        venue, episodes = fresh[name], fresh[name].episodes
        out = episodes.settle(event)
        adjusted = {each: log(one.price) - one.usual for each, one in fresh.items()}
        middle = median(adjusted.values())
        others = sorted(each for each in fresh if each != name)
        reference = middle if len(fresh) > PAIR else adjusted[others[0]]
        distance = abs(adjusted[name] - reference)
        is_away = False
        is_known = all(len(one.differences) >= DIFFERENCES_MIN for one in fresh.values())
        if is_known and len(venue.distances) >= DISTANCES_MIN and not venue.quiet:
            limits = self._limits.of(event.venue, event.symbol)
            usual = venue.distances.median()
            limit = max(limits.deviation_min, limits.deviation_times * SIGMA * usual)
            is_away = distance > limit
            if is_away:
                expected = exp(reference + venue.usual)
                text = (
                    f"the price {venue.price:.10g} is {percent(distance)} away from {expected:.10g}, which the prices "
                    f"at {', '.join(others)} suggest; usual are {percent(usual)}, the limit is {percent(limit)}"
                )
                evidence = {
                    "price": f"{venue.price:.10g}",
                    "expected": f"{expected:.10g}",
                    "venues": ",".join(others),
                    "values": str(len(venue.differences)),
                }
                away = found(KIND, METRIC, value=distance, limit=limit, usual=usual, text=text, evidence=evidence)
                out += episodes.exceeded(event, away, self.counts)
        if not is_away:
            out += episodes.within(event, KIND, METRIC)
        if is_known:
            venue.distances.push(distance)
        for each in (name,) if len(fresh) > PAIR else fresh:
            fresh[each].differences.push(log(fresh[each].price) - middle)
        venue.quiet = max(0, venue.quiet - 1)
        return out

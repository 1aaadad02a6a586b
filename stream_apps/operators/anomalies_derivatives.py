"""Anomalies of derivatives: cascades of the liquidations that a venue sends apart from its trades (see `anomaly`)."""

from __future__ import annotations

from collections import Counter

import msgspec

from marketdata.events import AnyEvent, Derivative
from stream_apps.operators.anomaly import Episodes
from stream_apps.operators.anomaly_limits import LimitsBySymbol
from stream_apps.operators.cascades import Cascades


class AnomaliesDerivativesState(msgspec.Struct):
    """The liquidations of one symbol, and which anomalies are open."""

    cascades: Cascades
    episodes: Episodes


class AnomaliesDerivatives:
    """The operator."""

    name = "anomalies_derivatives"
    input = "md.derivatives"
    outputs: tuple[str, ...] = ("md.anomalies",)
    state = AnomaliesDerivativesState

    def __init__(self, limits: LimitsBySymbol | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._limits = limits or LimitsBySymbol()

    def start(self, key: str) -> AnomaliesDerivativesState:  # noqa: ARG002 - the protocol's
        """Return the state of a symbol that was never seen."""
        return AnomaliesDerivativesState(cascades=Cascades.start(), episodes=Episodes())

    def step(
        self, state: AnomaliesDerivativesState, event: AnyEvent
    ) -> tuple[AnomaliesDerivativesState, list[AnyEvent]]:
        """Return what begins, worsens or ends with a message."""
        assert isinstance(event, Derivative)  # noqa: S101 - the topic's schema
        if event.origin != "live":  # anomalies are reported for live data only
            return state, []
        episodes, cascades = state.episodes, state.cascades
        out = episodes.settle(event)
        if not event.valid:
            cascades.forget()
            return state, out + episodes.interrupt(event, event.reason)
        for one in event.liquidations:
            cascades.add(episodes.now, one.side, one.price, one.size)
        if cascades.is_active:
            limits = self._limits.of(event.venue, event.symbol)
            out += cascades.judge(event, "liquidations", episodes, limits, self.counts)
        return state, out

"""Binance's markets and in what they differ: streams, paths, weights and limits.

Documents, at https://developers.binance.com/docs/: "WebSocket Streams for Binance" and "Market Data endpoints" of
binance-spot-api-docs; "Websocket Market Streams", "Important WebSocket Change Notice" and "Market Data" of
derivatives/usds-margined-futures; the same of derivatives/coin-margined-futures.

1. Spot trades come from `trade`, whose ids have no gaps. Futures trades come from `aggTrade`: executions of one taker
   order at one price, in one; `trade` is read where it was recorded.
2. A snapshot of a book weighs the more, the more levels it has; half of what an address may spend in a minute is used,
   so that a restart, or another line of the same address, still finds some.
3. USD-M has two addresses since 2026-04-23 ("Important WebSocket Change Notice"): `/public` carries what the matching
   engine sends, `/market` what is computed of it. An address acknowledges the streams of the other and sends nothing.
4. COIN-M is moving into the same streams, where `st` is 1 for USD-M and 2 for COIN-M. No recording has it, so that it
   is no venue yet; all that it needs is in `COINM`.
"""

from __future__ import annotations

import msgspec

from producers.venues.kit.limits import Limits, Rate

DEPTH, TICKER, TRADE, AGG_TRADE = "depth@100ms", "bookTicker", "trade", "aggTrade"
MARK_PRICE, LIQUIDATIONS = "markPrice@1s", "forceOrder"


class Market(msgspec.Struct, frozen=True, kw_only=True):
    """One market. Weights are what its REST interface charges.

    `names_previous`: each change of a book names the one before it (`pu`). `depths` are the levels a side that a
    snapshot may have, with their weights, most first. `perpetual` ends the names of perpetuals. `symbol_type` is `st`
    of its frames, 0 where they have none. `interest_weight` is that of one symbol's open interest, 0 without any.
    """

    venue: str
    kind: str
    trades: str
    public: tuple[str, ...]
    computed: tuple[str, ...] = ()
    names_previous: bool
    rest: str
    depths: tuple[tuple[int, int], ...]
    products_weight: int
    trades_weight: int
    agg_trades_weight: int
    interest_weight: int = 0
    candles_weight: int
    old_trades_weight: int
    weight_per_minute: int
    limits: Limits
    perpetual: str = ""
    symbol_type: int = 0

    @property
    def channels(self) -> tuple[str, ...]:
        """The streams that each product is subscribed to, at all addresses."""
        return self.public + self.computed

    def snapshot(self, products: int) -> tuple[int, int]:
        """Return levels and weight of a snapshot, with which so many products take two minutes of the budget."""
        most = 2 * self.weight_per_minute // max(1, products)
        return next((depth for depth in self.depths if depth[1] <= most), self.depths[-1])


def _limits(messages: int) -> Limits:
    """Return the limits of one market: one message a second is left for pongs, which count as well."""
    return Limits(subscriptions=1_024, arguments=200, messages=(Rate(messages - 1, 1),), connects=(Rate(300, 300),))


SPOT = Market(
    venue="binance_spot",
    kind="spot",
    trades=TRADE,
    public=(TRADE, TICKER, DEPTH),
    names_previous=False,
    rest="api/v3",
    depths=((5_000, 250), (1_000, 50), (500, 25), (100, 5)),
    products_weight=20,
    trades_weight=25,
    agg_trades_weight=4,
    candles_weight=2,
    old_trades_weight=25,
    weight_per_minute=3_000,
    limits=_limits(5),
)
USDM = Market(
    venue="binance_usdm",
    kind="perpetual",
    trades=AGG_TRADE,
    public=(TICKER, DEPTH),
    computed=(AGG_TRADE, MARK_PRICE, LIQUIDATIONS),
    names_previous=True,
    rest="fapi/v1",
    depths=((1_000, 20), (500, 10), (100, 5), (50, 2)),
    products_weight=1,
    trades_weight=5,
    agg_trades_weight=20,
    interest_weight=1,
    candles_weight=5,
    old_trades_weight=20,
    weight_per_minute=1_200,
    limits=_limits(10),
    symbol_type=1,
)
COINM = msgspec.structs.replace(USDM, venue="binance_coinm", rest="dapi/v1", perpetual="_PERP", symbol_type=2)

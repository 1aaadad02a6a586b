"""The trades and the times of FIX market data.

TradeCondition (277) is a list of conditions with spaces between them (FIX 4.2 and later, "TradeCondition",
https://fiximate.fixtrading.org/en/FIX.Latest/tag277.html); they are published as they are. Two state what such a trade
does not update: Volume Only (a), and Average Price Trade (B), whose price nothing was traded at.
"""

from __future__ import annotations

from marketdata.clock import SECOND_NS
from marketdata.errors import BadEvent
from marketdata.events import HIGH_LOW, OPEN_CLOSE, Trade
from marketdata.fix.codec import Message, utc_ns
from producers.venues.fix.book import NEW
from producers.venues.kit import trades
from producers.venues.kit.products import Product

_DAY_NS = 86_400 * SECOND_NS
_ACTIONS = {NEW: "new", "1": "correct", "2": "cancel"}
_VOLUME_ONLY = frozenset({"a", "B"})
_AGGRESSORS = {"1": "buy", "2": "sell"}


def trade_id(entry: dict[int, str]) -> str:
    """Return the id of a trade, TradeID or MDEntryID; an empty text where it has none."""
    return entry.get(1003) or entry.get(278) or ""


def read_trade(product: Product, message: Message, entry: dict[int, str], number: int, now: int) -> Trade:
    """Read an entry of trades; `number` is its place in the message, `now` its time where it names none.

    Raises BadEvent for what no trade of this product may be.
    """
    action = entry.get(279, NEW)
    if action not in _ACTIONS:
        raise BadEvent("unknown_action", "279", action)
    conditions = tuple(entry.get(277, "").split())
    made = f"{message.get(122) or message.get(52)}/{message.get(34)}/{number}"
    trade = Trade(trade_id=trade_id(entry) or made, ts_event=read_time(message, entry, now), price=entry.get(270, ""),
                  size=entry.get(271, ""), side=_AGGRESSORS.get(entry.get(2446, ""), "unknown"),
                  action=_ACTIONS[action], conditions=conditions,
                  excluded_from=() if _VOLUME_ONLY.isdisjoint(conditions) else (HIGH_LOW, OPEN_CLOSE))  # fmt: skip
    trades.check(product.instrument, trade)
    return trade


def read_time(message: Message, entry: dict[int, str], now: int) -> int:
    """Return when it happened: MDEntryDate and MDEntryTime, else TransactTime, else when the message was first sent."""
    time, date = entry.get(273, ""), entry.get(272, "")
    if "-" in time or (time and date):
        return utc_ns(time if "-" in time else f"{date}-{time}", "273")
    if time:
        sent = utc_ns(message.get(52), "52")
        near = utc_ns(f"{message.get(52)[:8]}-{time}", "273")
        return near + _DAY_NS * round((sent - near) / _DAY_NS)  # around midnight it is another day's
    for tag in (60, 122):
        if message.get(tag):
            return utc_ns(message.get(tag), str(tag))
    return now

"""What a feed of Coinbase sends and publishes, in short."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from marketdata.events import BookUpdate, FeedStatus, Trades
from marketdata.feed import Output, Reconnect, Send
from producers.venues.coinbase.feed import CoinbaseFeed

if TYPE_CHECKING:
    from tests.producers.conftest import Frames


SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
PRODUCTS = ("BTC-USD", "ETH-USD")


def acknowledge(feed: CoinbaseFeed, frames: Frames, *names: str) -> None:
    """Answer each of the first five messages with the list of everything that is subscribed."""
    listed = {channel: list(names or PRODUCTS) for channel in ("level2", "market_trades", "ticker")}
    for _ in range(5):
        feed.received(frames.frame("subscriptions", [{"subscriptions": listed}]), T0)


def orders(out: list[Output]) -> list[tuple[str, str]]:
    """Return what is sent to the venue as (type, channel)."""
    sent = [json.loads(output.frame) for output in out if isinstance(output, Send)]
    return [(order["type"], order["channel"]) for order in sent]


def story(out: list[Output]) -> list[str]:
    """Return the outputs in short: kind of event, symbol, kind or reason."""
    lines: list[str] = []
    for output in out:
        match output:
            case BookUpdate() | FeedStatus():
                lines.append(" ".join(filter(None, (output.symbol, output.kind, output.reason))))
            case Trades(complete_from=int()):
                lines.append(f"{output.symbol} complete")
            case Trades():
                ids = ",".join(trade.trade_id for trade in output.trades)
                lines.append(" ".join(filter(None, (output.symbol, "trades", ids, output.reason))))
            case Send():
                order = json.loads(output.frame)
                lines.append(f"send {order['type']} {order['channel']} {','.join(order['product_ids'])}")
            case Reconnect():
                lines.append(f"reconnect {output.reason}")
            case _:
                lines.append(type(output).__name__)
    return lines


def subscribed(frames: Frames, **channels: list[str]) -> bytes:
    """Return a frame that lists what the connection is subscribed to."""
    return frames.frame("subscriptions", [{"subscriptions": channels}])

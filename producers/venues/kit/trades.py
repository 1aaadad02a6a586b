"""The events of a product's trades, and what they state about completeness.

1. A loss (`lose`): an event at once states it, dated from when trades were last complete. From now on trades are sent
   as not valid, reason `gap`, and no heartbeat vouches for them.
2. It ends when every trade since the last good one has been published (`found`), or when what is missing is on the
   ledger (`missing`). The next event is valid again; where no trade is due, `state_found` sends one.
3. Consumers date the loss from the last valid heartbeat, or from a little before the last trade, to that event. It is
   followed by an event of origin `repair` which states from when on nothing is missing (`complete_from`): from before
   the loss after `found`, from the first trade after it after `missing`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from marketdata.clock import AHEAD_NS_MAX, SECOND_NS, TS_MIN
from marketdata.decimals import decimal
from marketdata.errors import BadEvent
from marketdata.events import (
    CONDITION_LENGTH_MAX,
    CONDITIONS_MAX,
    GAP,
    POSITIVE_KINDS,
    TRADE_ID_LENGTH_MAX,
    Instrument,
    Trade,
    Trades,
)
from producers.venues.kit.calls import Call
from producers.venues.kit.products import LATE_NS, Product
from producers.venues.kit.values import clean, escaped, is_clean

# A request is answered within a second as a rule, and made again after ten.
PATIENCE_NS = 30 * SECOND_NS

_LOST: dict[str, Any] = {"valid": False, "reason": GAP}


def check(instrument: Instrument, trade: Trade) -> None:
    """Raise BadEvent for a price, a size or an id that no trade of this instrument may have."""
    if decimal(trade.price, "price") <= 0 and instrument.kind in POSITIVE_KINDS:
        raise BadEvent("not_positive", "price", trade.price)
    if decimal(trade.size, "size") <= 0:
        raise BadEvent("not_positive", "size", trade.size)
    if not 0 < len(trade.trade_id) <= TRADE_ID_LENGTH_MAX:
        raise BadEvent("bad_trade_id", "trade_id", trade.trade_id)


def accepted(call: Call, batch: Sequence[Trade]) -> list[Trade]:
    """Return the trades without those that no event may hold; each of these becomes a dead letter of its own.

    That is an id that is empty or too long, an id or a condition with a control character or a lone surrogate, and a
    time of long ago or far ahead of ours.
    """
    latest = call.ts + AHEAD_NS_MAX
    good: list[Trade] = []
    for trade in batch:
        if (
            TS_MIN <= trade.ts_event <= latest
            and 0 < len(trade.trade_id) <= TRADE_ID_LENGTH_MAX
            and is_clean(trade.trade_id)
            and (not trade.original_id or is_clean(trade.original_id))
            and (not trade.conditions or _are_conditions(trade.conditions))
        ):
            good.append(trade)
        else:
            _refuse(call, trade)
    return good


def _are_conditions(conditions: tuple[str, ...]) -> bool:
    return len(conditions) <= CONDITIONS_MAX and all(
        0 < len(one) <= CONDITION_LENGTH_MAX and is_clean(one) for one in conditions
    )


def _refuse(call: Call, trade: Trade) -> None:
    frame, call.payload = call.payload, json.dumps(msgspec.structs.asdict(trade)).encode()
    with call.refusing("bad_trade"):
        if not 0 < len(trade.trade_id) <= TRADE_ID_LENGTH_MAX:
            raise BadEvent("bad_trade_id", "trade_id", trade.trade_id[:200])
        clean(trade.trade_id, "trade_id")
        clean(trade.original_id, "original_id")
        if not _are_conditions(trade.conditions):
            raise BadEvent("bad_conditions", "conditions", escaped(" ".join(trade.conditions)))
        call.venue_time(trade.ts_event, "ts_event")
    call.payload = frame


def send(call: Call, product: Product, batch: Sequence[Trade], *, origin: str = "live") -> None:
    """Publish trades that were not published before, oldest first."""
    newest = max([trade.ts_event for trade in batch])
    product.ts_trade = max(product.ts_trade or 0, call.now if newest > call.ts + AHEAD_NS_MAX else newest)
    call.line.counts["trades"] += len(batch)
    if origin == "live":
        if product.trades_lost and product.ts_back is None:
            product.ts_back = batch[0].ts_event
        if off_tick := product.count_off_tick([trade.price for trade in batch]):
            call.line.counts["off_tick"] += off_tick
            product.off_tick = True
    call.out.append(
        Trades(venue=call.line.venue, symbol=product.symbol, ts_event=batch[-1].ts_event, ts_recv=call.ts,
               line=call.line.name, sequence=call.sequence, origin=origin, amendable=call.line.amends_trades,
               trades=tuple(batch), **_validity(product))
    )  # fmt: skip
    if origin == "live" and product.complete_from is not None:
        _complete(call, product)


def heartbeat(call: Call, product: Product, ts_event: int) -> None:
    """State that no other trade happened until `ts_event`; nothing is stated while trades may be missing."""
    if product.trades_lost:
        return
    vouched = max(ts_event, product.ts_trade or 0)
    if product.validity["valid"]:
        product.ts_trades_vouched = max(product.ts_trades_vouched or 0, vouched)
    _send_time(call, product, vouched)


def pass_time(call: Call, product: Product, ts_event: int) -> None:
    """State that time has passed until `ts_event`, and whether every trade until a little before it is published."""
    if product.validity["valid"] and not product.trades_lost:
        if product.ts_passed != call.ts:
            product.ts_passed, product.ts_vouched_before = call.ts, product.ts_trades_vouched
        product.ts_trades_vouched = max(product.ts_trades_vouched or 0, ts_event - LATE_NS)
    _send_time(call, product, ts_event)


def _send_time(call: Call, product: Product, ts_event: int) -> None:
    call.out.append(
        Trades(venue=call.line.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts, line=call.line.name,
               sequence=call.sequence, amendable=call.line.amends_trades, **_validity(product))
    )  # fmt: skip
    if product.complete_from is not None:
        _complete(call, product)


def take_back(call: Call, product: Product) -> None:
    """Take back what the frame of `call` was taken to prove when it came, since it shows that frames are lost."""
    if product.ts_passed == call.ts and not product.trades_lost:
        product.ts_trades_vouched = product.ts_vouched_before


def doubt(product: Product) -> None:
    """Trust no passing of time since the last trade, or the last number of one that the venue stated.

    A number is skipped, although the connection delivers in order: the venue itself left trades out, at any time since.
    """
    if product.ts_trades_vouched is not None and not product.trades_lost:
        proven = max(product.ts_trade or 0, product.ts_trades_numbered or 0)
        product.ts_trades_vouched = min(product.ts_trades_vouched, proven) if proven else None


def lose(call: Call, product: Product) -> None:
    """State that trades may be missing: what is sent is not valid from now on, until `found` or `missing`."""
    if not product.trades_lost:
        take_back(call, product)
        product.ts_whole = product.ts_trades_whole
        if product.ts_whole is not None:
            call.out.append(gap_at(call, product, product.ts_whole))
        product.trades_lost = True
        product.ts_lost = call.ts
        product.ts_trade_before = product.ts_whole if product.ts_trade is None else product.ts_trade
        if product.ts_trade is None:
            product.unproven = True
        product.trade_ids.is_open_below = product.unproven
        product.sent_ids.mark()
    product.ts_back = None
    product.complete_from = None


def found(product: Product) -> None:
    """Note that no trade is missing since the loss; the next valid event states so."""
    if product.trades_lost:
        _end_loss(product)
        product.complete_from = None if product.ts_whole is None else max(0, product.ts_whole - LATE_NS)


def state_found(call: Call, product: Product) -> None:
    """State at once that nothing is missing any more, unless a trade has done so: an idle product may have none soon.

    It is dated from the newest trade, since this shows nothing of the time after it.
    """
    newest = product.ts_trade or product.ts_whole
    if product.complete_from is not None and not product.trades_lost and newest is not None:
        _send_time(call, product, newest)


def found_late(product: Product) -> None:
    """Note that the trades have come that were stated to be `missing`."""
    if product.missing_since is not None:
        product.complete_from, product.missing_since = max(0, product.missing_since - LATE_NS), None


def _end_loss(product: Product) -> None:
    product.trades_lost = product.unproven = product.trade_ids.is_open_below = False


def is_overdue(call: Call, product: Product) -> bool:
    """Return whether missing trades should have come by now; nobody can send those of a recording."""
    return product.trades_lost and (product.is_played or call.ts - product.ts_lost > PATIENCE_NS)


def missing(call: Call, product: Product) -> None:
    """State in the stream of trades itself that some are missing, which nobody will send any more.

    What came after the missing ones is complete, and stated so with the next valid event.
    """
    call.out.append(gap_at(call, product, product.ts_trade or call.now))
    if product.trades_lost:
        _end_loss(product)
        product.complete_from = product.ts_back
        if product.missing_since is None:
            product.missing_since = product.ts_whole


def interrupted(call: Call, product: Product) -> None:
    """State that trades are missing of a product of which none was ever published, as `lose` does for others."""
    if product.ts_whole is None:
        call.out.append(gap_at(call, product, call.now))


def _complete(call: Call, product: Product) -> None:
    """State that every trade since the loss is published; an event that ended the loss for consumers came before."""
    since, product.complete_from = product.complete_from or 0, None
    until = max(product.ts_trade or 0, product.ts_trades_vouched or 0)
    if since < until:
        call.out.append(
            Trades(venue=call.line.venue, symbol=product.symbol, ts_event=until, ts_recv=call.ts, line=call.line.name,
                   origin="repair", complete_from=since, amendable=call.line.amends_trades)
        )  # fmt: skip


def _validity(product: Product) -> dict[str, Any]:
    return _LOST if product.trades_lost else product.validity


def gap_at(call: Call, product: Product, ts_event: int) -> Trades:
    """Return the event which states that trades may be missing since `ts_event` (the venue's clock, UTC ns)."""
    return Trades(venue=call.line.venue, symbol=product.symbol, ts_event=ts_event, ts_recv=call.ts,
                  line=call.line.name, sequence=call.sequence, amendable=call.line.amends_trades, valid=False,
                  reason=GAP)  # fmt: skip

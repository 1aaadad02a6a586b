"""Compares trades of topic and table with the exchange's, and asks the ledger about those that are missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from infra.chaos.findings import Findings
from infra.chaos.published import Gap, Published
from infra.chaos.record import Deal, ProductRecord
from marketdata.events import ALL_SYMBOLS, Trade, Trades

# What feeds call the channel of trades; an entry without a channel concerns them all.
TRADE_CHANNELS = frozenset({None, "", "trades", "market_trades"})


class TopicTrades:
    """The trades of md.trades: those of each product by id, live ones in order, and how many each record holds."""

    def __init__(self, published: Iterable[Published]) -> None:
        self.by_symbol: dict[str, dict[int, Trade]] = defaultdict(dict)
        self.live: dict[str, list[Trade]] = defaultdict(list)
        self.doubled: list[str] = []
        self.rows: dict[tuple[int, int], int] = {}
        for record in published:
            event = record.event
            if not isinstance(event, Trades):
                continue
            if event.trades:
                self.rows[record.partition, record.offset] = len(event.trades)
            known = self.by_symbol[event.symbol]
            if event.origin == "live":
                self.live[event.symbol] += event.trades
            for trade in event.trades:
                number = int(trade.trade_id)
                if number in known:
                    self.doubled.append(
                        f"{event.symbol} {number} again at {record.partition}@{record.offset} "
                        f"(origin {event.origin}, line {event.line})"
                    )
                known[number] = trade


def compare(topic: TopicTrades, records: Mapping[str, ProductRecord], gaps: list[Gap], findings: Findings) -> None:
    """Compare every trade that the exchange made since the first one in the topic."""
    for text in topic.doubled:
        findings.add("trade_doubled_in_topic", text)
    figures: Counter[str] = Counter(
        made=0, missing=0, missing_in_open_gap=0, missing_in_repaired_gap=0, wrong=0, doubled_topic=len(topic.doubled)
    )
    for symbol, record in records.items():
        known = topic.by_symbol.get(symbol, {})
        figures["topic"] += len(known)
        if not known:
            findings.add("trade_missing", f"{symbol}: no trade at all")
            continue
        first = min(known)
        for number, deal in record.deals.items():
            if number < first:
                continue
            figures["made"] += 1
            if number not in known:
                figures["missing"] += 1
                _missing(symbol, deal, gaps, figures, findings)
            elif _differs(known[number], deal):
                figures["wrong"] += 1
                findings.add("trade_wrong", f"{symbol} {number}: {known[number]} instead of {deal}")
        for number in known.keys() - record.deals.keys():
            if number >= min(record.deals, default=0):
                findings.add("trade_invented", f"{symbol} {number}")
    findings.set("trades", **figures)


def _missing(symbol: str, deal: Deal, gaps: list[Gap], figures: Counter[str], findings: Findings) -> None:
    entries = [gap for gap in gaps if covers(gap, symbol, deal)]
    text = f"{symbol} {deal.trade_id} of {deal.ts}"
    if not entries:
        findings.add("trade_missing", f"{text}, in no gap of the ledger")
    elif all(gap.state == "repaired" for gap in entries):
        figures["missing_in_repaired_gap"] += 1
        ids = ", ".join(f"{gap.gap_id} by {gap.repaired_by}" for gap in entries[:2])
        findings.add("trade_missing_in_repaired_gap", f"{text}: {ids}")
    else:
        figures["missing_in_open_gap"] += 1


def _differs(trade: Trade, deal: Deal) -> bool:
    return (trade.price, trade.size, trade.side, trade.ts_event) != (deal.price, deal.size, deal.side, deal.ts)


def covers(gap: Gap, symbol: str, deal: Deal) -> bool:
    """Return whether an entry of the ledger says that this trade may be missing."""
    if gap.symbol not in {symbol, ALL_SYMBOLS} or gap.channel not in TRADE_CHANNELS:
        return False
    if gap.channel and gap.expected is not None and gap.received is not None:
        return gap.expected <= deal.trade_id < gap.received
    end = gap.ts_to if gap.ts_to is not None else gap.repaired
    return (gap.ts_from or 0) <= deal.ts and (end is None or deal.ts <= end)

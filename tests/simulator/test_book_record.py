"""The exchange's record of a product: with it a reader has every trade, and the book at every sequence."""

from __future__ import annotations

from typing import Any

from infra.chaos.record import ProductRecord


def test_record_has_the_book_that_each_frame_led_to_and_every_trade(venue: Any, bounded: Any) -> None:
    """What a client rebuilt from its frames is in the record at each of their sequences, also after a reconnect."""

    async def scenario() -> None:
        async with venue(rate=400) as exchange:
            seen: list[tuple[int, int, dict[str, str], dict[str, str]]] = []
            trades: dict[int, tuple[str, str]] = {}
            for _ in range(2):
                async with exchange.client() as client:
                    await client.subscribe("market_trades", "BTC-USD")
                    await client.subscribe("level2", "BTC-USD")
                    for _ in range(40):
                        frame = await client.next()
                        bids, asks = (
                            {f"{price.normalize():f}": f"{size.normalize():f}" for price, size in book.items()}
                            for book in (client.books["BTC-USD"]["bid"], client.books["BTC-USD"]["offer"])
                        )
                        seen.append((frame["sequence_num"], exchange.exchange.clock(), bids, asks))
                    frames = [frame for frame in client.frames if frame.get("channel") == "market_trades"]
                    for trade in (trade for frame in frames for event in frame["events"] for trade in event["trades"]):
                        trades[int(trade["trade_id"])] = (trade["price"], trade["size"])
            exchange.exchange.rate = 0
            record = ProductRecord(
                (await exchange.get("/record/BTC-USD/trades"))["trades"], await exchange.get("/record/BTC-USD/book")
            )
            for sequence, ts, bids, asks in seen:
                assert any(record.book(version) == (bids, asks) for version in record.versions(sequence, ts))
            assert {number: record.deals[number][2:4] for number in trades} == trades
            assert sorted(record.deals) == list(range(min(record.deals), max(record.deals) + 1))

    bounded(scenario())

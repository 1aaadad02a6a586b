"""Every trade of Coinbase is sent once or on the ledger, whatever is lost on the way."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from marketdata.events import EVENTS, BookUpdate, FeedStatus, Instrument, Quote, Trades
from marketdata.feed import Output
from producers.venues.coinbase.feed import CoinbaseFeed
from tests.producers.conformance.cases import CODEC, SECOND
from tests.producers.conftest import Frames

T0 = 1_800_000_000 * SECOND


def check(out: list[Output], valid: dict[str, bool], announced: set[str]) -> None:
    """Hold every rule that an output must keep whatever came before it; `valid` is each book's state so far."""
    for output in out:
        if isinstance(output, EVENTS):
            assert CODEC.decode(CODEC.encode(output)) == output
        if isinstance(output, Instrument):
            announced.add(output.symbol)
        elif isinstance(output, Trades | BookUpdate | Quote):
            assert output.symbol in announced
        if isinstance(output, BookUpdate):
            if output.kind in {"update", "heartbeat"}:
                assert valid.get(output.symbol), "a change or a heartbeat of a book that nobody may trust"
            assert output.kind != "clear" or (not output.valid and output.reason)
            valid[output.symbol] = output.kind != "clear"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(st.tuples(st.sampled_from(["trade", "trade", "lose", "mute", "snapshot", "drop", "bad", "beat"]),
                                 st.integers(1, 4)), max_size=40))  # fmt: skip
@example(script=[("mute", 1), ("mute", 4), ("mute", 4), ("snapshot", 1)])
def test_every_trade_is_sent_once_or_on_the_ledger(make_frames: type[Frames], script: list[tuple[str, int]]) -> None:
    """A venue that trades on while frames, trades and connections are lost: what was not sent is a gap that is known.

    `lose` drops a frame of trades, `mute` leaves trade ids out without dropping a frame, `drop` loses the connection,
    `bad` spoils one trade, `snapshot` sends the last eight trades as after a subscription.
    """
    feed, frames, now = CoinbaseFeed(line="coinbase/0", products=("BTC-USD",)), make_frames(), T0
    feed.opened(now)
    feed.received(frames.snapshot(), now)
    out = feed.received(frames.trades(1, kind="snapshot"), now)
    made, valid, announced = 1, {"BTC-USD": True}, {"BTC-USD"}
    for action, count in script:
        now += 30 * SECOND
        new = list(range(made + 1, made + 1 + count))
        if action not in {"snapshot", "drop", "beat"}:
            made += count
        match action:
            case "trade":
                said = feed.received(frames.trades(*new), now)
            case "lose":
                frames.trades(*new)
                continue
            case "mute":
                continue
            case "bad":
                frame = frames.trades(*new).replace(b'"trade_id":"%d"' % new[0], b'"trade_id":"x"')
                said = feed.received(frame, now)
            case "snapshot":
                said = feed.received(frames.trades(*range(max(1, made - 7), made + 1), kind="snapshot"), now)
            case "beat":
                said = feed.received(frames.heartbeat(), now)
            case _:
                said = feed.closed("reset", now) + feed.opened(now)
                frames.sequence = 0
        check(said, valid, announced)
        out += said
    sent = [int(trade.trade_id) for o in out if isinstance(o, Trades) for trade in o.trades]
    assert len(sent) == len(set(sent)), "a trade was sent twice"
    missing = set(range(1, max(sent))) - set(sent)
    ids = feed._products["BTC-USD"].trade_ids
    assert missing == {number for first, last in ids.skipped for number in range(first, last + 1)}
    opened = {o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "gap"}
    closed = {o.gap_id for o in out if isinstance(o, FeedStatus) and o.kind == "resynced"}
    assert closed <= opened
    assert not missing or opened - closed, "trades are missing and no gap is open"

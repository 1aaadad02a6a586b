"""The shell against a real HTTP server: what is tried again and what is not, limits, budgets, errors."""

from __future__ import annotations

import asyncio
import logging
import time
from email.utils import formatdate
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.simulator.venues.answers import Answer
from infra.simulator.venues.tape import MINUTE_NS
from marketdata.errors import BadEvent, Refused, SettingsError, TickstreamError, Unavailable
from marketdata.events import Candle
from producers.history.rest import Options, Rest
from producers.rest import retry_after_s
from producers.venues import HISTORIES, make_history
from producers.venues.alpaca.history import remaining
from producers.venues.binance.weight import used_weight
from producers.venues.kit.budget import Bucket
from producers.venues.kit.history import Access, Budget, Chunk, Span, TradeHistory

if TYPE_CHECKING:
    from tests.producers.history.conftest import Served

QUICK = Options(backoff_base_s=0.001, settle_ns=0)
LATER = 3  # tries that fail before one that works
RANGE = (900, 910)


def span(served: Served) -> tuple[int, int]:
    """Return a range of ten minutes."""
    return served.minute(RANGE[0]), served.minute(RANGE[1])


@pytest.mark.parametrize("venue", sorted(HISTORIES))
@pytest.mark.parametrize("status", [418, 429, 503])
def test_what_may_pass_is_tried_again(served: Served, venue: str, status: int) -> None:
    """Limits and failures of the server cost time, and no row."""
    served.venue.fail(*[Answer(status, b"busy")] * LATER)
    found, _ = served.candles(served.history(venue), *span(served))
    assert [one.start for one in found if one.trades or one.open] == [
        one.start for one in served.venue.candles(MINUTE_NS, *span(served), sparse=True)
    ]
    assert len({asked.query.get("start", asked.path) for asked in list(served.venue.asked)[: LATER + 1]}) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 301])
def test_what_will_not_pass_is_refused_at_once(served: Served, status: int) -> None:
    """A wrong request or key is reported with the venue's message, and sent once."""
    served.venue.fail(Answer(status, b'{"msg":"no such symbol"}'))
    with pytest.raises(Refused, match=f"status {status} .*no such symbol"):
        served.candles(served.history("binance_spot"), *span(served))
    assert len(served.venue.asked) == 1


def test_a_venue_that_stays_away_is_given_up(served: Served) -> None:
    """As many tries as are allowed, then an error that says what the last one was."""
    served.venue.fail(*[Answer(503, b"maintenance")] * 10)
    with pytest.raises(Unavailable, match=r"bitfinex does not answer .*status 503 maintenance"):
        served.candles(served.history("bitfinex"), *span(served), options=msgspec.structs.replace(QUICK, tries_max=4))
    assert len(served.venue.asked) == 4


def test_nobody_listening_is_given_up_as_well(served: Served) -> None:
    """A connection that is refused is tried again like a failure."""
    history = make_history("kraken", Access(rest_url="http://127.0.0.1:9"))
    history.budget = Budget(burst=1e9, per_s=1e9)
    with pytest.raises(Unavailable, match="ConnectError"):
        served.candles(history, *span(served))


def test_retry_after_holds_every_request_of_the_venue(served: Served) -> None:
    """Another task's request waits as well: venues count by address."""
    served.venue.fail(Answer(429, b"", {"retry-after": "1"}))
    history = served.history("coinbase")

    async def both() -> list[float]:
        async with Rest(history, QUICK) as rest:
            began = time.monotonic()

            async def one() -> float:
                async for _ in rest.fetch_candles("BTC-USD", "1m", *span(served)):
                    pass
                return time.monotonic() - began

            first = asyncio.create_task(one())
            while rest._client._not_before_s == 0:  # noqa: ASYNC110 - nothing reports that it pauses
                await asyncio.sleep(0.001)
            return list(await asyncio.gather(first, one()))

    waits = asyncio.run(both())
    assert min(waits) >= 0.95


def test_a_ban_of_hours_is_not_waited_for(served: Served) -> None:
    """A job that resumes later costs less than a task that sleeps."""
    served.venue.fail(Answer(418, b"banned", {"retry-after": "7200"}))
    with pytest.raises(Unavailable, match="status 418 banned"):
        served.candles(served.history("binance_spot"), *span(served))
    assert len(served.venue.asked) == 1


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    """RFC 9110 allows both; what is neither says nothing."""
    now_s = 1_700_000_000.0
    assert retry_after_s("17", now_s) == 17
    assert retry_after_s(formatdate(now_s + 30, usegmt=True), now_s) == 30
    assert retry_after_s(formatdate(now_s - 30, usegmt=True), now_s) == 0
    for nothing in ("", "soon", "-5", "1e3", "Mon, 99 Foo 2023"):
        assert retry_after_s(nothing, now_s) == 0


def test_kraken_says_later_in_a_good_answer(served: Served) -> None:
    """Status 200 with a rate limit in `error` is tried again; an unknown pair is refused."""
    served.venue.fail(*[Answer(200, b'{"error":["EAPI:Rate limit exceeded"]}')] * LATER)
    found, _ = served.trades(served.history("kraken"), *span(served))
    assert len(found) == len(served.venue.trades(*span(served)))
    served.venue.fail(Answer(200, b'{"error":["EQuery:Unknown asset pair"]}'))
    with pytest.raises(Refused, match="Unknown asset pair"):
        served.trades(served.history("kraken"), *span(served))


def test_an_answer_that_is_too_big_is_not_read(served: Served) -> None:
    """No server can make us hold more than the limit."""
    served.venue.fail(Answer(200, b"[" + b"1," * 50_000 + b"1]"))
    with pytest.raises(BadEvent, match="too_big"):
        served.trades(served.history("bitfinex"), *span(served), options=Options(bytes_max=10_000))


BAD = {
    "bitfinex": (b'{"rows":[]}', "body", "rows"),
    "binance_spot": (b'{"klines":[[1700000040000,"1","2","0.5","1.5","7",1700000099999]]}', "body", "klines"),
    "coinbase": (b'{"candles":{"start":"60"}}', "candles", "start"),
    "kraken": (b'{"error":[],"result":[5]}', "result", "5"),
}


@pytest.mark.parametrize("venue", sorted(BAD))
def test_an_answer_of_another_shape_names_field_and_value(served: Served, venue: str) -> None:
    """The error names the value, and nothing of the page is returned."""
    body, field, value = BAD[venue]
    served.venue.fail(Answer(200, body))
    with pytest.raises(BadEvent) as caught:
        served.candles(served.history(venue), *span(served))
    assert caught.value.field == field
    assert value in caught.value.value


def test_a_bad_item_is_left_out_with_its_reason(served: Served) -> None:
    """Its bytes, field and value reach the caller, who publishes them as a dead letter; the others are returned."""
    start, end = served.minute(896), served.minute(898)
    row = '[%d,"1","2","0.5","%s","7",%d,"9",2,"3"]'
    rows = [row % (at // 1_000_000, close, at // 1_000_000 + 59_999)
            for at, close in ((start, "1.5"), (served.minute(897), "x"))]  # fmt: skip
    served.venue.fail(Answer(200, f"[{','.join(rows)}]".encode()), Answer(200, f"[{rows[1]}]".encode()))

    async def fetch() -> list[Chunk[Candle]]:
        async with Rest(served.history("binance_spot"), QUICK) as rest:
            return [chunk async for chunk in rest.fetch_candles("BTC-USDT", "1m", start, end)]

    chunks = asyncio.run(fetch())
    assert [one.start for chunk in chunks for one in chunk.events] == [start]
    ((payload, error),) = [item for chunk in chunks for item in chunk.refused]
    assert (payload.decode(), error.field, error.value) == (rows[1], "kline", "x")
    assert [span for chunk in chunks for span in chunk.missing] == [Span(served.minute(897), end, "bad_item")]


@pytest.mark.parametrize("venue", sorted(HISTORIES))
@pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"[1, 2", b'{"a":' * 2000])
def test_any_other_bytes_are_an_error_of_ours(served: Served, venue: str, body: bytes) -> None:
    """Nothing that a server sends raises anything that callers do not know."""
    for fetch in (served.candles, served.trades):
        served.venue.fail(Answer(200, body))
        with pytest.raises(TickstreamError):
            fetch(served.history(venue), *span(served))


def test_candles_that_are_not_over_are_left_out(served: Served) -> None:
    """The venue sends the one that is not over; history is what has settled."""
    now = time.time_ns()
    for venue in ("kraken", "binance_spot"):
        found, _ = served.candles(
            served.history(venue), now - 10 * MINUTE_NS, now + 10 * MINUTE_NS, options=Options(settle_ns=MINUTE_NS)
        )
        assert len(found) in {8, 9}
        assert max(one.end for one in found) <= now


def test_the_budget_is_kept(served: Served) -> None:
    """Eight pages with a burst of four and 40 a second take at least a tenth of a second."""
    served.venue.rows_max = 2
    history = served.history("binance_usdm", Budget(burst=20, per_s=200))  # a page weighs 5
    began = time.monotonic()
    served.candles(history, served.minute(100), served.minute(116))
    assert len(served.venue.asked) == 8
    assert time.monotonic() - began >= 0.09


weights = st.lists(st.tuples(st.floats(0, 50), st.floats(0, 5)), max_size=50)


@settings(max_examples=40, deadline=None)
@given(asked=weights, burst=st.floats(1, 100), per_s=st.floats(0.1, 100))
def test_a_bucket_never_gives_more_than_it_earned(asked: list[tuple[float, float]], burst: float, per_s: float) -> None:
    """By any time no more weight is used than the burst and what each second adds, but for the last request."""
    bucket = Bucket(Budget(burst=burst, per_s=per_s))
    now_s = used = 0.0
    turns = []
    for weight, pause_s in asked:
        now_s += pause_s
        turn_s = now_s + bucket.take(weight, now_s)
        used += weight
        turns.append(turn_s)
        assert used <= burst + turn_s * per_s + 1e-6 * (1 + used)
    assert all(b - a > -1e-6 for a, b in pairwise(turns))


def test_a_budget_follows_what_the_venue_says_is_left() -> None:
    """Others' weight counts: until the minute of the clock is over no more is spent than is left, then as before."""
    bucket = Bucket(Budget(burst=3_000, per_s=50, left=used_weight(6_000)))
    assert bucket.take(250, 0) == 0
    bucket.answered({"x-mbx-used-weight-1m": "250"}, 1, 1_200_000_001)  # what was counted here: nothing changes
    assert bucket.take(2_750, 1) == 0
    bucket.answered({"x-mbx-used-weight-1m": "5900"}, 10, 1_200_000_030)
    assert [bucket.take(weight, 10) for weight in (50, 50, 50)] == [29, 30, 31]
    other = Bucket(Budget(burst=20, per_s=3, left=remaining))
    other.answered({"x-ratelimit-remaining": "100", "x-ratelimit-reset": "1200000030"}, 0, 1_200_000_000)
    assert [other.take(10, 0), other.take(1, 0)] == [0, 1 / 3]


@pytest.mark.parametrize("said", ["", "x", "-1", "1e3", "9" * 13, "\u0661"])
def test_a_header_that_is_no_number_changes_nothing(said: str) -> None:
    """Nor does one that is absent."""
    bucket = Bucket(Budget(burst=10, per_s=1, left=used_weight(5)))
    bucket.answered({"x-mbx-used-weight-1m": said}, 0, 0)
    bucket.answered({}, 0, 0)
    assert bucket.take(10, 0) == 0


def test_keys_go_to_the_venue_and_nowhere_else(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """They are in the headers that the venue wants, and not in what is printed or logged."""
    caplog.set_level(logging.DEBUG)
    access = served.access(key="the-key", secret="the-secret")
    served.venue.fail(Answer(500, b""))
    history = make_history("binance_spot", access)
    served.candles(history, *span(served))
    assert served.venue.asked[-1].headers["x-mbx-apikey"] == "the-key"
    assert "the-key" not in repr(access) + caplog.text
    assert "the-secret" not in repr(access) + caplog.text


def test_names_that_no_venue_has_are_told_before_a_request(served: Served) -> None:
    """An unknown venue, symbol or interval costs no request."""
    with pytest.raises(SettingsError, match="bitfinex"):
        make_history("mtgox")
    history = served.history("bitfinex")
    with pytest.raises(BadEvent, match="bad_interval"):
        served.candles(history, *span(served), interval="4h")
    for venue in sorted(HISTORIES):
        with pytest.raises(BadEvent, match="bad_symbol"):
            served.history(venue).instrument("no such/thing?&x=1")
    assert not served.venue.asked


@pytest.mark.parametrize("venue", ["hyperliquid", "okx"])
def test_a_venue_without_trades_of_the_past_refuses_before_a_request(served: Served, venue: str) -> None:
    """Its history is no `TradeHistory`, which all callers look at."""
    history = served.history(venue)
    assert not isinstance(history, TradeHistory)
    with pytest.raises(BadEvent, match="no_trades"):
        served.trades(history, *span(served))
    assert not served.venue.asked

"""What a US equity trade updates, by its sale conditions and the tape that reports it.

Sources. "Consolidated" update rules of the Securities Information Processors: CTS Multicast Output Specification (tapes
A and B, https://www.ctaplan.com) and UTP Participant Input Specification (tape C, https://www.utpplan.com), as rendered
by dxFeed ("TimeAndSale Sale Conditions", https://docs.dxfeed.com/misc/dxFeed_TimeAndSale_Sale_Conditions.htm) and by
ThetaData ("Trade Conditions", https://docs.thetadata.us/Articles/Errors-Exchanges-Conditions/Trade-Conditions.html).
The rules are about the day; Alpaca makes minute bars of them ("Stock Minute Bars",
https://alpaca.markets/learn-api/stock-minute-bars, and "Bar Calculation (CTS guidance) and Alpaca Article Discrepancy",
https://forum.alpaca.markets/t/bar-calculation-cts-guidance-and-alpaca-article-discrepancy/18440). So:

1. Where the rule for the last price is "only if it is the first or only one" (4, P, Z; G on tape C), the trade sets no
   open or close of a minute.
2. Official opens and closes (M, Q) repeat a price that was reported before, and update nothing. A corrected
   consolidated close (9) updates the day's high, low and last, and no volume (dxFeed; Massive's "Condition Codes",
   https://massive.com/docs/rest/stocks/market-operations/condition-codes: M, Q and 9 alone update no volume). It may
   come hours after the close that it corrects (6), so that Alpaca leaves it out of minute bars (its answer in the
   article discrepancy above). So it updates nothing here.
3. Form T marks trades outside of regular hours. There it sets the prices of a bar, within regular hours it does not
   ("Does a Form T trade update a pre-market minute bar's high, low, open and close?", https://massive.com).
4. Codes with two meanings depend on the tape: B is an average price on A and B, and a bunched trade on C. Codes that
   are not listed update everything, and so do they on a tape that is not known where the tapes differ.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache

from marketdata.clock import SECOND_NS
from marketdata.events import EXCLUSIONS, HIGH_LOW, OPEN_CLOSE

_PRICES = (HIGH_LOW, OPEN_CLOSE)
_LAST = (OPEN_CLOSE,)

# By code, on every tape.
_COMMON: dict[str, tuple[str, ...]] = {
    "C": _PRICES,  # cash sale
    "H": _PRICES,  # price variation trade
    "I": _PRICES,  # odd lot
    "N": _PRICES,  # next day sale
    "R": _PRICES,  # seller
    "U": _PRICES,  # extended hours, sold out of sequence
    "V": _PRICES,  # contingent trade
    "7": _PRICES,  # qualified contingent trade
    "P": _LAST,  # prior reference price
    "Z": _LAST,  # sold out of sequence
    "4": _LAST,  # derivatively priced
    "G": _LAST,  # bunched sold trade
    "M": EXCLUSIONS,  # market centre's official close
    "Q": EXCLUSIONS,  # market centre's official open
    "9": EXCLUSIONS,  # corrected consolidated close
}
_CTA = _COMMON | {"B": _PRICES}  # average price trade
_UTP = _COMMON | {"W": _PRICES}  # average price trade
_TABLES = {"A": _CTA, "B": _CTA, "C": _UTP}
_EXTENDED_HOURS = "T"

_MINUTE_NS = 60 * SECOND_NS
_HOUR_NS = 60 * _MINUTE_NS
_DAY_NS = 24 * _HOUR_NS
_EPOCH = date(1970, 1, 1).toordinal()
_SATURDAY = 5
_OPENS, _CLOSES = 9 * 60 + 30, 16 * 60  # minutes of the day in New York


def exclusions(conditions: tuple[str, ...], tape: str, ts: int) -> tuple[str, ...]:
    """Return what a trade at `ts` (UTC nanoseconds) does not update: the union of what its conditions exclude."""
    return _exclusions(conditions, tape, in_hours=_EXTENDED_HOURS in conditions and is_regular(ts))


@lru_cache(maxsize=4_096)
def _exclusions(conditions: tuple[str, ...], tape: str, *, in_hours: bool) -> tuple[str, ...]:
    table = _TABLES.get(tape, _COMMON)
    found = {excluded for code in conditions for excluded in table.get(code, ())}
    if in_hours:
        found.update(_PRICES)
    return tuple(excluded for excluded in EXCLUSIONS if excluded in found)


def is_regular(ts: int) -> bool:
    """Return whether a time (UTC nanoseconds) is within 09:30 to 16:00 of a weekday in New York."""
    days, minute = divmod((ts - _behind_ns(ts)) // _MINUTE_NS, 24 * 60)
    return date.fromordinal(_EPOCH + days).weekday() < _SATURDAY and _OPENS <= minute < _CLOSES


def _behind_ns(ts: int) -> int:
    """Return how far New York is behind UTC: 4 hours in summer, otherwise 5."""
    begins, ends = _summer(date.fromordinal(_EPOCH + ts // _DAY_NS).year)
    return (4 if begins <= ts < ends else 5) * _HOUR_NS


@lru_cache(maxsize=64)
def _summer(year: int) -> tuple[int, int]:
    """Return when summer time begins and ends, UTC nanoseconds.

    From March's second Sunday to November's first, both at 02:00 local time (Energy Policy Act of 2005, section 110).
    """
    begins = _sunday(date(year, 3, 8)) - _EPOCH
    ends = _sunday(date(year, 11, 1)) - _EPOCH
    return begins * _DAY_NS + 7 * _HOUR_NS, ends * _DAY_NS + 6 * _HOUR_NS


def _sunday(day: date) -> int:
    """Return the ordinal of the first Sunday on or after a day."""
    return day.toordinal() + (6 - day.weekday()) % 7

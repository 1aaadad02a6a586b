"""What Databento's records say of instruments: whether they trade, and what they are.

1. `status` (https://databento.com/docs, "Status"): `is_trading` is yes, no or unknown, and unknown is not no: then the
   action says it, and where it does not either, nothing changes.
2. Definitions ("Instrument definitions") make instruments.
"""

from __future__ import annotations

from typing import Any

import databento_dbn

from marketdata import dbn
from marketdata.errors import BadEvent
from marketdata.events import Instrument

_KINDS = {"K": "equity", "B": "equity", "F": "future", "S": "future", "C": "option", "P": "option", "T": "option",
          "M": "option", "X": "spot", "Y": "spot"}  # fmt: skip

# What a status says of trading where `is_trading` does not.
_STATES = {"PRE_OPEN": "auction", "PRE_CROSS": "auction", "CROSS": "auction", "ROTATION": "auction",
           "NEW_PRICE_INDICATION": "auction", "QUOTING": "halted", "TRADING": "online", "HALT": "halted",
           "PAUSE": "halted", "SUSPEND": "halted", "CLOSE": "halted", "POST_CLOSE": "halted",
           "NOT_AVAILABLE_FOR_TRADING": "halted"}  # fmt: skip
_ACTIONS = {int(action): action.name for action in databento_dbn.StatusAction.variants()}
_REASONS = {int(reason): reason.name for reason in databento_dbn.StatusReason.variants()}


def read_status(action: int, reason: int, trading: int) -> tuple[str | None, str]:
    """Return the state of trading (None: nothing is said of it), and the venue's reasons. Raises BadEvent."""
    name = _ACTIONS.get(action, "")
    state = _STATES.get(name)
    if trading == ord("Y"):
        state = "online"
    elif trading == ord("N"):
        state = state if state in {"halted", "auction"} else "halted"
    elif trading != ord("~"):
        raise BadEvent("bad_status", "is_trading", trading)
    why = _REASONS.get(reason, "NONE")
    return state, name.lower() if why == "NONE" else f"{name.lower()}: {why.lower()}"


def read_definition(record: Any, before: Instrument, prices: dbn.Prices) -> dict[str, Any]:
    """Return the fields of Instrument that a definition has."""

    def size_of(value: int) -> str | None:
        """Return a value in units of 1e-9, None where there is none."""
        return prices.text(value) if 0 < value < dbn.UNDEF_PRICE else None

    kind = _KINDS.get(letter(record.instrument_class), before.kind)
    tick = record.min_price_increment
    # Spreads and options trade off their own tick, and some contracts have several.
    regular = letter(record.instrument_class) == "F" and record.tick_rule in {None, 0, 255}
    return {
        "base_currency": record.asset or before.base_currency,
        "quote_currency": record.currency or before.quote_currency,
        "tick_size": prices.text(tick) if regular and 0 < tick < dbn.UNDEF_PRICE else None,
        "status": "delisted" if letter(record.security_update_action) == "D" else before.status,
        "kind": kind,
        "expiry": record.expiration if 0 < record.expiration <= dbn.INT64_MAX else None,
        "strike": size_of(record.strike_price) if kind == "option" else None,
        "contract_multiplier": size_of(record.unit_of_measure_qty),
        "settlement_currency": record.settl_currency or None,
    }


def letter(value: Any) -> str:
    """Return the letter of one of the codec's enums, which it also gives as plain text where it does not know it."""
    return str(getattr(value, "value", value))

"""Databento's records: their lengths, and those kinds that the codec reads because they differ between versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import databento_dbn

from marketdata import dbn
from marketdata.errors import BadEvent

# Kinds that differ from version to version, and their bytes in each.
CHANGED = {
    dbn.DEFINITION: {1: 360, 2: 400, 3: 520},
    dbn.SYMBOL_MAPPING: {1: 80, 2: 176, 3: 176},
    dbn.SYSTEM: {1: 80, 2: 320, 3: 320},
    dbn.ERROR: {1: 80, 2: 320, 3: 320},
}
# The gateway adds its own time to each record where it was asked to.
_TS_OUT_BYTES = 8


class Records:
    """Reads the records of one connection or file; its metadata name the version."""

    def __init__(self) -> None:
        self.version = databento_dbn.DBN_VERSION
        self.ts_out = False

    def check_length(self, kind: int, size: int) -> None:
        """Raise BadEvent for a length that no record of this kind has."""
        expected = dbn.SIZES.get(kind)
        if expected is not None and size not in {expected, expected + _TS_OUT_BYTES}:
            raise BadEvent("bad_length", "length", size)
        if kind not in CHANGED:
            return
        known = CHANGED[kind].get(self.version)
        if known is None or size != known + self.ts_out * _TS_OUT_BYTES:
            raise BadEvent("bad_record" if known is None else "bad_length", "length", size)

    def decoded(self, frame: bytes, at: int) -> Any:
        """Return a record of a kind that changed over the versions, as the newest has it. Raises BadEvent."""
        data = frame[at : at + frame[at] * dbn.WORD]
        # A new one each time: what met bad bytes is of no use for the next.
        decoder = databento_dbn.DBNDecoder(
            has_metadata=False, ts_out=self.ts_out, input_version=self.version, upgrade_policy=dbn.UPGRADED
        )
        found = decoder.write_and_decode(data)
        if not found:
            raise BadEvent("bad_record", "length", len(data))
        return found[0]


def reading(take: Callable[[], None]) -> None:
    """Read a record of a kind that changed. Raises BadEvent: the codec reads texts and enums on first use."""
    try:
        take()
    except (databento_dbn.DBNError, AttributeError, OverflowError, TypeError, ValueError) as error:
        raise BadEvent("bad_record", "record", error) from None


def time_of(ts: int) -> int:
    """Return a time of a record, UTC nanoseconds. Raises BadEvent where it has none."""
    if ts > dbn.INT64_MAX:
        raise BadEvent("bad_time", "ts_recv", ts)
    return ts


def code_of(record: Any) -> int | None:
    """Return the code of a message of the gateway's; the first version had none."""
    code = getattr(record, "code", None)
    return None if code is None else int(code)

"""What is suggested for a symbol that nobody trades."""

from __future__ import annotations

from api.core.suggestions import suggestions

KNOWN = [f"{first}{second}{third}-USD" for first in "ABCDE" for second in "FGHIJ" for third in "KLMNO"] + ["BTC-USD"]


def test_the_nearest_symbols_are_suggested_best_first() -> None:
    """Whatever the case; nothing where nothing is alike, and a text of any length is an answer's worth of work."""
    assert suggestions("btc-usdd", KNOWN)[0] == "BTC-USD"
    assert suggestions("AFK-USD", KNOWN, 2)[0] == "AFK-USD"
    assert len(suggestions("AFX-USD", KNOWN)) == 3
    assert suggestions("", KNOWN) == []
    assert suggestions("zzzzzz", KNOWN) == []
    assert suggestions("Z" * 100_000, KNOWN) == []

"""What a stream is about."""

from __future__ import annotations

import msgspec

from api.core.consolidated import Product


class StreamKey(msgspec.Struct, frozen=True):
    """One channel of one symbol; `variant` is a book's depth, a candle's interval or a consolidated instrument."""

    channel: str
    venue: str
    symbol: str
    variant: int | str | Product = 0

    @property
    def depth(self) -> int:
        """The depth of a book's stream."""
        assert isinstance(self.variant, int)  # noqa: S101 - for the type checker: its variant
        return self.variant

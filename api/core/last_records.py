"""The last record of each key of several topics; of bars by recipe, which are many, only the newest of an interval."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from confluent_kafka import Message

from api.core.market import CANDLES_MAX
from api.core.symbol_state import INTERVALS

_ALWAYS_MADE = frozenset(name.encode() for name in INTERVALS)


class LastRecords:
    """Records by topic and key; `candles` is the name of the topic whose keys are `venue:symbol|interval|start...`."""

    def __init__(self, candles: str) -> None:
        self._candles = candles
        self._last: dict[tuple[str, bytes], Message] = {}
        self._bars: dict[bytes, deque[bytes]] = {}

    def add(self, message: Message) -> None:
        """Take the next record."""
        topic, key = str(message.topic()), message.key() or b""
        if topic == self._candles and (topic, key) not in self._last:
            self._forget_bar(key)
        self._last[topic, key] = message

    def messages(self) -> Iterator[Message]:
        """Yield the records that are not tombstones."""
        return (message for message in self._last.values() if message.value() is not None)

    def _forget_bar(self, key: bytes) -> None:
        """Make room for a bar by recipe that is new."""
        symbol, _, rest = key.partition(b"|")
        interval = rest.partition(b"|")[0]
        if interval in _ALWAYS_MADE:
            return
        kept = self._bars.setdefault(symbol + b"|" + interval, deque())
        if len(kept) >= CANDLES_MAX:
            self._last.pop((self._candles, kept.popleft()), None)
        kept.append(key)

"""The messages of a FIX session that came too early, held until the missing ones before them are here. Bounded."""

from __future__ import annotations

from collections.abc import Iterator

from marketdata.fix.codec import Message

HELD_MAX = 10_000
HELD_BYTES_MAX = 64 * 1024 * 1024


class Held:
    """Messages by their sequence numbers (34)."""

    __slots__ = ("_bytes", "_messages")

    def __init__(self) -> None:
        self._messages: dict[int, Message] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def __contains__(self, number: int) -> bool:
        return number in self._messages

    def __iter__(self) -> Iterator[int]:
        return iter(self._messages)

    def is_full(self, message: Message) -> bool:
        """Return whether there is no room for another message."""
        return len(self._messages) >= HELD_MAX or self._bytes + len(message.frame) > HELD_BYTES_MAX

    def add(self, number: int, message: Message) -> None:
        """Hold a message."""
        self._messages[number] = message
        self._bytes += len(message.frame)

    def take(self, number: int) -> Message | None:
        """Remove and return the message of a number; None where it is not held."""
        message = self._messages.pop(number, None)
        if message is not None:
            self._bytes -= len(message.frame)
        return message

    def first(self) -> int:
        """Return the lowest number that is held; there must be one."""
        return min(self._messages)

    def clear(self) -> None:
        """Forget all of them."""
        self._messages.clear()
        self._bytes = 0

"""A compact set of 16-byte keys in plain Python."""

from __future__ import annotations

KEY_BYTES = 16
_EMPTY = bytes(KEY_BYTES)


class KeySet:
    """A set of 16-byte keys in one table of bytes, at most half full: 32 to 64 bytes a key, 16 when packed.

    The table uses open addressing: a key is in the first free slot from its hash on. All zeros is an empty slot and no
    key. The position of a key in the table affects no result.
    """

    __slots__ = ("_mask", "_packed", "_table", "count")

    def __init__(self) -> None:
        self.count = 0
        self._packed: bytes | None = None
        self._mask = 7
        self._table = bytearray(8 * KEY_BYTES)

    def __len__(self) -> int:
        return self.count

    def __contains__(self, key: bytes) -> bool:
        start = self._slot(key)
        return self._table[start : start + KEY_BYTES] == key

    def _slot(self, key: bytes) -> int:
        """Return the slot of a key, or the empty slot where it belongs."""
        table, mask = self._table, self._mask
        at = hash(key) & mask
        while True:
            start = at * KEY_BYTES
            found = table[start : start + KEY_BYTES]
            if found in (key, _EMPTY):
                return start
            at = (at + 1) & mask

    def add(self, key: bytes) -> None:
        """Add a key; adding it again changes nothing."""
        start = self._slot(key)
        table = self._table
        if table[start : start + KEY_BYTES] == key:
            return
        table[start : start + KEY_BYTES] = key
        self.count += 1
        self._packed = None
        if 2 * self.count > self._mask:
            self._fill(self._keys(), 2 * (self._mask + 1))

    def _keys(self) -> list[bytes]:
        table = bytes(self._table)
        keys = [table[start : start + KEY_BYTES] for start in range(0, len(table), KEY_BYTES)]
        return [key for key in keys if key != _EMPTY]

    def _fill(self, keys: list[bytes], slots: int) -> None:
        self._mask = slots - 1
        self._table = bytearray(slots * KEY_BYTES)
        for key in keys:
            start = self._slot(key)
            self._table[start : start + KEY_BYTES] = key
        self.count = len(keys)

    def pack(self) -> bytes:
        """Return the sorted keys, concatenated."""
        if self._packed is None:  # an old generation no longer changes and is packed once
            self._packed = b"".join(sorted(self._keys()))
        return self._packed

    @classmethod
    def unpack(cls, packed: bytes) -> KeySet:
        """Return the set that `pack` encoded. Raises ValueError for anything else."""
        keys = [packed[start : start + KEY_BYTES] for start in range(0, len(packed), KEY_BYTES)]
        if len(packed) % KEY_BYTES or _EMPTY in keys:
            raise ValueError("a set of keys has 16 bytes for each, and none of zeros only")
        found = cls()
        slots = 8
        while 2 * len(keys) >= slots:
            slots *= 2
        found._fill(keys, slots)
        return found

"""The partition of a key as Kafka's Java client and our producers choose it, for records that change their key.

The hash is Kafka's own variant of MurmurHash2 with its seed:
https://github.com/apache/kafka/blob/4.0/clients/src/main/java/org/apache/kafka/common/utils/Utils.java (murmur2).
"""

from __future__ import annotations

from functools import lru_cache

_SEED = 0x9747B28C
_M = 0x5BD1E995
_R = 24
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key among so many."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    length = len(data)
    found = _SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        part = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        part ^= part >> _R
        found = (found * _M & _MASK) ^ (part * _M & _MASK)
    if whole < length:
        found = (found ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    found ^= found >> 13
    found = found * _M & _MASK
    return found ^ found >> 15

"""The partition of a key is the one that Kafka's own clients choose."""

from __future__ import annotations

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from marketdata.partitions import partition_of


@given(key=st.binary(max_size=40), partitions=st.integers(1, 1_000))
def test_the_partition_equals_that_of_an_independent_client(key: bytes, partitions: int) -> None:
    """The port of Kafka's hash in aiokafka gives the same."""
    assert partition_of(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


def test_keys_whose_partition_kafka_documents_in_its_tests() -> None:
    """From UtilsTest.testMurmur2 of Kafka: the hashes of `21` and `foobar` as signed integers."""
    for key, signed in ((b"21", -973932308), (b"foobar", -790332482)):
        assert partition_of(key, 1 << 31) == signed & 0x7FFFFFFF

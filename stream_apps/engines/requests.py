"""The four Kafka requests of a transaction, in the versions of the second transaction protocol (KIP-890).

No Kafka client for Python speaks these versions yet. With them a partition and a group join a transaction with the
first record or offset that is written, and the end of a transaction gives the producer a new epoch, so that a late
request of an earlier transaction is refused. Field by field they follow
https://kafka.apache.org/protocol.html; aiokafka sends them.
"""

from __future__ import annotations

from io import BytesIO

from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.api import RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

_TEXT = CompactString()
_TAGS = ("tags", TaggedFields)


def _by_topic(*fields: tuple[str, object]) -> tuple[str, CompactArray]:
    """Return the field `topics`: by topic and partition, what these fields hold."""
    partitions = CompactArray(("partition", Int32), *fields, _TAGS)
    return ("topics", CompactArray(("topic", _TEXT), ("partitions", partitions), _TAGS))


# A response that gives a producer its id and epoch.
_PRODUCER = Schema(
    ("throttle_time_ms", Int32), ("error_code", Int16), ("producer_id", Int64), ("producer_epoch", Int16), _TAGS
)


class InitProducerIdResponse(Response):  # type: ignore[misc]  # aiokafka is not typed
    """A producer's id and its epoch."""

    API_KEY = 22
    API_VERSION = 4
    SCHEMA = _PRODUCER


class InitProducerIdRequest(RequestStruct):  # type: ignore[misc]  # aiokafka is not typed
    """Fence every earlier producer of a transactional id, and end what it left open."""

    FLEXIBLE_VERSION = True
    API_KEY = 22
    API_VERSION = 4
    RESPONSE_TYPE = InitProducerIdResponse
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("transaction_timeout_ms", Int32),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        _TAGS,
    )


class ProduceResponse(Response):  # type: ignore[misc]  # aiokafka is not typed
    """By topic and partition an error code, 0 for none."""

    API_KEY = 0
    API_VERSION = 12
    SCHEMA = Schema(
        _by_topic(
            ("error_code", Int16),
            ("base_offset", Int64),
            ("log_append_time_ms", Int64),
            ("log_start_offset", Int64),
            ("record_errors", CompactArray(("index", Int32), ("message", _TEXT), _TAGS)),
            ("error_message", _TEXT),
        ),
        ("throttle_time_ms", Int32),
        _TAGS,
    )


class ProduceRequest(RequestStruct):  # type: ignore[misc]  # aiokafka is not typed
    """Append record batches to partitions."""

    FLEXIBLE_VERSION = True
    API_KEY = 0
    API_VERSION = 12
    RESPONSE_TYPE = ProduceResponse
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("required_acks", Int16),
        ("timeout_ms", Int32),
        _by_topic(("records", CompactBytes)),
        _TAGS,
    )


class TxnOffsetCommitResponse(Response):  # type: ignore[misc]  # aiokafka is not typed
    """By topic and partition an error code, 0 for none."""

    API_KEY = 28
    API_VERSION = 5
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        _by_topic(("error_code", Int16)),
        _TAGS,
    )


class TxnOffsetCommitRequest(RequestStruct):  # type: ignore[misc]  # aiokafka is not typed
    """Add a group's offsets to a transaction, as one of the group's members."""

    FLEXIBLE_VERSION = True
    API_KEY = 28
    API_VERSION = 5
    RESPONSE_TYPE = TxnOffsetCommitResponse
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("group", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation", Int32),
        ("member", _TEXT),
        ("instance", _TEXT),
        _by_topic(("offset", Int64), ("leader_epoch", Int32), ("metadata", _TEXT)),
        _TAGS,
    )


class EndTxnResponse(Response):  # type: ignore[misc]  # aiokafka is not typed
    """The producer's id and epoch for the next transaction."""

    API_KEY = 26
    API_VERSION = 5
    SCHEMA = _PRODUCER


class EndTxnRequest(RequestStruct):  # type: ignore[misc]  # aiokafka is not typed
    """Commit a transaction, or abort it."""

    FLEXIBLE_VERSION = True
    API_KEY = 26
    API_VERSION = 5
    RESPONSE_TYPE = EndTxnResponse
    SCHEMA = Schema(
        ("transactional_id", _TEXT), ("producer_id", Int64), ("producer_epoch", Int16), ("committed", Boolean), _TAGS
    )


class ApiVersionsResponse(Response):  # type: ignore[misc]  # aiokafka is not typed
    """What a broker supports; tag 2 holds the features of the cluster and their levels."""

    API_KEY = 18
    API_VERSION = 3
    SCHEMA = Schema(
        ("error_code", Int16),
        ("api_keys", CompactArray(("api_key", Int16), ("min_version", Int16), ("max_version", Int16), _TAGS)),
        ("throttle_time_ms", Int32),
        _TAGS,
    )

    def feature(self, name: str) -> int:
        """Return the level that the cluster uses of a feature, 0 where it has none."""
        tags: dict[int, bytes] = self.tags
        levels = _FEATURES.decode(BytesIO(tags[_FEATURES_TAG])) if _FEATURES_TAG in tags else None
        return next((level for found, level, *_ in levels or () if found == name), 0)


_FEATURES_TAG = 2
_FEATURES = CompactArray(("name", _TEXT), ("max_level", Int16), ("min_level", Int16), _TAGS)


class ApiVersionsRequest(RequestStruct):  # type: ignore[misc]  # aiokafka is not typed
    """Ask a broker what it supports."""

    FLEXIBLE_VERSION = True
    API_KEY = 18
    API_VERSION = 3
    RESPONSE_TYPE = ApiVersionsResponse
    SCHEMA = Schema(("client_name", _TEXT), ("client_version", _TEXT), _TAGS)

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> ResponseHeader_v0:
        """Read the old header, which this response has in every version."""
        return ResponseHeader_v0.decode(read_buffer)


class Prepared:
    """A request in its one version, for aiokafka's client. Raises IncompatibleBrokerVersion for an older broker."""

    def __init__(self, request: RequestStruct) -> None:
        self._request = request

    def prepare(self, versions: dict[int, tuple[int, int]]) -> RequestStruct:
        """Return the request, if the broker knows this version of it."""
        first, last = versions.get(self._request.API_KEY, (0, -1))
        if not first <= self._request.API_VERSION <= last:
            raise IncompatibleBrokerVersion(
                f"{type(self._request).__name__} is needed in version {self._request.API_VERSION}; the broker knows "
                f"{first} to {last}"
            )
        return self._request

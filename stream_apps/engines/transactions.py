"""One partition's transactional producer: a batch is written atomically, and only by the partition's owner.

Theory of operation.

1. The transactional id names the partition. Whoever initialises it fences every earlier producer of that id and ends
   the transaction that it left open, so a new owner reads commits that nobody can change any more.
2. Every transaction contains the offsets of its batch. Kafka refuses them from a worker that is no longer a member of
   the group, and with them the whole transaction.
3. A transaction whose outcome is not known, or that failed in any way, is the end of the producer (`Failed`): the
   owner opens a new one, and finds out by the committed offsets what happened.
4. A commit that needed more than one try may leave a late request in the network, which an older transaction protocol
   would apply to the next transaction (https://cwiki.apache.org/confluence/x/B4nGDQ, KIP-890). Where the connection had
   trouble during a transaction, the producer is replaced before the next one (`is_doubtful`): its id gets a new epoch,
   and the broker refuses what comes late.
5. For the same reason no call is made twice. A request for offsets that timed out, and came to the broker after the
   second one and the commit, would leave outputs committed and offsets pending: a partly committed transaction. So the
   limits are longer than any pause that is expected, a call that exceeds one is a failure, and a transaction whose
   connection had trouble before its commit is not committed.
"""

from __future__ import annotations

from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from marketdata.errors import TickstreamError, Unavailable
from runtime.kafka import LOG, producer_config
from stream_apps.pipeline import Batch
from stream_apps.settings import GROUP, StreamSettings

# A worker that dies leaves its transaction open for this long when nobody takes over its partitions.
TRANSACTION_SECONDS = 10
INIT_SECONDS = 10.0
COMMIT_SECONDS = 30.0


_log = structlog.get_logger(__name__)


class Failed(TickstreamError):  # noqa: N818 - named for what happened
    """A transaction failed, or its outcome is unknown: close this producer, recover, and continue with a new one.

    `is_fenced` says that another worker has the partition, or that the group no longer knows this one.
    """

    def __init__(self, detail: str, *, is_fenced: bool = False) -> None:
        self.is_fenced = is_fenced
        super().__init__(detail)


class _ClientLog:
    """Passes the client's log messages on, and counts those about requests that may have been lost on their way.

    librdkafka repeats such requests by itself, and reports them nowhere else.
    """

    def __init__(self) -> None:
        self.losses = 0

    def log(self, level: int, form: str, *args: str) -> None:
        """Take one message: the facility, the client's name and the text."""
        facility, _, text = args
        if facility == "REQTMOUT" or (facility == "FAIL" and "in state UP" in text):
            self.losses += 1
        LOG.log(level, form, *args)


class Transactions:
    """The producer of one partition number. `begin` and `commit` alternate; `commit` may run on another thread."""

    def __init__(self, settings: StreamSettings, partition: int) -> None:
        """Open the producer, which fences every earlier one of this partition.

        Raises Unavailable when Kafka does not answer.
        """
        self.partition = partition
        self._errors = 0
        self._client_log = _ClientLog()
        self._trouble_before = 0
        config = producer_config(settings, f"tickstream-pipeline-{partition}")
        config.pop("message.timeout.ms")  # a transaction's own time limit takes its place
        config |= {
            "transactional.id": f"{settings.group_prefix}{GROUP}-{partition}",
            "transaction.timeout.ms": TRANSACTION_SECONDS * 1_000,
            # A batch is bounded already, and must never be cut in two by a full queue.
            "queue.buffering.max.messages": 0,
            "queue.buffering.max.kbytes": 2**31 - 1,
            "linger.ms": 0,
            # The broker refuses a transaction's first requests until it has marked the end of the one before, which
            # takes it milliseconds; the default pause of 100 ms before the next try would be most of the latency.
            "retry.backoff.ms": 5,
            "retry.backoff.max.ms": 100,
            "error_cb": self._erred,
            "logger": self._client_log,
        }
        try:
            self._producer = Producer(config)
            self._producer.init_transactions(INIT_SECONDS)
        except KafkaException as error:
            raise Unavailable(f"no transactions for partition {partition}: {error.args[0]}") from error

    def _erred(self, error: KafkaError) -> None:
        self._errors += 1
        _log.warning("kafka", partition=self.partition, code=error.name(), reason=error.str())

    @property
    def is_doubtful(self) -> bool:
        """Whether the connection had trouble since the last transaction began: replace the producer."""
        self._poll()
        return self._trouble != self._trouble_before

    @property
    def _trouble(self) -> int:
        return self._errors + self._client_log.losses

    def begin(self, batch: Batch) -> None:
        """Open a transaction and hand the batch's outputs to the client, in order.

        Raises Failed.
        """
        producer, partition = self._producer, self.partition
        self._trouble_before = self._trouble
        try:
            producer.begin_transaction()
            produce = producer.produce
            for output in batch.outputs:
                produce(output.topic, output.value, output.key, partition, headers=output.headers)
        except (KafkaException, BufferError) as error:
            raise _failed("begin", error) from error

    def commit(self, batch: Batch, group: Any) -> None:
        """Commit outputs and offsets, for the member of the consumer group that `group` describes.

        Raises Failed.
        """
        offsets = [
            TopicPartition(topic, self.partition, offset, metadata)
            for topic, (offset, metadata) in batch.offsets.items()
        ]
        step = "offsets"
        try:
            self._producer.send_offsets_to_transaction(offsets, group, COMMIT_SECONDS)
            if self.is_doubtful:
                raise Failed("the connection had trouble before the commit")
            step = "commit"
            self._producer.commit_transaction(COMMIT_SECONDS)
        except KafkaException as error:
            raise _failed(step, error) from error

    def close(self) -> None:
        """Close it: the next producer of this id aborts an open transaction, or Kafka does after its time limit."""
        self._producer.purge()
        self._poll()

    def _poll(self) -> None:
        """Let the client report; it raises what it calls fatal, such as that a newer producer fenced this one."""
        try:
            self._producer.poll(0)
        except KafkaException:
            self._errors += 1


def _failed(step: str, error: Exception) -> Failed:
    kafka = error.args[0] if error.args and isinstance(error.args[0], KafkaError) else None
    is_fenced = kafka is not None and kafka.code() in {
        KafkaError._FENCED,  # noqa: SLF001 - its public name
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.FENCED_INSTANCE_ID,
    }
    return Failed(f"{step}: {kafka.name()}: {kafka.str()}" if kafka else f"{step}: {error}", is_fenced=is_fenced)

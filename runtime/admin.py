"""Compares the declared topics with the existing ones, and applies the differences."""

from __future__ import annotations

from typing import Any

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from marketdata.errors import Unavailable
from marketdata.topics import HOUR_MS, TOPICS, Topic
from runtime.settings import CommonSettings

_TIMEOUT_S = 15.0


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between a declared and an existing topic; `action` is create, set or refuse."""

    topic: str
    action: str
    detail: str
    name: str = ""
    value: str = ""


def _wait(futures: dict[Any, Any]) -> dict[Any, Any]:
    return {key: future.result(_TIMEOUT_S) for key, future in futures.items()}


class TopicAdmin:
    """Compares and applies the declared topics on one Kafka, under one prefix."""

    def __init__(self, settings: CommonSettings) -> None:
        self._settings = settings
        self._prefix = settings.topic_prefix
        self._brokers = settings.kafka_brokers
        self._client = AdminClient({"bootstrap.servers": settings.kafka_brokers, "client.id": "tickstream-admin"})

    def diff(self, topics: tuple[Topic, ...] = TOPICS) -> list[Change]:
        """Return the changes that `apply` would make, in order.

        Raises Unavailable when Kafka does not respond.
        """
        try:
            existing = self._client.list_topics(timeout=_TIMEOUT_S).topics
            missing = [topic for topic in topics if topic.physical(self._prefix) not in existing]
            present = [topic for topic in topics if topic.physical(self._prefix) in existing]
            changes = [self._creation(topic) for topic in missing]
            for topic in present:
                changes += self._partition_changes(topic, len(existing[topic.physical(self._prefix)].partitions))
            return changes + self._config_changes(present)
        except KafkaException as error:
            raise Unavailable(f"Kafka at {self._brokers} does not respond: {error.args[0]}") from error

    def _creation(self, topic: Topic) -> Change:
        kept = f"kept for {topic.retention_ms / HOUR_MS:g} h{', compacted' if topic.compacted else ''}"
        return Change(topic=topic.name, action="create", detail=f"{self._settings.partitions} partitions, {kept}")

    def _partition_changes(self, topic: Topic, now: int) -> list[Change]:
        wanted = self._settings.partitions
        if now == wanted:
            return []
        # Kafka cannot remove partitions, and new ones would move keys and break their order, so an operator must
        # decide.
        detail = (
            f"has {now} partitions, TICKSTREAM_PARTITIONS is {wanted}; this is not changed on existing topics: set "
            f"TICKSTREAM_PARTITIONS={now}, or delete and re-create the topics"
        )
        return [Change(topic=topic.name, action="refuse", detail=detail)]

    def _config_changes(self, topics: list[Topic]) -> list[Change]:
        if not topics:
            return []
        resources = {ConfigResource(ResourceType.TOPIC, topic.physical(self._prefix)): topic for topic in topics}
        changes = []
        for resource, entries in _wait(self._client.describe_configs(list(resources))).items():
            topic = resources[resource]
            for name, value in self._config(topic).items():
                now = entries[name].value if name in entries else None
                if now != value:
                    detail = f"{name}: {now} -> {value}"
                    changes.append(Change(topic=topic.name, action="set", detail=detail, name=name, value=value))
        return changes

    def apply(self, topics: tuple[Topic, ...] = TOPICS) -> list[Change]:
        """Create missing topics and set settings that differ; return the changes.

        A change with action `refuse` was not made, because an operator must decide on it. Raises Unavailable when Kafka
        does not respond.
        """
        changes = self.diff(topics)
        declared = {topic.name: topic for topic in topics}
        try:
            new = [declared[change.topic] for change in changes if change.action == "create"]
            if new:
                _wait(self._client.create_topics([self._new_topic(topic) for topic in new]))
            self._set_configs([change for change in changes if change.action == "set"], declared)
        except KafkaException as error:
            raise Unavailable(f"Kafka at {self._brokers} refuses: {error.args[0]}") from error
        return changes

    def _new_topic(self, topic: Topic) -> NewTopic:
        return NewTopic(
            topic.physical(self._prefix),
            num_partitions=self._settings.partitions,
            replication_factor=self._settings.replication_factor,
            config=self._config(topic),
        )

    def _config(self, topic: Topic) -> dict[str, str]:
        """Return the topic's Kafka settings, including the cluster-wide ones."""
        replicas = self._settings.min_insync_replicas
        return topic.config() | ({} if replicas is None else {"min.insync.replicas": str(replicas)})

    def _set_configs(self, changes: list[Change], declared: dict[str, Topic]) -> None:
        by_topic: dict[str, list[ConfigEntry]] = {}
        for change in changes:
            entry = ConfigEntry(change.name, change.value, incremental_operation=AlterConfigOpType.SET)
            by_topic.setdefault(declared[change.topic].physical(self._prefix), []).append(entry)
        resources = [
            ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries) for name, entries in by_topic.items()
        ]
        if resources:
            _wait(self._client.incremental_alter_configs(resources))

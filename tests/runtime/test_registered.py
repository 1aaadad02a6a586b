"""The schemas in a real registry: both kinds of subject, one id, FULL_TRANSITIVE."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from fastavro.schema import to_parsing_canonical_form

from marketdata import schemas
from marketdata.errors import CodecError, UnknownSchema
from marketdata.events import EVENTS
from runtime import registry as client
from runtime.registry import Registry


@pytest.fixture
def registry(endpoints: Any) -> Iterator[Registry]:
    """A client of the test stack's registry."""
    made = Registry(endpoints.registry_url)
    yield made
    made.close()


def test_every_topic_has_a_value_subject_with_the_id_of_its_record(registry: Registry) -> None:
    """Kafka Connect, ksqlDB and plain consumers find the schema by topic, ours by record name: the same id."""
    for event in EVENTS:
        schema_id = registry.register(event.schema)
        subjects = schemas.subjects(event.schema)
        assert subjects[0] == f"tickstream.md.{event.schema}"
        assert len(subjects) > 1, "every record has a topic"
        assert {registry.lookup(event.schema, subject) for subject in subjects} == {schema_id}
        assert {registry.compatibility(subject) for subject in subjects} == {client.COMPATIBILITY}
        # To the registry a schema is the same when only its docs differ, and the test stack may be older.
        fetched, ours = registry.fetch(schema_id), schemas.load(event.schema)
        assert to_parsing_canonical_form(fetched) == to_parsing_canonical_form(ours)
    assert "md.trades.v1-value" in schemas.subjects("Trades")
    assert "md.ingest.trades.v1-value" in schemas.subjects("Trades")


def test_an_incompatible_schema_is_refused_by_subject(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field without a default cannot be added."""
    registry.register("Anomaly")
    changed = copy.deepcopy(schemas.load("Anomaly"))
    changed["fields"].append({"name": "added", "type": "string"})
    monkeypatch.setattr(schemas, "load", lambda _: changed)
    with pytest.raises(CodecError, match=r"anomaly.avsc is not FULL_TRANSITIVE compatible .*tickstream.md.Anomaly"):
        registry.register("Anomaly")
    with pytest.raises(UnknownSchema, match="schemas register"):
        registry.lookup("Anomaly")

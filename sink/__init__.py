"""The sink: stores Kafka topics in TimescaleDB, exactly once."""

"""The sink: Kafka topics into TimescaleDB, exactly once."""

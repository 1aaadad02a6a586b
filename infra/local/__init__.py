"""The embedded stack: Kafka, registry, TimescaleDB, Redis and a supervisor, with Python and Debian packages only."""

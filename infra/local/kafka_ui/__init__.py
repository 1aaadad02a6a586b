"""The Kafka UI: kaskade in a browser, run in an environment of its own."""

"""The live shell: connections to venues, and what they publish to Kafka."""

"""Producers: venue feeds, and the shell that writes what they say to Kafka."""

"""The shared vocabulary of market data: events, codec, topics, books and errors, with no I/O."""

"""The state of the markets: what the topics said last, without a socket or a database."""

"""A simulated Coinbase Advanced Trade, with a matching engine and a record of the truth."""

# The venue whose protocol it uses.
VENUE = "coinbase"

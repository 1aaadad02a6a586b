"""Recordings, played over real sockets in the venues' own protocols."""

# Venues whose recordings a server of their own protocol plays over TCP.
TCP_VENUES = frozenset({"databento", "fix"})

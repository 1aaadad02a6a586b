"""Recordings, played over real sockets in the venues' own protocols."""

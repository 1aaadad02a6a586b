"""The simulated exchange and the replay server."""

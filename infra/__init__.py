"""What the platform runs on: the embedded stack, the simulated exchange and replay server, deployment files."""

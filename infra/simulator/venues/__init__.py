"""Simulated venues: servers that use the documented protocols of real ones."""

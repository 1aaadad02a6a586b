"""Clients for other teams."""

"""Databento's live gateway, simulated: its protocol, and a market of many instruments behind it."""

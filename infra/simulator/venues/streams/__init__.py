"""Simulated streams of many symbols: each venue's subscription protocol with its documented limits and refusals."""

"""Simulated FIX venues: ours, and one on QuickFIX/J."""

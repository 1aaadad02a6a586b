"""Random faults of the whole platform under load, and what it published compared with the exchange's own record."""

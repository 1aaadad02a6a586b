"""A simulated Alpaca: its stock stream and its REST history."""

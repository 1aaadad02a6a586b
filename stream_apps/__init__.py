"""Stream apps: validate, de-duplicate, build books and candles, flag anomalies."""

"""What the venues' feeds are made of: small pure parts that a feed puts together; none knows a venue."""

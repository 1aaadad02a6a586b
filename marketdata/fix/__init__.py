"""The FIX protocol, pure: message encoding, and sessions with sequence numbers and resends, for either side."""

"""The FIX protocol, pure: messages as bytes, and the session that numbers and repairs them, for either side."""

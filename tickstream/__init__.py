"""The command line of Tickstream."""

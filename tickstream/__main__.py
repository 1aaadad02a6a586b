"""`python -m tickstream` is the command `tickstream`."""

from tickstream.cli import app

if __name__ == "__main__":
    app()

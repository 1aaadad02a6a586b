"""`python -m tickstream` is the command `tickstream`."""

from tickstream.cli import main

if __name__ == "__main__":
    main()

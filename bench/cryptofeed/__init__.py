"""cryptofeed, measured beside our feeds in an environment of its own."""

"""One module per venue whose history can be asked for; each has `make(access)`."""

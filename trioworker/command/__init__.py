"""The command line: all that a library does not need."""

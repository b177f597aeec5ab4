"""Flow runs as calls of functions, in the worker's own Trio program."""

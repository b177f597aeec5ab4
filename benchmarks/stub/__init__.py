"""A stub of the Prefect API, a program of its own: `python -m benchmarks.stub`."""

"""A run's job configuration: what it consists of, and where that comes from."""

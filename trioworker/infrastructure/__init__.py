"""Where a run runs; knows a run's job configuration, and nothing of the worker."""

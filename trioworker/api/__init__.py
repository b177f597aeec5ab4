"""The Prefect REST API as the worker needs it; knows nothing of workers."""

"""Warm starts: the processes of flow runs are forked from a template in which Prefect is imported already."""

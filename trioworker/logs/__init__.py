"""The worker's log on the command line: formats, and what a `logging.yml` of Prefect's says."""

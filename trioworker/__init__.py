"""Run the flow runs of Prefect work pools from Trio."""

__version__ = "0.1.0"

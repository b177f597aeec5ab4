"""Plain functions as Prefect flows: what a program declares and deploys."""

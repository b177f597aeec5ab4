"""Both workers, Prefect's and this one, measured side by side: `make bench`.

Begin reading at `report/figures.py`, which says what is measured and what is to be reached, or at
`measures/course.py`, which has the order in which that is done. `start_stop.py` and `trio_flows.py` are programs of
their own, about this worker alone.
"""

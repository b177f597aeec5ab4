"""Both workers, Prefect's and this one, measured side by side: `make bench`.

Begin reading at `report/figures.py`, which says what is measured and what is to be reached, or at
`measures/course.py`, which has the order in which that is done. `faults/` is a program of its own, about what becomes
of runs when something goes wrong; so are `start_stop.py` and `trio_flows.py`, about this worker alone.
"""

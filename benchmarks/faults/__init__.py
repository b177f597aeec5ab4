"""The same ten real faults for Prefect's worker and for this one: `make faults`.

Begin reading at `catalogue.py`, which has the faults, or at `judgement.py`, which says what is right.
"""

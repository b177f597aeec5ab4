"""The program of a template process, which has Prefect imported and forks a child for each flow run.

It is started by the path of `start.py`, in the interpreter of the flow, so it needs nothing but the standard library
and Prefect, and does without what is newer than the oldest Python that Prefect runs on. It does one thing at a time
and has no threads: a process with threads cannot be forked safely. Where there can be no template, the program
executes a single flow run by itself, alone.
"""

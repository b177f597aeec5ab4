"""Simulation: whole lives of workers in virtual time, while everything around them breaks as a seed has it.

An *episode* is one small world: a Prefect server in memory, a machine with processes, a directory of ledgers, and
workers on it, one after the other or two at a time. Faults are drawn from the seed, each with the step at which it
comes. When they are over, the world heals, and after a while everything must be as the promise says:

- every run that was ever claimed is in the end that is true of it;
- what was started for it has begun at most once for each claim, and no two of its processes live at a time;
- no run is offered, nor ended, while its process lives;
- no process, no slot and no entry of a ledger is left over.

The parts, each knowing only those above it:

```
determinism  everything that chance has a part in, from one seed
steps        the steps of a run's life and of a worker's, at which faults come
faults       what can go wrong, and when it does in an episode
machine      processes, their numbers and their boots
engine       what the process of a run does, as Prefect's engine does it
network      one worker's way to the server
ledgers      one worker's way to the disk
incarnation  one worker, behind the fence that falls when it crashes
world        all of them, and how each fault changes it
monitor      what must hold at every moment; judgement: what must hold in the end
episode      one seed from the beginning to the judgement
campaign     many of them, counted
```

`python -m tests.simulation --help` says how to run it.
"""

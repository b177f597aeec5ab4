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

What the promise does not cover, and what is therefore not asked of these runs:

- A run of which no disk knows what its worker knows when that goes, since it keeps no ledger, or the disk has been
  full from then on: it may stay as it is, with its slot and its process; and if it knows of an earlier step, the
  next worker goes by that, and may end or offer a run whose process lives. All that is promised of other runs, of
  slots and of the worker's own end holds as ever.
- A run that somebody schedules anew by force while it is executed: it is executed beside itself.
- A run that is offered by a request that takes effect later than its repetition, when somebody has taken the run: the
  server cannot tell that from a new wish. (A claim that comes late is put back; that of others is not touched.)
- What a process has started, if the process has ended before any worker knew its number.

A request takes effect within 50 seconds or never: a worker looks once more after 60. Of what the flows of two
runs do to each other, nothing is simulated, nor of other machines.

`python -m tests.simulation --help` says how to run it.
"""

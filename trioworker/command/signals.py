"""Signals to a worker on the command line: ask once, twice, three times."""

from __future__ import annotations

import signal

import trio

from trioworker.command.last_resort import LastResort
from trioworker.notices import Notice, Notify, count_runs
from trioworker.worker import Worker

# Seconds that a worker has to report, once it was told to kill its runs.
_ABANDONED = 1.0


def signals_to_stop() -> list[signal.Signals]:
    """The signals that end a worker: SIGTERM, SIGINT, and SIGHUP unless `nohup` or its like keeps it away."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


class SignalListener:
    """The first signal drains the worker, the second stops it, the third kills what it runs and ends it.

    Args:
        notify: told what each signal does.

    Attributes:
        starting: the scope to do everything in; a signal cancels it as long as there is no worker.
        worker: whom the signals are for, once it is there.
        last_resort: told by when the worker ought to be gone, if it serves functions, which need not end.
    """

    def __init__(self, notify: Notify) -> None:
        self.starting: trio.CancelScope = trio.CancelScope()
        self.worker: Worker | None = None
        self.last_resort: LastResort | None = None
        self._notify = notify
        self._received = 0

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled, which must not be before the worker is gone."""
        # Inherited as ignored, it would make the exit status of every run unknowable.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with trio.open_signal_receiver(*signals_to_stop()) as received:
            task_status.started()
            async for number in received:
                self._received += 1
                self._act(signal.Signals(number).name)

    def _act(self, name: str) -> None:
        worker = self.worker
        if worker is None:
            self._say(f"Received {name}: stopping.")
            self.starting.cancel()
        elif self._received == 1:
            self._say(f"Received {name}: {self._what_draining_means(worker)}")
            worker.shutdown()
            self._expect_end(worker.config.stop_bound)
        elif self._received == 2:
            self._say(f"Received {name} again: not waiting any longer.")
            worker.stop()
            self.runs_were_cut_off()
        else:
            self._say(f"Received {name} once more: {self._what_leaving_means(worker)}")
            worker.abandon()
            self._expect_end(_ABANDONED)

    def runs_were_cut_off(self) -> None:
        """Take note that the worker, for whatever reason, has begun to end its runs before their time."""
        if self.worker is not None:
            self._expect_end(self.worker.config.kill_grace + self.worker.config.flush_timeout)

    def _expect_end(self, seconds: float) -> None:
        if self.last_resort is not None:
            self.last_resort.expect_end(seconds)

    def _what_draining_means(self, worker: Worker) -> str:
        if not worker.runs_in_hand:
            return "stopping; no flow run is going on."
        return (
            f"taking no more flow runs, and waiting up to {worker.config.drain_timeout:g} s for"
            f" {count_runs(worker.runs_in_hand)} to end. Send it again to"
            f" {'leave' if worker.config.on_shutdown == 'leave' else 'stop'} them now."
        )

    def _what_leaving_means(self, worker: Worker) -> str:
        runs = count_runs(worker.runs_in_hand)
        if worker.config.flows is None:
            return f"killing {runs} and leaving."
        # A call of a function can be cancelled, but not killed.
        return f"leaving, whether or not {runs} can end."

    def _say(self, message: str) -> None:
        self._notify(Notice(message))

"""What stands between a worker and its world: it falls when the worker crashes, and nothing passes any more."""

from __future__ import annotations

import trio


class DeadError(BaseException):
    """The worker that does this has crashed. No handler of errors may catch it, as none would run."""


class Fence:
    """Lets a worker through as long as it lives, and is not held up.

    Attributes:
        fallen: whether it has crashed.
        has_frozen: whether it was ever held up.
    """

    def __init__(self) -> None:
        self.fallen: bool = False
        self.has_frozen: bool = False
        self._thawed = trio.Event()
        self._thawed.set()

    async def pass_through(self) -> None:
        """Return if the worker lives, once it is not held up.

        Raises:
            DeadError: it does not.
        """
        if not self._thawed.is_set():
            await self._thawed.wait()
        self.check()

    def check(self) -> None:
        """As `pass_through`, for what cannot wait."""
        if self.fallen:
            raise DeadError

    def fall(self) -> None:
        """Let nothing through any more."""
        self.fallen = True
        self._thawed.set()

    def freeze(self) -> None:
        """Hold the worker up, as SIGSTOP does, or a machine that sleeps."""
        if not self.fallen and self._thawed.is_set():
            self.has_frozen = True
            self._thawed = trio.Event()

    def thaw(self) -> None:
        """Let it go on."""
        self._thawed.set()

"""TLS contexts that are ready before they are asked for.

Prefect's clients make half a dozen of them for each flow run, for `http:` too, and each takes 40 ms to read the
certificates of the authorities. Nobody is given one that somebody else has: in each process each is handed out once.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

# As many as the preparation of a workspace or an engine asks for, with a flow that does nothing itself.
_READY = 6


class ReadyContexts:
    """Stands in for `ssl.create_default_context`, and hands out what was made before if it fits.

    Made before Prefect is imported, since that asks for some of them: what it asks for then is made ready.
    """

    def __init__(self) -> None:
        self._make = ssl.create_default_context
        self._authorities: str | None = None
        self._ready: list[ssl.SSLContext] = []

        @functools.wraps(self._make)
        def create_default_context(*purpose: ssl.Purpose, **options: Any) -> ssl.SSLContext:
            return self._create(*purpose, **options)

        ssl.create_default_context = create_default_context

    def _create(self, *purpose: ssl.Purpose, **options: Any) -> ssl.SSLContext:
        """Make a context, or hand out one that is ready."""
        alone = not purpose and list(options) == ["cafile"]
        if not alone:
            return self._make(*purpose, **options)
        if options["cafile"] == self._authorities and self._ready:
            return self._ready.pop()
        self._authorities = self._authorities or options["cafile"]
        return self._make(**options)

    def make_ready(self) -> None:
        """Make the contexts that will be asked for."""
        if self._authorities is not None:
            missing = range(len(self._ready), _READY)
            self._ready += [self._make(cafile=self._authorities) for _ in missing]

    @property
    def authorities(self) -> str | None:
        """The file with the certificates of the authorities."""
        return self._authorities

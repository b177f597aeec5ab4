"""Sees to it that the worker's type is there, by installing the package that brings it where that is wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, Protocol

import attrs
import trio

from trioworker.api.errors import APIError
from trioworker.assembly import refuse_mismatch
from trioworker.command.package_installation import InstallationError, Release, Say
from trioworker.config import WorkerConfig
from trioworker.infrastructure.registry import BUILT_IN, Provider, available_types, find_provider
from trioworker.notices import Notice, Notify
from trioworker.surroundings import Surroundings
from trioworker.work_pool import Discovery, ReadPackages, refuse_agent

InstallPolicy = Literal["always", "if-not-present", "never", "prompt"]


class Installer(Protocol):
    """What `TypeProvision` installs with; `EnvironmentInstaller` is the real one."""

    async def look(self, package: str) -> Release:
        """Find out what a package would bring; `InstallationError` if that cannot be told."""
        ...

    async def install(self, release: Release, *, upgrade: bool, say: Say) -> None:
        """Install a release; `InstallationError` if that fails."""
        ...


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TypeProvision:
    """Installs the package that brings a worker type, as the policy (Prefect's `--install-policy`) says.

    The package is the one that Prefect's registry names for the type or, for a type that is there already, the
    one that brings it. It is installed only if it brings the type to trioworker: what serves Prefect's own worker
    is left alone. Nothing of this can fail the start of a worker; it only says why a type is not there.

    Attributes:
        policy: when to install.
        installer: installs.
        notify: told what is done, and why nothing is.
        confirm: asks a question; None if there is nobody to ask.
    """

    policy: InstallPolicy
    installer: Installer
    notify: Notify
    confirm: Callable[[str], Awaitable[bool]] | None

    @property
    def may_install(self) -> bool:
        """Whether anything can be installed at all: nobody has to be asked, or there is somebody to ask."""
        return self.policy != "never" and (self.policy != "prompt" or self.confirm is not None)

    async def __call__(self, discovery: Discovery, read_packages: ReadPackages) -> Discovery:
        """Install what the worker's type needs, if anything.

        Args:
            discovery: what is known of the work pool; its notices come before those of the installation.
            read_packages: the registry of packages, by type.

        Returns:
            The discovery, without the notices that were given.
        """
        provider = find_provider(discovery.worker_type)
        if not self._concerned(discovery.worker_type, provider):
            return discovery
        for notice in discovery.notices:
            self.notify(notice)
        await self._provide(discovery.worker_type, provider, read_packages)
        return attrs.evolve(discovery, notices=())

    def _concerned(self, worker_type: str, provider: Provider | None) -> bool:
        if self.policy == "never" or worker_type in BUILT_IN:
            return False
        return provider is None or self.policy == "always"

    async def _provide(
        self, worker_type: str, provider: Provider | None, read_packages: ReadPackages
    ) -> None:
        if not self.may_install:
            self._warn("Nothing is installed without asking, and there is no terminal to ask on.")
            return
        package = (
            await self._package_for(worker_type, read_packages) if provider is None else provider.package
        )
        if package is None:
            return
        try:
            release = await self._look(package, worker_type, provider)
            if release is None or not await self._confirmed(release, worker_type):
                return
            self._say(f"Installing {package}...")
            await self.installer.install(release, upgrade=provider is not None, say=self._say)
        except InstallationError as error:
            self._warn(f"{package} was not installed: {error}.")
            return
        if find_provider(worker_type) is None:
            self._warn(f"{package} is installed, but not where this process looks: start the worker again.")

    async def _package_for(self, worker_type: str, read_packages: ReadPackages) -> str | None:
        try:
            packages = await read_packages()
        except APIError as error:
            self._warn(f"The API did not say which package brings worker type {worker_type!r}: {error}")
            return None
        if worker_type not in packages:
            self._warn(f"Could not find a package for worker type {worker_type!r}.")
            return None
        return packages[worker_type]

    async def _look(self, package: str, worker_type: str, provider: Provider | None) -> Release | None:
        """Look at the newest release; None if it would not help."""
        self._say(f"Looking whether {package} brings worker type {worker_type!r} to trioworker...")
        release = await self.installer.look(package)
        if worker_type in release.kinds:
            return release
        found = f"{package} {release.version}"
        if provider is None:
            self._warn(
                f"Not installed: {found} serves Prefect's own worker; it brings no {worker_type!r} kind for"
                " trioworker."
            )
        else:
            self._warn(
                f"Not installed: {found} no longer brings the {worker_type!r} kind; {provider.version} stays."
            )
        return None

    async def _confirmed(self, release: Release, worker_type: str) -> bool:
        if self.policy != "prompt" or self.confirm is None:
            return True
        return await self.confirm(
            f"The {worker_type} worker is not in the current environment."
            f" Install {release.package} {release.version}, which brings it, now?"
        )

    def _say(self, message: str) -> None:
        self.notify(Notice(message))

    def _warn(self, message: str) -> None:
        self.notify(Notice(message, warning=True))


async def refuse_type_without_server(
    config: WorkerConfig, surroundings: Surroundings, provision: TypeProvision
) -> None:
    """Refuse to be what a worker here cannot be, as far as that is known without asking the API.

    That it is not known raises nothing: a package that brings the type may be installed when there is an API.

    Args:
        config: what the worker is told to do.
        surroundings: what it touches of the world.
        provision: whether and how packages are installed.

    Raises:
        WorkerRefusedError: there are no workers of the type, or none in this environment.
    """
    if config.flows is not None or config.worker_type is None:
        return
    discovery = Discovery(worker_type=config.worker_type)
    refuse_agent(config.worker_type)
    refuse_mismatch(discovery, config)
    if config.worker_type in available_types() or provision.may_install:
        return
    await provision(discovery, _no_packages)
    surroundings.infrastructure(config.worker_type, config)


async def _no_packages() -> Mapping[str, str]:
    await trio.lowlevel.checkpoint()
    return {}

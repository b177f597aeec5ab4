"""Wheels made by hand, and environments to install them into: no index, no network, nothing of the project's own."""

from __future__ import annotations

import base64
import hashlib
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent

KIND = """
from trioworker.infrastructure.process.infrastructure import ProcessInfrastructure

class Moonbase(ProcessInfrastructure):
    type = "moonbase"
"""


def metadata_files(
    package: str, version: str, kinds: Mapping[str, str], requires: Sequence[str] = ()
) -> dict[str, str]:
    """The metadata of a distribution: file contents by name.

    Args:
        package: its name.
        version: its version.
        kinds: the kinds of infrastructure that it brings, each with what makes it (`module:object`).
        requires: what it depends on.
    """
    dependencies = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    points = [f"{kind} = {value}" for kind, value in kinds.items()]
    entry_points = "\n".join(["[trioworker.infrastructure]", *points]) if kinds else ""
    return {
        "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n{dependencies}",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": entry_points,
    }


def make_wheel(
    directory: Path,
    package: str,
    version: str = "1.0",
    *,
    kinds: Mapping[str, str] | None = None,
    requires: Sequence[str] = (),
    source: str = "",
) -> Path:
    """Build a wheel with one module, named as the package is."""
    module = package.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {f"{module}.py": source}
    files |= {
        f"{info}/{name}": text
        for name, text in metadata_files(package, version, kinds or {}, requires).items()
    }
    record = [f"{name},sha256={_digest(text)},{len(text.encode())}" for name, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def only_from(directory: Path) -> dict[str, str]:
    """The environment variables by which pip and uv know no other source than a directory."""
    return {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(directory),
        "PIP_CONFIG_FILE": "/dev/null",
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": str(directory),
        "UV_NO_CONFIG": "1",
    }


class Environment:
    """A virtual environment that sees what ours has, and keeps to itself what is installed into it."""

    def __init__(self, directory: Path) -> None:
        venv.create(directory, with_pip=False, symlinks=True)
        self.python = directory / "bin" / "python"
        self.site = directory / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        # The editable installation of the project is named too: a .pth file is not read in such a place.
        visible = [sysconfig.get_path("purelib"), str(ROOT)]
        self.site.joinpath("ours.pth").write_text("\n".join(visible) + "\n")

    @property
    def installed(self) -> list[str]:
        """What was installed, as `package-version`."""
        return sorted(path.name.removesuffix(".dist-info") for path in self.site.glob("*.dist-info"))

    def add(self, package: str, *, kinds: Mapping[str, str], source: str | None = None) -> None:
        """Put a package there, without an installer."""
        module = package.replace("-", "_")
        info = self.site / f"{module}-1.0.dist-info"
        info.mkdir()
        for name, text in metadata_files(package, "1.0", kinds).items():
            (info / name).write_text(text)
        if source is not None:
            (self.site / f"{module}.py").write_text(source)

    def add_program(self, name: str, script: str) -> None:
        """Put a Python script beside the interpreter."""
        path = self.python.with_name(name)
        path.write_text(f"#!{self.python}\n{script}")
        path.chmod(0o755)

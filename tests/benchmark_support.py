"""Samples as the benchmark might have taken them, and workers that only pretend to be one."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

from benchmarks.apparatus.sides import Side
from benchmarks.report.machine import Setting
from benchmarks.report.samples import Samples

# What the pretended workers have in common: they end well when told to, and can say when they are ready.
_PREAMBLE = """
import os, signal, subprocess, sys, time, urllib.request
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
"""

SETTING = Setting(
    date="2026-01-02 03:04 UTC",
    commit="0123456789",
    command="python -m benchmarks",
    processor="A Processor",
    cores=2,
    memory=8_000_000_000,
    system="Linux 6.1",
    python="3.11.7",
    prefect="3.8.8",
    packages={"trio": "0.35.0"},
    busy=0.0,
)


def samples_of(**values: tuple[list[float], list[float]]) -> Samples:
    """Samples with the values of figures, those of Prefect's worker before ours."""
    samples = Samples()
    for figure, sides in values.items():
        for side, series in zip(("prefect", "trioworker"), sides, strict=True):
            for value in series:
                samples.add(figure, side, value)
    return samples


def pretended(directory: Path, script: str) -> Side:
    """A side whose worker is a Python script, in a directory that may be used for others after it."""
    (directory / "bin").mkdir(exist_ok=True)
    program = directory / "bin" / "trioworker"
    program.write_text(f"#!{sys.executable}\n{_PREAMBLE}{dedent(script)}")
    program.chmod(0o755)
    return Side("trioworker", directory / "bin" / "python", directory, "a-pool")

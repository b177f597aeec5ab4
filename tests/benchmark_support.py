"""Samples as the benchmark might have taken them."""

from __future__ import annotations

from benchmarks.report.machine import Setting
from benchmarks.report.samples import Samples

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

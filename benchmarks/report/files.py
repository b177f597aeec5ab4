"""Writes what was measured: a page, a chart, and every single value. All of them, or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import attrs

from benchmarks.plan import Plan
from benchmarks.report.chart import bars, draw
from benchmarks.report.machine import Setting
from benchmarks.report.page import page
from benchmarks.report.samples import Samples

PAGE, CHART, VALUES = "RESULTS.md", "results.svg", "results.json"


def write(directory: Path, samples: Samples, setting: Setting, plan: Plan) -> None:
    """Write the three files; those of an earlier benchmark are replaced only once all are complete."""
    files = {
        PAGE: page(samples, setting, plan, CHART),
        CHART: chart(samples, setting),
        VALUES: values(samples, setting, plan),
    }
    write_all(directory, files)


def write_all(directory: Path, files: Mapping[str, str]) -> None:
    """Write files; those that are there already are replaced only once all are complete.

    Args:
        directory: what the names are relative to.
        files: their texts, by name.
    """
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        _new(directory / name).write_text(text)
    for name in files:
        _new(directory / name).replace(directory / name)


def _new(file: Path) -> Path:
    return file.with_name(f".{file.name}.new")


def values(samples: Samples, setting: Setting, plan: Plan) -> str:
    """Every single value, as JSON."""
    document = {
        "setting": attrs.asdict(setting),
        "plan": attrs.asdict(plan),
        "values": samples.values,
        "requests": samples.requests,
    }
    return json.dumps(document, indent=1) + "\n"


def chart(samples: Samples, setting: Setting) -> str:
    """The chart."""
    title = f"trioworker and the worker of Prefect {setting.prefect}, side by side: how many times better"
    note = "Medians of one run, on a logarithmic scale. Marks: what is required. Right: Prefect → trioworker."
    return draw(bars(samples), title, note)

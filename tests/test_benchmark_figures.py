"""What the benchmark makes of its values: medians, ratios, and whether what is required is reached."""

from __future__ import annotations

import pytest
from benchmark_support import samples_of

from benchmarks.report.figures import (
    FIGURES,
    AtMost,
    Figure,
    Fraction,
    Requirement,
    Times,
    add_growth,
    is_reached,
    ratio,
)
from benchmarks.report.samples import Samples
from benchmarks.report.summary import Summary, summarize


def test_a_series_is_summarized_by_its_median_and_range() -> None:
    assert summarize([3.0, 1.0, 10.0]) == Summary(median=3.0, least=1.0, most=10.0, count=3)


def test_of_no_values_there_is_no_summary() -> None:
    assert summarize([]) is None


def a_figure(required: Requirement | None = None, **fields: str) -> Figure:
    return Figure(key="figure", title="", unit="", how="", required=required, **fields)  # type: ignore[arg-type]


def test_less_is_better_unless_said_otherwise() -> None:
    samples = samples_of(figure=([10.0, 20.0, 30.0], [5.0]))
    assert ratio(a_figure(), samples) == 4.0
    assert ratio(a_figure(better="more"), samples) == 0.25


@pytest.mark.parametrize("values", [([], [1.0]), ([1.0], []), ([0.0], [1.0]), ([1.0], [0.0])])
def test_there_is_no_ratio_without_two_values_to_compare(values: tuple[list[float], list[float]]) -> None:
    assert ratio(a_figure(), samples_of(figure=values)) is None


@pytest.mark.parametrize(
    ("required", "ours", "reached"),
    [
        (Times(5), 2.0, True),
        (Times(5), 2.1, False),
        (Fraction(0.4), 4.0, True),
        (Fraction(0.4), 4.1, False),
        (Fraction(1.3), 12.9, True),
        (Fraction(1.3), 13.1, False),
        (AtMost(4, "s"), 4.0, True),
        (AtMost(4, "s"), 4.1, False),
        (None, 1.0, None),
    ],
)
def test_what_is_required_is_judged_by_the_medians(
    required: Requirement | None, ours: float, reached: bool | None
) -> None:
    samples = samples_of(figure=([0.0, 10.0, 99.0], [ours, ours, 1000.0]))
    assert is_reached(a_figure(required), samples) is reached


def test_what_was_not_measured_is_not_reached_nor_missed() -> None:
    assert is_reached(a_figure(Times(5)), Samples()) is None
    assert is_reached(a_figure(AtMost(4, "s")), samples_of(figure=([1.0], []))) is None


def test_a_limit_holds_where_prefect_has_nothing_to_compare_with() -> None:
    assert is_reached(a_figure(AtMost(50, "ms")), samples_of(figure=([], [49.0]))) is True


def test_growth_is_the_cost_of_a_run_among_many_by_that_among_few() -> None:
    samples = samples_of(
        dispatch_cpu_100=([100.0], [10.0, 10.0, 11.0]),
        dispatch_cpu_2000=([150.0], [12.0]),
        dispatch_memory_100=([], [30.0]),
        dispatch_memory_2000=([], [15.0]),
    )
    add_growth(samples)
    assert samples.values["growth_cpu"] == {"prefect": [1.5], "trioworker": [1.2]}
    assert samples.values["growth_memory"] == {"trioworker": [0.5]}


def test_there_is_no_growth_from_a_cost_that_was_too_small_to_be_measured() -> None:
    samples = samples_of(dispatch_memory_100=([], [0.0]), dispatch_memory_2000=([], [15.0]))
    add_growth(samples)
    assert "growth_memory" not in samples.values


def test_there_is_no_growth_of_what_was_measured_only_once() -> None:
    samples = samples_of(dispatch_cpu_100=([100.0], [10.0]))
    add_growth(samples)
    assert "growth_cpu" not in samples.values


def test_no_two_figures_share_their_samples() -> None:
    keys = [figure.key for figure in FIGURES]
    assert len(keys) == len(set(keys))

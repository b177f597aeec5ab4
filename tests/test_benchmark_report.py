"""The table, the chart and the files of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import attrs
import pytest
from benchmark_support import SETTING, samples_of
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.plan import QUICK
from benchmarks.report import files
from benchmarks.report.chart import Bar, bars, draw, ticks
from benchmarks.report.page import BUSY
from benchmarks.report.table import as_markdown, as_text, number, rows

# Enough for a report: one figure that is reached, one that is not.
MEASURED = {
    "first_poll": ([2.5, 2.4, 2.9], [0.3, 0.2, 0.4]),
    "stop": ([0.44], [0.2]),
    "idle_cpu": ([0.9, 1.1], [0.1, 0.1]),
}

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0123, "0.012"),
        (0.5, "0.50"),
        (2.5, "2.50"),
        (41.66, "41.7"),
        (110.4, "110"),
        (2400, "2,400"),
    ],
)
def test_numbers_have_as_many_digits_as_one_reads(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_row_has_medians_ranges_ratio_and_verdict() -> None:
    row = next(row for row in rows(samples_of(**MEASURED)) if row.title == "exec to first poll (s)")
    assert row.cells() == (
        "exec to first poll (s)",
        "2.50 (2.40 to 2.90, n 3)",
        "0.30 (0.20 to 0.40, n 3)",
        "8.33 \N{MULTIPLICATION SIGN}",
        "at least 6 times better",
        "yes",
    )


def test_what_is_missed_is_called_so() -> None:
    row = next(row for row in rows(samples_of(**MEASURED)) if row.title.startswith("SIGTERM"))
    assert row.reached == "**not reached**"


def test_what_is_required_but_was_not_measured_is_in_the_table() -> None:
    (row,) = [row for row in rows(samples_of(**MEASURED)) if row.title.startswith("a burst")]
    assert row.reached == "not measured"


def test_what_nobody_measured_or_requires_is_not() -> None:
    assert not [row for row in rows(samples_of(**MEASURED)) if row.title.startswith("cancellation")]


def test_in_a_table_of_mere_figures_there_is_no_column_for_what_is_required() -> None:
    shown = [row for row in rows(samples_of(**MEASURED)) if not row.required and not row.leads]
    times = "10.0 \N{MULTIPLICATION SIGN}"
    assert as_markdown(shown, "3.8.8").splitlines() == [
        "| figure | Prefect 3.8.8 | trioworker | better by |",
        "| --- | --: | --: | --: |",
        f"| idle: CPU a minute (s) | 1.00 (0.90 to 1.10, n 2) | 0.10 (0.10 to 0.10, n 2) | {times} |",
    ]


def test_the_columns_of_the_text_are_aligned() -> None:
    lines = as_text(rows(samples_of(**MEASURED)), "3.8.8").splitlines()
    column = lines[0].index("trioworker")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)


def test_bars_are_drawn_of_what_was_measured_on_both_sides() -> None:
    drawn = bars(samples_of(**MEASURED, cancel=([], [1.0])))
    assert [(bar.label, bar.values) for bar in drawn] == [
        ("Start: exec to first poll", "2.50 → 0.30 s"),
        ("Idle: CPU", "1.00 → 0.10 s"),
        ("Stop: SIGTERM to exit", "0.44 → 0.20 s"),
    ]
    assert [bar.times for bar in drawn] == pytest.approx([25 / 3, 10, 2.2])


def test_what_is_required_is_marked_as_a_ratio_too() -> None:
    drawn = bars(samples_of(**MEASURED, idle_rss=([100.0], [50.0])))
    assert {bar.label: bar.goal for bar in drawn} == {
        "Start: exec to first poll": 6,
        "Idle: memory (RSS)": pytest.approx(2.5),
        "Idle: CPU": None,
        "Stop: SIGTERM to exit": pytest.approx(0.44 / 0.15),
    }


@given(least=st.floats(0.01, 1), most=st.floats(1, 1e5))
def test_the_axis_begins_and_ends_with_round_numbers_around_all_bars(least: float, most: float) -> None:
    scale = ticks(least, most)
    assert scale[0] <= least
    assert scale[-1] >= most
    assert scale == sorted(scale)


def test_what_is_worse_goes_to_the_other_side() -> None:
    drawn = ET.fromstring(draw([Bar("good", 4.0, ""), Bar("bad", 0.5, "")], "Title", "Note"))  # noqa: S314
    bars = {each.get("class"): each for each in drawn.iter(f"{SVG}rect")}
    even = next(each for each in drawn.iter(f"{SVG}line") if each.get("class") == "even")
    good, bad = bars["better"], bars["worse"]
    assert good.get("x") == even.get("x1")
    assert float(bad.attrib["x"]) + float(bad.attrib["width"]) == pytest.approx(
        float(even.attrib["x1"]), abs=0.2
    )


def test_labels_cannot_break_the_chart() -> None:
    drawn = ET.fromstring(draw([Bar("<&>", 2.0, "a < b")], "&", "<"))  # noqa: S314
    texts = [each.text for each in drawn.iter(f"{SVG}text")]
    assert {"<&>", "a < b", "&", "<"} <= set(texts)


def test_the_chart_is_legible_on_dark_pages() -> None:
    assert "prefers-color-scheme: dark" in draw([Bar("a", 2.0, "")], "", "")


def test_all_files_are_written_with_every_value(tmp_path: Path) -> None:
    samples = samples_of(**MEASURED)
    samples.requests += [
        {"side": "prefect", "runs": 5, "worker": {"GET flows/*": number}} for number in (3, 90, 1)
    ]
    files.write(tmp_path, samples, SETTING, QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RESULTS.md", "results.json", "results.svg"]
    values = json.loads((tmp_path / "results.json").read_text())
    assert values["values"]["first_poll"]["trioworker"] == [0.3, 0.2, 0.4]
    page = (tmp_path / "RESULTS.md").read_text()
    assert "Of 12 requirements, 1 are reached, and 10 were not measured." in page
    assert "commit `0123456789`" in page
    assert "| `GET flows/*` | 3 |" in page


def test_a_page_from_a_busy_machine_says_so(tmp_path: Path) -> None:
    pages = []
    for busy in (0.2, 0.3):
        files.write(tmp_path, samples_of(**MEASURED), attrs.evolve(SETTING, busy=busy), QUICK)
        pages.append((tmp_path / "RESULTS.md").read_text())
    assert [BUSY in page for page in pages] == [False, True]


def test_an_earlier_report_stays_whole_if_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    files.write(tmp_path, samples_of(**MEASURED), SETTING, QUICK)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    (tmp_path / ".results.json.new").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path, samples_of(stop=([1.0], [1.0])), SETTING, QUICK)
    assert (
        before.items()
        <= {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}.items()
    )

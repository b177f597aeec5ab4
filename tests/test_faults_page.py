"""What is written about faults: the part of a page, the chart, and every state."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmark_support import SETTING
from faults_support import NEVER, RIGHT, course, moment

from benchmarks.faults import files
from benchmarks.faults.catalogue import FAULTS
from benchmarks.faults.chart import draw
from benchmarks.faults.command import main
from benchmarks.faults.page import BEGIN, END, PageError, replaced
from benchmarks.faults.table import as_markdown, as_text, executions, rows

SVG = "{http://www.w3.org/2000/svg}"
PAGE = f"# Reliability\n\nBy hand.\n\n{BEGIN}\nold\n{END}\n\nBy hand, too.\n"

FIRST, SECOND = FAULTS[0].key, FAULTS[1].key
COURSES = [
    course(FIRST, "prefect", *NEVER),
    course(FIRST, "trioworker", *RIGHT),
    course(SECOND, "prefect", *RIGHT),
    course(SECOND, "trioworker", *RIGHT),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / files.PAGE).write_text(PAGE)
    return tmp_path


def test_there_are_ten_faults_each_with_a_name_of_its_own() -> None:
    assert len(FAULTS) == 10
    assert len({fault.key for fault in FAULTS}) == 10


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = replaced(PAGE, "new")
    assert page == f"# Reliability\n\nBy hand.\n\n{BEGIN}\n\nnew\n\n{END}\n\nBy hand, too.\n"
    assert replaced(page, "new") == page


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}"])
def test_a_page_without_a_place_for_the_part_is_refused(page: str) -> None:
    with pytest.raises(PageError, match="make faults: begin"):
        replaced(page, "new")


def test_nothing_is_inflicted_if_there_is_no_place_to_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path)]) == 1
    assert "There is no place to report" in capsys.readouterr().err


def test_the_table_has_both_sides_of_each_fault() -> None:
    head, _, first, second = as_markdown(rows(FAULTS, COURSES), "3.8.8").splitlines()
    assert head.startswith("|  | fault | Prefect 3.8.8 | right after | processes left | trioworker |")
    assert first == (f"| 1 | {FAULTS[0].title} | **`Running`** | **never** | **1** | `Crashed` | 1.5 s | 0 |")
    assert second.endswith("| `Crashed` | 1.5 s | 0 | `Crashed` | 1.5 s | 0 |")


def test_the_table_says_how_long_nobody_watched() -> None:
    seen = (moment(0, "Running", living=1, unwatched=1), moment(28, "Completed", ended=True))
    (row,) = as_markdown(rows(FAULTS, [course(FIRST, "prefect", *seen)]), "3.8.8").splitlines()[2:]
    assert "| `Completed` | 28.0 s | 0, unwatched for 28 s |  |  |  |" in row


def test_the_table_for_a_terminal_has_a_line_for_each_course() -> None:
    lines = as_text(rows(FAULTS, COURSES)).splitlines()
    assert len(lines) == 1 + len(COURSES)
    assert lines[1].split()[:5] == [FIRST, "prefect", "Running", "never", "1"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"began": 0, "most_of_an_attempt": 0}, "the flow never began"),
        ({}, "the flow began once and did not come to its end"),
        ({"began": 2, "ended": True}, "the flow began twice and came to its end"),
        (
            {"began": 3, "most_of_an_attempt": 2},
            "the flow began 3 times and did not come to its end; **the same attempt began more than once**",
        ),
    ],
)
def test_executions_are_told(fields: dict[str, int], told: str) -> None:
    assert executions(course(FIRST, "prefect", moment(1, "Crashed", **fields)).verdict) == told


def test_bars_are_as_long_as_it_took_and_have_no_end_if_it_never_was() -> None:
    drawn = ET.fromstring(draw(rows(FAULTS, COURSES[:2]), 60, "A & B", "<"))  # noqa: S314
    bars = {each.get("class"): each for each in drawn.iter(f"{SVG}rect") if each.get("height") == "12"}
    lines = [float(each.attrib["x1"]) for each in drawn.iter(f"{SVG}line")]
    never, right = bars["worse never"], bars["better"]
    assert float(never.attrib["x"]) + float(never.attrib["width"]) == pytest.approx(max(lines), abs=0.2)
    assert float(right.attrib["width"]) == pytest.approx((max(lines) - min(lines)) * 1.5 / 60, abs=0.2)
    assert {"A & B", "<", "never, Running", "1.5 s, Crashed"} <= {
        each.text for each in drawn.iter(f"{SVG}text")
    }


def test_all_files_are_written(project: Path) -> None:
    files.write(project, rows(FAULTS, COURSES), SETTING)
    page = (project / files.PAGE).read_text()
    assert "Right within 60 s: 1 of 2 with Prefect, 2 of 2 with trioworker." in page
    assert "commit `0123456789`" in page
    assert f"1. **{FAULTS[0].title}.**" in page
    assert "   - Prefect: `Running`, `Running`; the flow began once and did not come to its end." in page
    assert page.endswith("By hand, too.\n")
    assert ET.fromstring((project / files.CHART).read_text()).tag == f"{SVG}svg"  # noqa: S314
    values = json.loads((project / files.VALUES).read_text())
    assert [each["verdict"]["right_after"] for each in values["courses"]] == [None, 1.5, 1.5, 1.5]
    assert not any("logs" in each for each in values["courses"])


def test_what_the_workers_wrote_is_kept_for_whoever_looks_for_the_reason(tmp_path: Path) -> None:
    files.write_record(tmp_path, COURSES[0])
    record = json.loads((tmp_path / f"{FIRST}-prefect.json").read_text())
    assert (record["fault"], record["left"]) == (FIRST, ["sleep 600"])
    assert (tmp_path / f"{FIRST}-prefect.log").read_text().split("\n")[::2] == ["started", "started again"]

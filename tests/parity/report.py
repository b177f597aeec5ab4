"""The result of the matrix as a table, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from accepted import Accepted
from compare import Comparison
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_STYLES = {"same": "green", "accepted": "yellow", "differs": "red"}


def show(comparisons: Sequence[Comparison], rotten: Sequence[Accepted], console: Console) -> None:
    """Print a row for every case, and below the table what differs."""
    table = Table("Case", "End", "Result", "In which aspects")
    for comparison in comparisons:
        style = _STYLES[comparison.verdict]
        table.add_row(
            comparison.case,
            " / ".join(_ends(comparison.sides[0])),
            f"[{style}]{comparison.verdict}[/]",
            ", ".join(_aspects(comparison)),
        )
    for comparison in comparisons:
        for difference in comparison.differences:
            if difference.reason is None and not difference.wording:
                console.print(f"[bold]{comparison.case}[/]: {escape(difference.aspect)}")
                console.print(
                    "\n".join(f"    {line}" for line in difference.lines), markup=False, highlight=False
                )
    console.print(table)
    for entry in rotten:
        console.print(
            f"[red]Accepted, but it does not occur:[/] {entry.case}: {entry.aspect} ({entry.reason})"
        )


def write(
    comparisons: Sequence[Comparison], rotten: Sequence[Accepted], names: tuple[str, str], directory: Path
) -> None:
    """Write `parity.json` and `parity.md`."""
    document = {
        "sides": names,
        "cases": [attrs.asdict(comparison) | {"verdict": comparison.verdict} for comparison in comparisons],
        "accepted_but_absent": [attrs.asdict(entry) for entry in rotten],
    }
    (directory / "parity.json").write_text(json.dumps(document, indent=1, ensure_ascii=False))
    (directory / "parity.md").write_text("\n".join(_markdown(comparisons, rotten, names)) + "\n")


def _markdown(
    comparisons: Sequence[Comparison], rotten: Sequence[Accepted], names: tuple[str, str]
) -> list[str]:
    lines = [
        f"# {names[0]} (-) and {names[1]} (+)",
        "",
        "| case | what | result | aspects |",
        "| --- | --- | --- | --- |",
    ]
    for comparison in comparisons:
        aspects = ", ".join(_aspects(comparison))
        lines.append(f"| {comparison.case} | {comparison.description} | {comparison.verdict} | {aspects} |")
    for comparison in comparisons:
        for difference in comparison.differences:
            note = f" (accepted: {difference.reason})" if difference.reason else ""
            note += " (only the words differ)" if difference.wording else ""
            lines += [
                "",
                f"## {comparison.case}: {difference.aspect}{note}",
                "",
                "```diff",
                *difference.lines,
                "```",
            ]
    if rotten:
        lines += ["", "## Accepted, but absent", ""]
        lines += [f"- {entry.case}: {entry.aspect} ({entry.reason})" for entry in rotten]
    return [*lines, "", "# What the first side does", "", *_first_side(comparisons)]


def _first_side(comparisons: Sequence[Comparison]) -> list[str]:
    """A table of what was seen on the first side."""
    lines = [
        "| case | end | message | history | worker's log | notes of flow and hooks | events |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for comparison in comparisons:
        seen = comparison.sides[0]
        for about in _runs(seen):
            log = [f"{level} {message}" for _, level, message in seen.get(f"{about}worker log", [])]
            cells = [
                comparison.case + (f" ({about.removesuffix(': ')})" if about else ""),
                seen[f"{about}state"],
                seen.get(f"{about}message") or "",
                " → ".join(seen.get(f"{about}history", [])),
                "<br>".join(log),
                "<br>".join(seen.get(f"{about}notes", []) + seen["remarks"] + seen["troubles"]),
                "<br>".join(map(_short, seen.get(f"{about}events", []))),
            ]
            lines.append(
                "| " + " | ".join(cell.replace("\n", "<br>").replace("|", "\\|") for cell in cells) + " |"
            )
    return lines


def _short(event: dict[str, Any]) -> str:
    status = [
        resource["prefect.infrastructure.status-code"]
        for resource in event["related"]
        if "prefect.infrastructure.status-code" in resource
    ]
    return " ".join([event["event"], *status])


def _runs(seen: dict[str, Any]) -> list[str]:
    return sorted(aspect.removesuffix("state") for aspect in seen if aspect.endswith("state"))


def _ends(seen: dict[str, Any]) -> list[str]:
    return [seen[f"{about}state"] for about in _runs(seen)]


def _aspects(comparison: Comparison) -> list[str]:
    return [
        difference.aspect
        + (" (words)" if difference.wording else "")
        + (" (accepted)" if difference.reason and not difference.wording else "")
        for difference in comparison.differences
    ]

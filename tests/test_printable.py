"""What becomes of text that would do something to a terminal or a line."""

from __future__ import annotations

import pytest

from trioworker.printable import in_one_line, printable


@pytest.mark.parametrize("text", ["", "red-fox", "Größe #1 'neu'?", "狐狸 🦊", "back\\slash"])
def test_harmless_text_is_left_alone(text: str) -> None:
    assert in_one_line(text) == text
    assert printable(text) == text


@pytest.mark.parametrize("number", [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0x202E, 0x2066])
def test_control_character_stands_as_in_source(number: int) -> None:
    character = chr(number)
    shown = in_one_line(f"a{character}b")
    assert shown.isprintable()
    assert shown == f"a{character!r}b".replace("'", "")


def test_lines_and_tabs_may_stay_where_they_are_wanted() -> None:
    assert printable("a\n\tb\x1b[1m\rc") == "a\n\tb\\x1b[1m\\rc"

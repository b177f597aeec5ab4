"""The examples in the documentation: where they are, and what kind of example each is.

In the documents themselves a reader sees nothing of this but the examples. What there is to know, in order:

- A block of Python with tests in it is run by pytest.
- One whose first line is a comment with a file name, such as `# shop.py`, is also there as that file for the blocks
  after it on the page.
- Any other is a program, and run: against a real server if it has `trio.run` or `asyncio.run` in it. It gets SIGINT
  once its worker is known to the server, if it has one, unless Trio is a guest in it; else it has to end by itself.
- Of a console block every line that begins with `$` is checked: that the command exists, with these options.
- `<!-- not run: REASON -->` right before a block of any kind leaves it out; the tests list these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent

PYTHON, CONSOLE = "python", "console"

# Blocks that show what programs read or write, and are no example of what to do.
SHOWN_ONLY = frozenset({"text", "json", "toml", "yaml", "ini", "html", "mermaid", "dockerfile"})

_FILE_NAME = re.compile(r"# ([\w/]+\.py)\s*")
_NOT_RUN = re.compile(r"<!--\s*not run:\s*(.*?)\s*-->\s*", re.DOTALL)
_RUNS = re.compile(r"\b(trio|asyncio)\.run\(")
_TEST = re.compile(r"^\s*(async )?def test_", re.MULTILINE)


@attrs.frozen
class Example:
    """A fenced block of a document.

    Attributes:
        document: the document, relative to the root of the project.
        line: the line of the document at which the fence begins.
        language: what stands behind the fence.
        text: the block itself.
        reason: why it is not run; None if it is.
    """

    document: str
    line: int
    language: str
    text: str
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """What the block is to be called, if it says so."""
        named = _FILE_NAME.match(self.text)
        return named[1] if named else None

    @property
    def has_tests(self) -> bool:
        """Whether pytest finds something in it."""
        return _TEST.search(self.text) is not None

    @property
    def needs_server(self) -> bool:
        """Whether it is a program that talks to Prefect."""
        return _RUNS.search(self.text) is not None and not self.has_tests

    @property
    def is_guest(self) -> bool:
        """Whether Trio is a guest of another loop, which at Ctrl-C would leave it behind in the middle."""
        return "start_guest_run" in self.text

    @property
    def commands(self) -> list[str]:
        """What is typed in a console block, without comments."""
        typed = self.text.replace("\\\n", " ").splitlines()
        return [re.sub(r"\s#\s.*", "", line[2:]).strip() for line in typed if line.startswith("$ ")]


def documents() -> list[Path]:
    """Every document for users."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(document: Path) -> Iterator[Example]:
    """The fenced blocks of a document, in order."""
    return examples_in(document.read_text(), document.relative_to(ROOT).as_posix())


def examples_in(text: str, name: str) -> Iterator[Example]:
    """The fenced blocks of a text that is called so."""
    reason: str | None = None
    for token in MarkdownIt().parse(text):
        if token.type == "fence" and token.map is not None:
            yield Example(name, token.map[0] + 1, token.info.strip(), token.content, reason)
        said = _NOT_RUN.fullmatch(token.content) if token.type == "html_block" else None
        reason = said[1] if said else None

"""Markdown for people and for model hubs. What comes from data is escaped, so that no caption makes a link, a heading
or markup of its own.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_MARKS = re.compile(r"([\\`*_\[\]#|~$])")
_LINKS = (("@", "&#64;"), ("://", "&#58;//"), ("www.", "www&#46;"))  # what GitHub makes a link of though nobody asked
_BEGINNING = re.compile(r"^(?=[-+=])|(?<=^\d)(?=[.)](?:\s|$))|(?<=^\d\d)(?=[.)](?:\s|$))")  # of a list or a rule


def text(value: object) -> str:
    """Any value as one line of plain text: control characters and line breaks become spaces."""
    line = "".join(character if character.isprintable() else " " for character in str(value)).strip()
    line = _MARKS.sub(r"\\\1", html.escape(line, quote=False))
    for link, plain in _LINKS:
        line = line.replace(link, plain)
    return _BEGINNING.sub(r"\\", line, count=1)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Every cell is escaped; nothing at all for no rows."""
    lines = [list(head), ["---"] * len(head), *([text(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) if len(lines) > 2 else ""


def section(title: str, *parts: str) -> str:
    """A heading and its paragraphs; nothing where all of them are empty."""
    there = [part.strip() for part in parts if part.strip()]
    return f"## {title}\n\n" + "\n\n".join(there) + "\n\n" if there else ""


def listed(items: Iterable[str]) -> str:
    """Items that are Markdown already."""
    return "".join(f"- {item}\n" for item in items)

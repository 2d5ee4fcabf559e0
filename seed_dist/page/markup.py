"""HTML and SVG as nested calls. Text is escaped unless it is already `Html`, so no caption can break the page."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

_VOID = frozenset({"img", "meta", "br", "path", "line", "rect", "circle", "polyline"})


class Html(str):
    """Markup that is safe to put into a page as it is."""

    __slots__ = ()


Child: TypeAlias = str | int | Iterable["Child"] | None


def tag(element: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """`<element ...>children</element>`.

    A trailing underscore of an attribute's name is dropped (`class_`), others become hyphens (`aria_label`); an
    attribute of True stands without a value, one of None or False is left out, as are children of None.
    """
    pairs = "".join(_attribute(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    if element in _VOID and not children:
        return Html(f"<{element}{pairs}>" if element in ("img", "meta", "br") else f"<{element}{pairs}/>")
    return Html(f"<{element}{pairs}>{join(*children)}</{element}>")


def _attribute(name: str, value: str | int | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def join(*children: Child) -> Html:
    """Children one after another."""
    return Html("".join(_text(child) for child in children))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, (str, int)):
        return html.escape(str(child))
    return join(*child)


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as the page prints it; a dash where there is none."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"


def decimal(value: float | None, digits: int = 3) -> str:
    """A cosine as the page prints it; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], caption: str) -> Html:
    """A table whose first column names the row; it scrolls sideways inside its frame on narrow screens."""
    heads = tag("tr", [tag("th", cell, scope="col") for cell in head])
    body = []
    for row in rows:
        first, *rest = row
        body.append(tag("tr", tag("th", first, scope="row"), [tag("td", cell) for cell in rest]))
    whole = tag("table", tag("caption", tag("span", caption)), tag("thead", heads), tag("tbody", body))
    return tag("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)

"""What stands around the body of any page."""

from __future__ import annotations

from pathlib import Path

from seed_dist.page.markup import Html, tag


def style() -> str:
    """The style of all pages, as CSS."""
    return (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


def head(title: str, reload_s: int | None = None) -> Html:
    """What stands before the body: title and style. With `reload_s` the page loads itself again after so long."""
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="refresh", content=reload_s) if reload_s else None,
        tag("title", title),
        tag("style", Html(style())),
    )

"""The page of the server: one file made of page.html, page.css, page.js and the style of all pages."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from pathlib import Path

from seed_dist.page import document

_FOLDER = Path(__file__).parent


@lru_cache(maxsize=1)
def page() -> bytes:
    """Style and script stand inside, so that the page asks nothing of any network but this server's API."""
    html = (_FOLDER / "page.html").read_text(encoding="utf-8")
    return html.replace("{{style}}", _style()).replace("{{script}}", _script()).encode()


def _style() -> str:
    return document.style() + (_FOLDER / "page.css").read_text(encoding="utf-8")


def _script() -> str:
    return (_FOLDER / "page.js").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# Only the script and the style of the page itself run, whatever a caption says; pictures and requests are the server's.
CONTENT_POLICY = (
    f"default-src 'none'; script-src {_hash(_script())}; style-src {_hash(_style())}; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

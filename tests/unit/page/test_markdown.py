"""Nothing that comes from data becomes markup."""

from __future__ import annotations

import pytest

from seed_dist.page.markdown import section, table, text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a red heart above a star", "a red heart above a star"),
        ("<script>x</script> & co", "&lt;script&gt;x&lt;/script&gt; &amp; co"),
        ("[a](b) ![c](d)", r"\[a\](b) !\[c\](d)"),
        ("see https://x.org www.x.org a@b.c", "see https&#58;//x.org www&#46;x.org a&#64;b.c"),
        ("# one\n\n- two | `x` *y* _z_ $m$", r"\# one  - two \| \`x\` \*y\* \_z\_ \$m\$"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("===", r"\==="),
        (r"a\b", r"a\\b"),
        ("12) a", r"12\) a"),
        (0.25, "0.25"),
        ("2026-11-24", "2026-11-24"),
    ],
)
def test_text_stays_text(given: object, shown: str) -> None:
    assert text(given) == shown


def test_a_cell_cannot_end_its_row_and_what_is_empty_is_not_there() -> None:
    assert table(["a", "b"], [["x|y", "p\nq"]]) == "| a | b |\n| --- | --- |\n| x\\|y | p q |\n"
    assert table(["a"], []) == section("Empty", "", " ") == ""

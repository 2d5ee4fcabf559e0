"""The page: complete, self-contained, escaped, accessible; its charts and word marks are right."""

import base64
import io
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from seed_dist.eval.page import captions
from seed_dist.eval.page.document import render
from seed_dist.eval.results import Gap, Results
from seed_dist.page import charts, markup, pictures
from tests.chromium import NEEDED, Chromium

VOID = {"img", "meta", "br", "path", "line", "rect", "circle"}


class Outline(HTMLParser):
    """Checks that elements nest, and collects what the tests ask about."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.images, self.links, self.graphics, self.faults = [], [], [], [], [], []
        self.elements = set()

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.elements.add(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.images += [values] if tag == "img" else []
        self.links += [values["href"]] if "href" in values else []
        self.graphics += [values] if tag == "svg" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def outline(page):
    parser = Outline()
    parser.feed(page)
    return parser


@pytest.mark.skipif(shutil.which(NEEDED) is None, reason="needs chromium")
def test_a_phone_and_a_keyboard_reach_all_of_it(believable, tmp_path):
    """Captions of one long word among them, as foreign data has."""
    examples = [replace(one, caption="w" * 200, written="v" * 200) for one in believable.examples[:8]]
    results = replace(believable, examples=[*examples, *believable.examples[8:]], gaps=[Gap("x", "y" * 200, "z" * 200)])
    (tmp_path / "report.html").write_text(render(results))
    with Chromium(tmp_path / "profile") as browser:
        browser.as_phone()
        browser.open((tmp_path / "report.html").as_uri())
        assert browser.run("document.body.textContent.includes('w'.repeat(200))")
        assert browser.faults_of_layout() == []
        assert browser.run("document.documentElement.scrollWidth") == 375
        assert browser.errors == []


def test_the_page_is_complete_and_well_formed(believable):
    page = render(believable)
    found = outline(page)
    assert found.faults == []
    assert found.open == []
    assert {"header", "nav", "main", "footer", "h1", "title"} <= found.elements
    expected = {
        "glance",
        "reconstruction",
        "retrieval",
        "captions",
        "generation",
        "codebook",
        "training",
        "figures",
        "facts",
    }
    assert set(found.ids) == expected
    assert {link for link in found.links if link.startswith("#")} == {f"#{name}" for name in expected}
    assert 50 < len(found.images) < 300
    assert all(image["alt"] for image in found.images)
    assert all(g.get("aria-label") or g.get("aria-hidden") for g in found.graphics)
    assert len(page) < 5_000_000
    assert "prefers-color-scheme: dark" in page
    assert "<td>4 min 48 s</td><td>2.3 GB</td>" in page.replace("\n", "")


def test_the_page_loads_nothing_from_elsewhere(believable):
    page = render(believable)
    found = outline(page)
    assert all(image["src"].startswith("data:image/") for image in found.images)
    assert all(link.startswith("#") for link in found.links)
    assert not re.search(r"<script|@import|url\(|https?://", page)


def test_an_empty_evaluation_still_renders():
    results = Results(numbers={"recipe": "glyphs", "split": "test", "samples": 3})
    results.gaps = [Gap("caption", "no <model> yet.", "python -m seed_dist.train --stage lora")]
    found = outline(page := render(results))
    assert found.faults == []
    assert "missing" in found.ids
    assert "no &lt;model&gt; yet." in page
    assert "python -m seed_dist.train --stage lora" in page


def test_targets_that_are_missed_say_so(believable):
    page = render(believable)
    assert "✓ met" in page
    assert "✗ not met" in page
    assert "9 of 11 measured targets are met" in page


def test_the_reconstruction_table_has_its_rows(believable):
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>', render(believable))
    assert rows[:3] == ["causal embeddings", "the last of them", "generation embedding"]


def test_markup_escapes_text_and_attributes():
    assert markup.tag("p", "<b> & c", title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt; &amp; c</p>'
    assert markup.tag("p", markup.tag("b", 1), None, ["x", ["y"]], class_="k", hidden=True, lang=None) == (
        '<p class="k" hidden><b>1</b>xy</p>'
    )
    assert markup.tag("img", alt="") == '<img alt="">'
    assert markup.tag("path", d="M0,0") == '<path d="M0,0"/>'


def test_words_are_marked():
    parts, faults = captions.differences("a red star on", "a blue star on white")
    assert parts == [("right", "a"), ("wrong", "red"), ("right", "star on"), ("gone", "white")]
    assert faults == 2
    exchanged = captions.differences("a red sun above a blue star", "a blue star above a red sun")
    assert exchanged[0] == [("right", "a"), ("wrong", "red sun"), ("right", "above a"), ("wrong", "blue star")]
    assert exchanged[1] == 4
    text = re.sub("<[^>]*>", "", captions.marked("a red star on", "a blue star on white"))
    assert text.split() == ["a", "✗", "red", "star", "on", "missing:", "white"]
    assert "every word" in captions.badge("a b", "a b")
    assert "1 word off" in captions.badge("a c", "a b")
    assert "nothing was written" in captions.marked("  ", "a b")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (3, 397, [0, 100, 200, 300, 400]), (-0.3, 0.3, [-0.4, -0.2, 0, 0.2, 0.4])],
)
def test_ticks_are_round_and_cover(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_charts_cope_with_any_series():
    nothing = charts.lines([charts.Series("a", [1.0], [float("nan")])], "Loss", "step", "loss")
    assert "nothing was recorded" in nothing
    flat = charts.lines([charts.Series("a", [1, 2], [3, 3])], "Loss", "step", "loss")
    assert "nan" not in flat
    xs, ys = charts.binned(range(1000), [float(i) for i in range(1000)], points=10)
    assert len(xs) == 10
    assert sum(ys) / 10 == pytest.approx(499.5)
    assert 'aria-label="Loss. a: from 3 to 3."' in flat


def test_thumbnails_are_small_and_decodable():
    large = Image.effect_noise((2000, 1000), 80).convert("RGBA")
    address = pictures.data_address(large)
    image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert image.size == (192, 96)
    assert len(address) < 40_000
    assert pictures.data_address(Image.new("RGB", (64, 64))).startswith("data:image/png")

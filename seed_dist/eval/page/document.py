"""The whole page."""

from __future__ import annotations

from seed_dist.eval.page import captions, codes, figures, headline, painting, retrieval, training
from seed_dist.eval.results import Results
from seed_dist.page.document import head
from seed_dist.page.markup import tag

_TITLES = {
    "glance": "At a glance",
    "missing": "Missing",
    "reconstruction": "What codes keep",
    "retrieval": "Search",
    "captions": "Captions",
    "generation": "Pictures from captions",
    "codebook": "Codes",
    "training": "Training",
    "figures": "Every figure",
    "facts": "Times and provenance",
}


def render(results: Results) -> str:
    """report.html: no script, nothing from the network, readable on a phone, in light and dark."""
    numbers = results.numbers
    sections = {
        "glance": headline.glance(results),
        "missing": headline.gaps(results),
        "reconstruction": painting.from_codes(numbers, results.examples),
        "retrieval": retrieval.section(numbers, results.retrieval),
        "captions": captions.section(numbers, results.examples, results.unseen),
        "generation": painting.from_captions(numbers, results.examples, results.unseen),
        "codebook": codes.section(numbers, results.codes, results.journals.get("codebook", [])),
        "training": training.curves(results.journals, results.references),
        "figures": figures.section(numbers),
        "facts": training.facts(numbers),
    }
    there = {name: section for name, section in sections.items() if section is not None}
    links = [tag("li", tag("a", _TITLES[name], href=f"#{name}")) for name in there]
    header = tag(
        "header",
        headline.about(numbers),
        headline.story(results.examples),
        tag("nav", tag("ul", links), aria_label="Sections"),
    )
    footer = tag("footer", "Every number on this page stands in report.json beside it, as a fraction from 0 to 1.")
    skip = tag("a", "Skip to the numbers", href="#glance", class_="skip")
    body = tag("body", skip, header, tag("main", *there.values()), footer)
    return "<!doctype html>\n" + tag("html", head(f"SEED report: {numbers.get('recipe')}"), body, lang="en") + "\n"

"""Runs the measurements one after another. One that cannot be made leaves a gap that says why; the others go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from seed_dist.config import STAGES
from seed_dist.errors import DataError, SeedDistError, UnavailableError
from seed_dist.eval import parts
from seed_dist.eval.bench import Bench
from seed_dist.eval.figures import UNSEEN, UNSEEN_PAIRS
from seed_dist.eval.results import Gap, Results, RetrievalExamples
from seed_dist.eval.targets import judge
from seed_dist.eval.workspace import Split, Workspace
from seed_dist.glyphs.scenes import parse_caption
from seed_dist.obs.journal import JOURNAL, read_journal
from seed_dist.status.facts import RunReader

_SHOWN, _SHOWN_UNSEEN = 18, 8
_LOG = logging.getLogger("seed_dist")

Measure = Callable[[Bench, dict[str, Any]], RetrievalExamples | None]
PARTS: tuple[tuple[str, Measure], ...] = (
    ("retrieval.chance", parts.retrieval_baselines),
    ("retrieval.clip", parts.retrieval_clip),
    ("retrieval.embedding", parts.retrieval_embedding),
    ("causality", parts.left_to_right),
    ("codebook", parts.code_usage),
    ("images of codes", parts.images_of_codes),
    ("retrieval.codes", parts.retrieval_codes),
    ("reconstruction", parts.rebuilding),
    ("pictures from codes", parts.repainting),
    ("caption", parts.captions),
    ("generation", parts.pictures_from_captions),
)
UNSEEN_PARTS: tuple[tuple[str, Measure], ...] = PARTS[-2:]


def evaluate(workspace: Workspace, split_name: str, asked_codes: Sequence[int] = ()) -> Results:
    """All measurements on one split, and captions and generation on the held-out pairs where there are any. Images are
    shown of `asked_codes`, or of codes that are chosen.
    """
    split = Split(
        workspace, split_name
    )  # without images and captions nothing can be measured: this error is the user's
    bench = Bench(workspace, split, _SHOWN, asked_codes)
    results = Results(examples=bench.examples, codes=bench.shown_codes)
    of_grammar = parse_caption(bench.captions[0]) is not None
    results.numbers = {
        "recipe": workspace.recipe.name,
        "split": split_name,
        "samples": len(split),
        "queries": workspace.recipe.qformer.queries,
        "data": "drawn glyph scenes" if of_grammar else "captioned images",
        UNSEEN_PAIRS: None,
        "eval_seconds": {},
        **dict.fromkeys(("retrieval", "reconstruction", "codebook", "causality", "caption", "generation")),
    }
    _run(PARTS, bench, results, results.numbers)
    if split_name != UNSEEN and workspace.has_split(UNSEEN):
        unseen = Bench(workspace, Split(workspace, UNSEEN), _SHOWN_UNSEEN)
        results.unseen = unseen.examples
        results.numbers[UNSEEN_PAIRS] = numbers = {"n": len(unseen.captions), "caption": None, "generation": None}
        _run(UNSEEN_PARTS, unseen, results, numbers)
    results.numbers["targets"] = judge(results.numbers) if of_grammar else {}
    results.journals = {stage: read_journal(workspace.work / stage / JOURNAL) for stage in STAGES}
    for stage in STAGES:
        with suppress(DataError):  # a stage that was not trained here, only exported
            results.references[stage] = RunReader(workspace.work / stage).facts().reference
    return results


def _run(measures: Sequence[tuple[str, Measure]], bench: Bench, results: Results, numbers: dict[str, Any]) -> None:
    prefix = "" if numbers is results.numbers else f"{UNSEEN_PAIRS}."
    for name, measure in measures:
        started = time.monotonic()
        try:
            results.retrieval = measure(bench, numbers) or results.retrieval
            outcome = ""
        except UnavailableError as error:
            results.gaps.append(Gap(f"{prefix}{name}", error.why, error.command))
            outcome = "  not measured"
        except SeedDistError as error:
            results.failures.append(Gap(f"{prefix}{name}", str(error)))
            outcome = "  FAILED"
        seconds = round(time.monotonic() - started, 2)
        results.numbers["eval_seconds"][f"{prefix}{name}"] = seconds
        _LOG.info("eval  %s: %s  %.1f s%s", bench.split.name, name, seconds, outcome)

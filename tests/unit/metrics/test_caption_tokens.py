"""Tokens of captions beside those of Stanford's program: frozen ones always, the program itself where it is installed.

python -m pip install pycocoevalcap==1.2        (100 MB; Java 8 or later is needed too)
"""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_dist.metrics.caption_tokens import caption_tokens

# A caption and, after a tab, what the program and coco-caption's removal of punctuation leave of it.
FROZEN = Path(__file__).parents[2] / "golden" / "ptb_tokens.tsv"
REMOVED = ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
NEXT_CAPTION = "A dog"


def frozen() -> list[tuple[str, str]]:
    return [(line.split("\t")[0], line.split("\t")[1]) for line in FROZEN.read_text().splitlines()]


def by_java(captions: Sequence[str], folder: Path) -> list[str]:
    """As pycocoevalcap runs it, each caption followed by another, which the program looks at."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations or shutil.which("java") is None:
        pytest.skip("Java or pycocoevalcap is not installed: the program's tokens are compared with frozen ones only")
    text = folder / "captions.txt"
    text.write_text("".join(f"{caption}\n{NEXT_CAPTION}\n" for caption in captions), encoding="utf-8")
    jar = Path(spec.submodule_search_locations[0]) / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    program = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    run = subprocess.run([*program, "-preserveLines", "-lowerCase", str(text)], capture_output=True, check=True)
    lines = run.stdout.decode().split("\n")[: 2 * len(captions) : 2]
    return [" ".join(word for word in line.rstrip().split(" ") if word not in REMOVED) for line in lines]


def test_tokens_are_the_frozen_ones() -> None:
    cases = frozen()
    assert len(cases) > 40
    assert [(caption, caption_tokens(caption)) for caption, _ in cases] == cases


def test_the_program_says_what_is_frozen(tmp_path: Path) -> None:
    cases = frozen()
    assert by_java([caption for caption, _ in cases], tmp_path) == [tokens for _, tokens in cases]


def test_captions_that_nobody_would_write_are_cut_as_by_the_program(tmp_path: Path) -> None:
    """Pieces of the frozen captions and single marks, with and without blanks between them: 998 of 1,000 are equal."""
    chooser = random.Random(7)
    pieces = sorted({piece for caption, _ in frozen() for piece in caption.split()})
    pieces += [*"abcXYZ019.,!?'\"-/()&$%#@:;*+=~^|\\_[]{}<>`’‘“”–—…é½²°€£日", "n't", "'s", "a", "the", "dogs"] * 2
    captions = [
        "".join(chooser.choice(pieces) + " " * chooser.choice([0, 1, 1]) for _ in range(chooser.randint(1, 9))).strip()
        for _ in range(4000)
    ]
    theirs = by_java(captions, tmp_path)
    different = [
        (caption, caption_tokens(caption), tokens)
        for caption, tokens in zip(captions, theirs, strict=True)
        if caption_tokens(caption) != tokens
    ]
    assert len(different) <= 8, different


@given(st.text(max_size=60))
def test_any_text_has_tokens_of_lower_case_without_blanks(caption: str) -> None:
    tokens = caption_tokens(caption)
    assert tokens == tokens.lower()
    assert tokens == "" or all(token and token not in REMOVED for token in tokens.split(" "))
    assert caption_tokens(f"a  {caption}").startswith("a")

"""BLEU, ROUGE-L and CIDEr of 5,000 captions with 5 references each, ours and pycocoevalcap's.

  python -m pip install pycocoevalcap==1.2        (100 MB; its tokenizer needs Java 8 or later)
  python -m benchmarks.caption_metrics

`measures` begin with tokens, `with_tokens` with captions as people write them. Seconds by the clock, and of processor
time, that of Java included. Before timing, results are compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import shutil
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.hardware import keep, load
from benchmarks.rounds import interleaved, medians, times_faster
from seed_dist.metrics.caption_tokens import caption_tokens
from seed_dist.metrics.captions import CaptionPairs, bleu

IMAGES, REFERENCES = 5000, 5
Corpus = tuple[list[str], list[list[str]]]


def corpus() -> Corpus:
    """Sentences with word frequencies like those of language (Zipf's law) and captions' lengths and punctuation."""
    generator = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    words = ["".join(generator.choice(letters, generator.integers(2, 10))) for _ in range(10_000)]
    chances = 1 / np.arange(1, len(words) + 1)
    chances /= chances.sum()

    def sentence() -> str:
        drawn = generator.choice(len(words), generator.integers(7, 15), p=chances)
        return "A " + " ".join(words[word] for word in drawn) + generator.choice([".", "", " ."])

    return [sentence() for _ in range(IMAGES)], [[sentence() for _ in range(REFERENCES)] for _ in range(IMAGES)]


def tokens_of(texts: Corpus) -> Corpus:
    written, references = texts
    return [caption_tokens(text) for text in written], [[caption_tokens(t) for t in own] for own in references]


def ours(tokens: Corpus) -> list[float]:
    pairs = CaptionPairs(*tokens)
    return [*bleu(pairs.bleu_statistics().sum(0)), float(pairs.rouge_l().mean()), float(pairs.cider_d().mean())]


def theirs(tokens: Corpus) -> list[float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    references, written = dict(enumerate(tokens[1])), {image: [text] for image, text in enumerate(tokens[0])}
    measured = [scorer().compute_score(references, written)[0] for scorer in (Rouge, Cider)]
    return [*Bleu(4).compute_score(references, written, verbose=0)[0], *measured]


def their_tokens(texts: Corpus) -> Corpus:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    cut = PTBTokenizer()
    written = cut.tokenize({image: [{"caption": text}] for image, text in enumerate(texts[0])})
    references = cut.tokenize({image: [{"caption": text} for text in own] for image, own in enumerate(texts[1])})
    return [own[0] for own in written.values()], list(references.values())


def timed(arm: Callable[[], object], seconds: list[float]) -> Callable[[], object]:
    """The arm, whose processor time goes to `seconds`."""

    def run() -> object:
        began = _processor_s()
        result = arm()
        seconds.append(_processor_s() - began)
        return result

    return run


def _processor_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if importlib.util.find_spec("pycocoevalcap") is None or shutil.which("java") is None:
        sys.exit("error: pycocoevalcap or Java is not installed; see --help")
    texts = corpus()
    tokens = tokens_of(texts)
    assert their_tokens(texts) == tokens
    np.testing.assert_allclose(ours(tokens), theirs(tokens), rtol=1e-9)
    arms: dict[str, Callable[[], object]] = {
        "measures": lambda: ours(tokens),
        "measures/pycocoevalcap": lambda: theirs(tokens),
        "with_tokens": lambda: ours(tokens_of(texts)),
        "with_tokens/pycocoevalcap": lambda: theirs(their_tokens(texts)),
    }
    processor: dict[str, list[float]] = {name: [] for name in arms}
    load_before = load()
    seconds = interleaved({name: timed(arm, processor[name]) for name, arm in arms.items()}, args.rounds)
    processor = {name: values[1:] for name, values in processor.items()}  # as for the clock: without the first round
    keep(
        "caption_metrics",
        {
            "work": f"{IMAGES} captions, {REFERENCES} references each",
            "load_average_before": load_before,
            "rounds": args.rounds,
            "median_seconds": medians(seconds),
            "median_processor_seconds": medians(processor),
            "ours_against_pycocoevalcap": {
                f"{name}, {clock}": times_faster(values, name, f"{name}/pycocoevalcap")
                for clock, values in (("by the clock", seconds), ("by processor time", processor))
                for name in ("measures", "with_tokens")
            },
        },
        ["numpy"],
    )


if __name__ == "__main__":
    main()

"""Weights become whole numbers of samples, exactly and for ever; what is wrong with a mixture is told at once."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed_dist.config import STAGES, load_recipe
from seed_dist.errors import ConfigError
from seed_dist.fsio import fingerprint
from seed_dist.mixture import CYCLE, DataConfig, WeightedSplit

USUAL = "[{split: cc3m, weight: 0.5}, {split: unsplash, weight: 0.2}, {split: coco, weight: 0.3}]"


def mixture(weights: dict[str, float]) -> DataConfig:
    return DataConfig(tuple(WeightedSplit(split, weight) for split, weight in weights.items()))


def test_known_answers() -> None:
    assert load_recipe("glyphs").data.counts == {"train": CYCLE}
    assert load_recipe("glyphs", [f"data.mixture={USUAL}"]).data.counts == {
        "cc3m": 5000,
        "coco": 3000,
        "unsplash": 2000,
    }
    assert mixture({"a": 1, "b": 1, "c": 1}).counts == {"a": 3334, "b": 3333, "c": 3333}
    assert mixture({"a": 9999, "b": 1}).counts == {"a": 9999, "b": 1}


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=20), st.randoms())
def test_shares_are_off_by_less_than_one_sample_in_a_cycle(weights: list[float], random) -> None:  # type: ignore[no-untyped-def]
    named = {f"set{number}": weight for number, weight in enumerate(weights)}
    total = sum(map(Fraction, weights))
    usable = {split: weight for split, weight in named.items() if Fraction(weight) * CYCLE >= total}
    counts = mixture(usable).counts
    assert sum(counts.values()) == CYCLE
    for split, weight in usable.items():
        assert abs(counts[split] - CYCLE * Fraction(weight) / sum(map(Fraction, usable.values()))) < 1
        assert counts[split] > 0
    shuffled = random.sample(list(usable), len(usable))
    assert list(mixture({split: usable[split] * 4 for split in shuffled}).counts.items()) == list(counts.items())


def test_all_problems_come_at_once() -> None:
    wrong = "[{split: a, weight: 0}, {split: b, weight: -1.5}, {split: b}, {split: val}, {split: c, weight: 1.0e-9},"
    with pytest.raises(ConfigError) as caught:
        load_recipe("glyphs", [f"data.mixture={wrong} {{split: d, weight: .inf}}]", "qformer.width=7"])
    text = str(caught.value)
    for part in ("'b' 2 times", "'val', which the stages are validated on", "weight of 'a' is 0", "of 'b' is -1.5",
                 "of 'd' is inf", "of 'c' is 5e-10 of all, but 0.0001 is the least", "qformer.width 7"):  # fmt: skip
        assert part in text, part
    with pytest.raises(ConfigError, match=r"data\.mixture\.1\.wieght is unknown; known here: split, weight"):
        load_recipe("glyphs", ["data.mixture=[{split: a}, {split: b, wieght: 2}]"])
    with pytest.raises(ConfigError, match=r"data\.mixture is empty"):
        load_recipe("glyphs", ["data.mixture=[]"])


def test_recipes_without_a_mixture_or_remedies_keep_their_fingerprint(tmp_path: Path) -> None:
    """Demos that were begun before there were such go on."""
    plain = load_recipe("glyphs")
    values = plain.as_dict()
    del values["data"]
    for stage in STAGES:
        del values[f"{stage}_training"]["on_collapse"]
    assert plain.fingerprint() == fingerprint(values)
    assert load_recipe("glyphs", ["data.mixture=[{split: train}]"]).fingerprint() == plain.fingerprint()
    changed = load_recipe("glyphs", ["codebook_training.on_collapse=revive"])
    assert changed.codebook_training.on_collapse == ("revive",)
    assert changed.fingerprint() != plain.fingerprint()
    with pytest.raises(ConfigError, match="only the stage codebook has a codebook"):
        load_recipe("glyphs", ["lora_training.on_collapse=[stop]"])
    assert load_recipe("glyphs", [f"data.mixture={USUAL}"]).fingerprint() != plain.fingerprint()

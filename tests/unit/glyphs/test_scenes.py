"""Scenes: drawn from a seed alike everywhere, described by captions that read back, held-out pairs kept apart."""

from __future__ import annotations

import hashlib
import random

import pytest

from seed_dist.glyphs import scenes
from seed_dist.glyphs.scenes import (
    COLOURS,
    GLYPHS,
    JITTERED,
    STILL,
    Jitter,
    draw,
    held_out_pairs,
    neighbour,
    parse_caption,
    sample_scene,
)

# sha256 of the pixels of 64 scenes from seed "test". Changes only with the scenes themselves, and then on purpose.
PIXELS = "929c8e5aeccb814c5093847e5d6d004635a6996b17e46b58f049b890832b9b87"


def test_equal_seeds_give_equal_pixels_on_every_machine() -> None:
    rng = random.Random("test")
    digest = hashlib.sha256()
    for _ in range(64):
        digest.update(draw(sample_scene(rng), rng).tobytes())
    assert digest.hexdigest() == PIXELS


@pytest.mark.parametrize("held_out", [False, True])
def test_captions_read_back_as_their_scene_and_held_out_pairs_stay_apart(held_out: bool) -> None:
    rng = random.Random(0)
    made = [sample_scene(rng, held_out=held_out) for _ in range(2000)]
    assert [parse_caption(scene.caption()) for scene in made] == made
    assert {len(scene.objects) for scene in made} == {1, 2}
    pairs = {thing.pair for scene in made for thing in scene.objects}
    assert (pairs <= held_out_pairs()) if held_out else not (pairs & held_out_pairs())
    assert {glyph for _, glyph in pairs} == set(GLYPHS)
    assert {colour for colour, _ in pairs} == set(COLOURS)


@pytest.mark.parametrize(
    "text", ["", "a red star", "a red star on green", "a star red on white", "a red star beside a blue moon on white"]
)
def test_what_is_not_of_the_grammar_is_no_scene(text: str) -> None:
    assert parse_caption(text) is None


def test_a_neighbour_differs_and_has_no_held_out_pair() -> None:
    rng = random.Random(0)
    for _ in range(500):
        scene = sample_scene(rng)
        other = neighbour(rng, scene)
        assert other != scene
        assert not {thing.pair for thing in other.objects} & held_out_pairs()


@pytest.mark.parametrize("jitter", [JITTERED, STILL])
def test_things_lie_where_their_jitter_says(jitter: Jitter) -> None:
    rng = random.Random(0)
    drawn = [scenes._centres(rng, "left", jitter) for _ in range(600)]
    assert {y for pair in drawn for _, y in pair} == set(jitter.across)
    assert {first[0] for first, _ in drawn} == set(jitter.near)
    assert {second[0] for _, second in drawn} == set(jitter.far)
    above = [scenes._centres(rng, "above", jitter) for _ in range(600)]
    assert {x for pair in above for x, _ in pair} == set(jitter.across)
    assert {xy for (centre,) in (scenes._centres(rng, None, jitter) for _ in range(900)) for xy in centre} == set(
        jitter.single
    )

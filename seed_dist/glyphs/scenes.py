"""What a glyph scene is: sampled from a seed, drawn as 64x64 pixels, described by one caption, read back from it.

A scene is one or two coloured glyphs of the DejaVu Sans font (the file that matplotlib ships) on one of four
backgrounds: "a red star left of a blue moon on white". One (colour, glyph) pair of every glyph is held out: such pairs
never occur in training data or in the training of the frozen backbones, so scenes made of them test composition.

Randomness uses `random.Random.random()` alone, whose sequence for a seed is the same on all versions and machines.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont

T = TypeVar("T")

IMAGE_SIZE_PX = 64
GLYPHS: dict[str, str] = {
    "star": "★", "heart": "♥", "spade": "♠", "club": "♣", "diamond": "♦", "circle": "●", "square": "■", "triangle": "▲",
    "ring": "◯", "cross": "✚", "check": "✔", "arrow": "➜", "moon": "☾", "sun": "☀", "cloud": "☁", "umbrella": "☂",
    "phone": "☎", "anchor": "⚓", "plane": "✈", "envelope": "✉", "note": "♪", "flag": "⚑", "tower": "♜", "horse": "♞",
    "skull": "☠", "peace": "☮", "face": "☻", "flower": "✿", "question": "?", "hand": "☛", "hammer": "⚒", "die": "⚄",
}  # fmt: skip
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 30), "orange": (255, 140, 0), "yellow": (240, 215, 0), "green": (20, 150, 40),
    "cyan": (0, 205, 215), "blue": (30, 60, 230), "purple": (130, 30, 165), "pink": (255, 105, 180),
}  # fmt: skip
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    # Two alternating bands, 4 pixels high each; equal colours make a plain background.
    "white": ((250, 250, 250), (250, 250, 250)), "black": ((12, 12, 12), (12, 12, 12)),
    "grey": ((128, 128, 128), (128, 128, 128)), "stripes": ((240, 240, 240), (188, 188, 188)),
}  # fmt: skip
RELATIONS: dict[str, str] = {"left": "left of", "above": "above"}
WORDS: tuple[str, ...] = ("a", *COLOURS, *GLYPHS, "left", "of", "above", "on", *BACKGROUNDS)

SINGLE_SHARE = 0.2  # share of scenes with one object


@dataclass(frozen=True)
class Jitter:
    """Where the centres of glyphs may lie and how long their longer side may be, all in pixels."""

    near: range  # of two objects, along the axis of their relation: the first
    far: range  # and the second
    across: range  # and both on the other axis
    single: range  # a lone object, on both axes
    size: range


JITTERED = Jitter(range(15, 19), range(46, 50), range(24, 41), range(22, 43), range(22, 29))
STILL = Jitter(range(16, 17), range(48, 49), range(32, 33), range(32, 33), range(26, 27))  # everything in the middle


@dataclass(frozen=True)
class Object:
    """One coloured glyph."""

    colour: str
    glyph: str

    @property
    def pair(self) -> tuple[str, str]:
        return self.colour, self.glyph


@dataclass(frozen=True)
class Scene:
    """What the caption says: one object, or two in a relation, and a background."""

    objects: tuple[Object, ...]
    relation: str | None
    background: str

    def caption(self) -> str:
        phrases = [f"a {o.colour} {o.glyph}" for o in self.objects]
        joint = f" {RELATIONS[self.relation]} " if self.relation else ""
        return f"{joint.join(phrases)} on {self.background}"


@lru_cache(maxsize=1)
def held_out_pairs() -> frozenset[tuple[str, str]]:
    """One colour of each glyph, so that every glyph and every colour is still seen in training."""
    colours = list(COLOURS)
    return frozenset((colours[(3 * i + 1) % len(colours)], glyph) for i, glyph in enumerate(GLYPHS))


def parse_caption(text: str) -> Scene | None:
    """The scene that a caption of this grammar describes, or None where the text is not of the grammar."""
    words = text.strip().split()
    if len(words) < 5 or words[-2] != "on" or words[-1] not in BACKGROUNDS:
        return None
    body, background = words[:-2], words[-1]
    for relation, phrase in RELATIONS.items():
        middle = phrase.split()
        if len(body) == 6 + len(middle) and body[3 : 3 + len(middle)] == middle:
            pair = _parse_object(body[:3]), _parse_object(body[3 + len(middle) :])
            return Scene((pair[0], pair[1]), relation, background) if pair[0] and pair[1] else None
    single = _parse_object(body)
    return Scene((single,), None, background) if single else None


def _parse_object(words: list[str]) -> Object | None:
    if len(words) == 3 and words[0] == "a" and words[1] in COLOURS and words[2] in GLYPHS:
        return Object(words[1], words[2])
    return None


def _pick(rng: random.Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def sample_scene(rng: random.Random, *, held_out: bool = False) -> Scene:
    """A random scene; with `held_out` every object is one of the held-out pairs, otherwise none is."""
    pairs = sorted(held_out_pairs()) if held_out else _seen_pairs()
    background = _pick(rng, list(BACKGROUNDS))
    first = Object(*_pick(rng, pairs))
    if rng.random() < SINGLE_SHARE:
        return Scene((first,), None, background)
    second = Object(*_pick(rng, pairs))
    while second == first:
        second = Object(*_pick(rng, pairs))
    return Scene((first, second), _pick(rng, list(RELATIONS)), background)


@lru_cache(maxsize=1)
def _seen_pairs() -> list[tuple[str, str]]:
    return [(c, g) for c in COLOURS for g in GLYPHS if (c, g) not in held_out_pairs()]


def neighbour(rng: random.Random, scene: Scene) -> Scene:
    """A hard negative: a scene without held-out pairs whose caption differs by one word or by an exchange of words."""
    while True:
        other = _edited(rng, scene)
        if other != scene and not any(thing.pair in held_out_pairs() for thing in other.objects):
            return other


def _edited(rng: random.Random, scene: Scene) -> Scene:
    edits = ["colour", "glyph", "background"] + (["swap", "relation", "exchange"] * 2 if scene.relation else [])
    edit = _pick(rng, edits)
    if edit == "background":
        return replace(scene, background=_pick(rng, [b for b in BACKGROUNDS if b != scene.background]))
    if edit == "relation":
        return replace(scene, relation=_pick(rng, [r for r in RELATIONS if r != scene.relation]))
    if edit == "swap":
        return replace(scene, objects=scene.objects[::-1])
    if edit == "exchange":  # the two colours change places
        a, b = scene.objects
        if a.colour != b.colour:
            return replace(scene, objects=(Object(b.colour, a.glyph), Object(a.colour, b.glyph)))
        edit = "colour"
    i = int(rng.random() * len(scene.objects))
    old = scene.objects[i]
    new = (
        Object(_pick(rng, [c for c in COLOURS if c != old.colour]), old.glyph)
        if edit == "colour"
        else Object(old.colour, _pick(rng, [g for g in GLYPHS if g != old.glyph]))
    )
    return replace(scene, objects=(*scene.objects[:i], new, *scene.objects[i + 1 :]))


@lru_cache(maxsize=1)
def _font_path() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache(maxsize=1024)
def _glyph_mask(glyph: str, size_px: int) -> Image.Image:
    """The glyph's coverage, 8 bit, cropped to its ink, its longer side about `size_px`."""
    probe = ImageFont.truetype(str(_font_path()), 100, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = probe.getbbox(GLYPHS[glyph])
    font_size = max(1, round(100 * size_px / max(right - left, bottom - top)))
    font = ImageFont.truetype(str(_font_path()), font_size, layout_engine=ImageFont.Layout.BASIC)
    box = font.getbbox(GLYPHS[glyph])
    mask = Image.new("L", (math.ceil(box[2] - box[0]), math.ceil(box[3] - box[1])))
    ImageDraw.Draw(mask).text((-box[0], -box[1]), GLYPHS[glyph], font=font, fill=255)
    return mask


@lru_cache(maxsize=len(BACKGROUNDS))
def _background(name: str) -> Image.Image:
    image = Image.new("RGB", (IMAGE_SIZE_PX, IMAGE_SIZE_PX))
    canvas = ImageDraw.Draw(image)
    for row in range(IMAGE_SIZE_PX // 4):
        canvas.rectangle((0, 4 * row, IMAGE_SIZE_PX - 1, 4 * row + 3), fill=BACKGROUNDS[name][row % 2])
    return image


def _centres(rng: random.Random, relation: str | None, jitter: Jitter) -> list[tuple[int, int]]:
    """Object centres in pixels: apart along the relation's axis, jittered."""
    if relation is None:
        return [(_pick(rng, jitter.single), _pick(rng, jitter.single))]
    first, second = _pick(rng, jitter.near), _pick(rng, jitter.far)
    across = _pick(rng, jitter.across), _pick(rng, jitter.across)
    if relation == "left":
        return [(first, across[0]), (second, across[1])]
    return [(across[0], first), (across[1], second)]


def draw(scene: Scene, rng: random.Random, jitter: Jitter = JITTERED) -> Image.Image:
    """The scene as a 64x64 RGB image; sizes and places come from `rng`."""
    image = _background(scene.background).copy()
    for thing, (x, y) in zip(scene.objects, _centres(rng, scene.relation, jitter), strict=True):
        mask = _glyph_mask(thing.glyph, _pick(rng, jitter.size))
        image.paste(COLOURS[thing.colour], (x - mask.width // 2, y - mask.height // 2), mask)
    return image

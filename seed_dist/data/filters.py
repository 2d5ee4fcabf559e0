"""Which pairs a user does not want, though nothing is wrong with them. All off by default; every effect is counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from seed_dist.fsio import fingerprint

# Reasons of pairs and members that are left out on purpose, or never came: they do not count as damage of the source.
DELIBERATE = frozenset(
    {"small_image", "long_image", "short_caption", "long_caption", "low_score", "duplicate_image", "not_downloaded",
     "unknown_member"}
)  # fmt: skip
# Reasons of pairs that may come another time: --update asks for them again.
PASSING = frozenset({"timed_out", "fetch_failed"})
DUPLICATES = ("exact", "perceptual")


class UnusablePairError(ValueError):
    """A pair that cannot or shall not enter a shard: `reason` for counting, the text for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


@dataclass(frozen=True)
class Filters:
    """None = not asked for. Sides are those of the source's picture, as it is seen; aspect is longer / shorter side."""

    min_side_px: int | None = None
    max_aspect: float | None = None
    min_caption_chars: int | None = None
    max_caption_words: int | None = None
    drop_duplicates: str | None = None  # one of DUPLICATES

    def problems(self) -> list[str]:
        """What is wrong with the options, named as on the command line."""
        found = []
        for option in ("min_side_px", "min_caption_chars", "max_caption_words", "max_aspect"):
            value = getattr(self, option)
            if value is not None and not value >= 1:
                found.append(f"--{option.replace('_', '-')} is {value}; at least 1 is needed")
        return found

    @property
    def asked(self) -> dict[str, Any]:
        """Those that are asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def digest(self) -> str:
        return fingerprint(self.asked)

    def check_size(self, size: tuple[int, int]) -> None:
        """UnusablePairError for a picture of (width, height) that is too small or too long."""
        shorter, longer = sorted(size)
        if self.min_side_px is not None and shorter < self.min_side_px:
            raise UnusablePairError("small_image", f"{size[0]} x {size[1]} pixels; --min-side-px {self.min_side_px}")
        if self.max_aspect is not None and longer > self.max_aspect * shorter:
            raise UnusablePairError("long_image", f"{size[0]} x {size[1]} pixels; --max-aspect {self.max_aspect:g}")

    def check_caption(self, caption: str) -> None:
        """UnusablePairError for a caption that is too short or too long."""
        if self.min_caption_chars is not None and len(caption) < self.min_caption_chars:
            limit = f"--min-caption-chars {self.min_caption_chars}"
            raise UnusablePairError("short_caption", f"{len(caption)} characters; {limit}")
        words = len(caption.split())
        if self.max_caption_words is not None and words > self.max_caption_words:
            raise UnusablePairError("long_caption", f"{words} words; --max-caption-words {self.max_caption_words}")
